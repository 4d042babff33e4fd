"""Peers of a real gateway: keys, certificates and stubs, as a node would have them.

Talks gRPC directly, not through the node's own code: what the gateway promises, it
promises to any peer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from waiting import WAIT_S

from cloud.gateway.server import GatewayThread
from cloud.pki.authority import Authority
from cloud.publishing.repository import ReleaseRepository
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc

DEADLINE_S = WAIT_S  # of a call: a guard, no property


@dataclass(frozen=True)
class Stubs:
    """The three services, over one channel."""

    releases: takt_pb2_grpc.ReleaseServiceStub
    fleet: takt_pb2_grpc.FleetServiceStub
    teacher: takt_pb2_grpc.TeacherServiceStub

    def fetch(self, path: str, offset: int = 0) -> list[pb.FetchResponse]:
        """Fetch a file; return its messages."""
        request = pb.FetchRequest(path=path, offset=offset)
        return list(self.releases.Fetch(request, timeout=DEADLINE_S))

    def beat(self) -> None:
        """Make the smallest call there is."""
        self.fleet.Heartbeat(pb.HeartbeatRequest(state="idle"), timeout=DEADLINE_S)


@dataclass(frozen=True)
class Identity:
    """A key and the certificate that belongs to it."""

    key_pem: bytes
    certificate_pem: bytes
    ca_pem: bytes

    def channel(self, address: str, *options: tuple[str, Any]) -> grpc.Channel:
        """Connect to a node port with this certificate, for calls of any form."""
        credentials = grpc.ssl_channel_credentials(
            self.ca_pem, self.key_pem, self.certificate_pem
        )
        return grpc.secure_channel(address, credentials, options)

    @contextmanager
    def open(self, address: str) -> Iterator[Stubs]:
        """Connect to a node port with this certificate."""
        with self.channel(address) as channel:
            yield stubs_of(channel)


def stubs_of(channel: grpc.Channel) -> Stubs:
    """Make the stubs of a channel."""
    return Stubs(
        takt_pb2_grpc.ReleaseServiceStub(channel),
        takt_pb2_grpc.FleetServiceStub(channel),
        takt_pb2_grpc.TeacherServiceStub(channel),
    )


def make_key() -> ec.EllipticCurvePrivateKey:
    """Make a node's key."""
    return ec.generate_private_key(ec.SECP256R1())


def request_for(node: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Make a signing request."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def signed_by(authority: Authority, node: str, *, ca_pem: bytes = b"") -> Identity:
    """Let an authority sign for a node by hand."""
    key = make_key()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate = authority.sign(request_for(node, key), node)
    return Identity(key_pem, certificate, ca_pem or authority.ca_pem())


def member(gateway: GatewayThread, node: str = "sensor") -> Identity:
    """Make a node that the gateway knows."""
    return signed_by(gateway.running.authority, node)


@contextmanager
def enrolment(gateway: GatewayThread) -> Iterator[takt_pb2_grpc.FleetServiceStub]:
    """Connect to the enrolment port, without a certificate."""
    ca_pem = gateway.running.authority.ca_pem()
    credentials = grpc.ssl_channel_credentials(ca_pem)
    with grpc.secure_channel(gateway.enroll_address, credentials) as channel:
        yield takt_pb2_grpc.FleetServiceStub(channel)


def put_file(repository: ReleaseRepository, path: str, data: bytes) -> None:
    """Put a file in a repository's folder, unsigned."""
    place = repository.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def storage_at(folder: Path) -> Path:
    """Make a storage folder."""
    folder.mkdir(parents=True)
    return folder


def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Run a call that must fail; return its code and message."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), str(caught.value.details())
