"""How a gRPC channel to the gateway is set up, and what its failures mean.

The channel's options with their reasons, the client's certificates, and the
translation of a failed call into a domain error. Not here: making calls and
trying again (edge/link/client.py).
"""

from pathlib import Path
from typing import NamedTuple

import grpc

from common.errors import IdentityError, LinkError, TaktError
from edge import credentials
from edge.link.handshake import diagnose

_MAX_MESSAGE_BYTES = 1024 * 1024
_REASONS = (  # of gRPC's details, in words
    ("connection refused", "connection refused: nothing listens there"),
    ("name resolution", "the name cannot be resolved"),
    ("dns", "the name cannot be resolved"),
    ("socket closed", "the connection was closed"),
    ("connection reset", "the connection was reset"),
    ("timed out", "no answer"),
    ("timeout", "no answer"),
    ("deadline", "no answer in time"),
    ("handshake", "the TLS handshake failed"),
    ("is cut", "this node's network is cut, as its profile says"),
)
_FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
}


class MissingFileError(LinkError):
    """The gateway answers, but has no such file."""


class RefusedError(LinkError):
    """The gateway answers, and will not take this call however often it is made."""


class EndedEarlyError(grpc.RpcError):
    """A stream that ended without an error and without all of its bytes."""

    def code(self) -> grpc.StatusCode:
        """Count as a broken connection."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Say what was wrong."""
        return str(self)


class Certificates(NamedTuple):
    """Files of a TLS client; without key and certificate only for enrolment."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def of(cls, folder: Path) -> "Certificates":
        """Name the files of an identity folder."""
        return cls(
            folder / credentials.CA,
            folder / credentials.CERTIFICATE,
            folder / credentials.KEY,
        )


def open_channel(
    address: str, certificates: Certificates, *, stall_s: float
) -> grpc.Channel:
    """Make a channel; nothing is sent before the first call.

    Raises:
        IdentityError: a certificate file cannot be read.
    """
    files = certificates
    try:
        tls = grpc.ssl_channel_credentials(
            root_certificates=files.ca.read_bytes(),
            private_key=files.key.read_bytes() if files.key else None,
            certificate_chain=(
                files.certificate.read_bytes() if files.certificate else None
            ),
        )
    except OSError as e:
        raise IdentityError(
            f"cannot read {e.filename}: {e.strerror}; {credentials.ENROLL_HINT}"
        ) from e
    stall_ms = int(stall_s * 1000)
    return grpc.secure_channel(
        address,
        tls,
        options=[
            ("grpc.http2.bdp_probe", 0),  # a growing window would defeat the cap
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", min(20_000, stall_ms)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),  # 0: no limit
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.enable_retries", 0),  # retries are ours: counted and jittered
            ("grpc.use_local_subchannel_pool", 1),  # reopening starts afresh
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", min(5_000, stall_ms)),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
    )


def translate(error: grpc.RpcError, what: str, address: str) -> TaktError:
    """Turn a failed call's status into the error to raise; never a raw gRPC text.

    Args:
        error: of the call.
        what: was being done, e.g. "fetching metadata/timestamp.json".
        address: of the gateway.
    """
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return MissingFileError(f"{what}: gateway {address} has no such file")
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return IdentityError(
            f"{what}: gateway {address} refused this node: {_shorten(details)}; ask "
            f"its operator (`takt pki list`), or {credentials.ENROLL_HINT}"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return LinkError(
            f"{what}: gateway {address} does not offer this; check that the port is "
            "the gateway's (not the enrolment port) and that both takts are of one age"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return LinkError(
            f"{what}: gateway {address} cannot be reached ({reason(details)}); check "
            "that it runs there (`takt cloud serve`) and `gateway` in edge.toml"
        )
    kind = RefusedError if code in _FINAL else LinkError
    return kind(f"{what}: gateway {address} answered {code.name}: {_shorten(details)}")


def identity_problem(
    error: grpc.RpcError,
    address: str,
    certificates: Certificates,
    *,
    timeout_s: float,
    is_repeated: bool,
) -> IdentityError | None:
    """Look behind an UNAVAILABLE: is it the certificates, or plaintext?"""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    if "refused" in (error.details() or ""):
        return None
    return diagnose(
        address,
        ca_file=certificates.ca,
        certificate_file=certificates.certificate,
        key_file=certificates.key,
        timeout_s=timeout_s,
        is_repeated=is_repeated,
    )


def reason(details: str) -> str:
    """Say gRPC's details in a few words."""
    lowered = details.lower()
    for key, words in _REASONS:
        if key in lowered:
            return words
    return _shorten(details)


def _shorten(details: str) -> str:
    line = " ".join(details.split())
    return line if len(line) <= 160 else line[:157] + "..."
