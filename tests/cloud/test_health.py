"""The gateway's health by grpc.health.v1: who may ask, and what is answered when."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from gateway_site import DEADLINE_S, Identity, member, signed_by
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import until

from cloud.gateway.probe import check_gateway
from cloud.gateway.server import GatewayThread
from cloud.pki.authority import Authority
from cloud.storage import StorageDir
from common.errors import LinkError, StorageError
from common.pb import takt_pb2 as pb

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LARGE = 32 * 1024 * 1024  # more than flow control lets a gateway send unread


@pytest.fixture
def gateway(storage: StorageDir) -> Iterator[GatewayThread]:
    with GatewayThread(storage=storage) as gateway:
        yield gateway


@contextmanager
def health_of(
    address: str, ca_pem: bytes, identity: Identity | None = None
) -> Iterator[health_pb2_grpc.HealthStub]:
    """Connect to the health service of a port, with or without a certificate."""
    key = identity.key_pem if identity else None
    certificate = identity.certificate_pem if identity else None
    credentials = grpc.ssl_channel_credentials(ca_pem, key, certificate)
    with grpc.secure_channel(address, credentials) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def status_of(stub: health_pb2_grpc.HealthStub, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int(stub.Check(request, timeout=DEADLINE_S).status)


@pytest.mark.parametrize("service", ["", "takt.v1.ReleaseService"])
def test_a_probe_without_a_certificate_is_answered_at_the_enrolment_port(
    gateway: GatewayThread, service: str
) -> None:
    ca_pem = gateway.running.authority.ca_pem()
    with health_of(gateway.enroll_address, ca_pem) as stub:
        assert status_of(stub, service) == SERVING


@pytest.mark.parametrize("service", ["takt.v1.TeacherService", "takt.v1.Unknown"])
def test_a_service_that_is_not_served_has_no_status(
    gateway: GatewayThread, service: str
) -> None:
    ca_pem = gateway.running.authority.ca_pem()
    with (
        health_of(gateway.enroll_address, ca_pem) as stub,
        pytest.raises(grpc.RpcError) as caught,
    ):
        status_of(stub, service)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_node_may_ask_at_the_node_port_while_it_is_on_the_allow_list(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    identity = member(gateway)
    with health_of(gateway.address, identity.ca_pem, identity) as stub:
        assert status_of(stub) == SERVING
        (storage.pki / "allow.json").unlink()
        until("the gateway's look at the list", lambda: not is_answered(stub))


def is_answered(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        status_of(stub)
    except grpc.RpcError as e:
        assert e.code() is grpc.StatusCode.PERMISSION_DENIED
        return False
    return True


def test_the_node_port_answers_no_probe_without_a_certificate_of_the_project(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    other.init()
    ca_pem = gateway.running.authority.ca_pem()
    for identity in (None, signed_by(other, "sensor")):
        with (
            health_of(gateway.address, ca_pem, identity) as stub,
            pytest.raises(grpc.RpcError) as caught,
        ):
            status_of(stub)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_nobody_occupies_a_place_by_watching_the_health(gateway: GatewayThread) -> None:
    ca_pem = gateway.running.authority.ca_pem()
    with health_of(gateway.enroll_address, ca_pem) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(watch))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_draining_gateway_answers_not_serving(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    (storage.repository / "targets" / "large").write_bytes(bytes(LARGE))
    identity = member(gateway)
    with (
        identity.open(gateway.address) as stubs,
        health_of(gateway.enroll_address, identity.ca_pem) as stub,
    ):
        # A download that nobody reads delays the end of the gateway.
        request = pb.FetchRequest(path="targets/large")
        download = stubs.releases.Fetch(request, timeout=DEADLINE_S)
        next(iter(download))
        assert status_of(stub) == SERVING
        stopping = threading.Thread(target=gateway.stop, args=(DEADLINE_S,))
        stopping.start()
        until("its word of it", lambda: status_of(stub) == NOT_SERVING)
        assert status_of(stub, "takt.v1.ReleaseService") == NOT_SERVING
        with pytest.raises(LinkError, match="NOT_SERVING, expected SERVING"):
            check_gateway(storage)
        download.cancel()
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()


def test_the_check_of_a_gateway_names_what_answers(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    assert check_gateway(storage) == gateway.address


def test_the_check_of_a_node_port_is_a_call_that_is_answered(
    gateway: GatewayThread, storage: StorageDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that shakes hands and answers no call is not taken for a gateway."""
    authority = gateway.running.authority
    served = authority.server_credentials()
    mute = grpc.server(ThreadPoolExecutor(1))  # without any service
    port = mute.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(served.key, served.certificate)], served.ca, True
        ),
    )
    mute.start()
    try:
        tree = json.loads(storage.addresses.read_bytes())
        tree["port"] = port
        storage.addresses.write_text(json.dumps(tree))
        with pytest.raises(LinkError, match=f"{port} does not answer: UNIMPLEMENTED"):
            check_gateway(storage)
    finally:
        mute.stop(0)


def test_the_certificate_of_a_check_is_let_in_for_nothing_else(
    gateway: GatewayThread,
) -> None:
    made = gateway.running.authority.probe_credentials()
    identity = Identity(made.key, made.certificate, made.ca)
    with health_of(gateway.address, identity.ca_pem, identity) as stub:
        assert status_of(stub) == SERVING
    with identity.open(gateway.address) as stubs, pytest.raises(grpc.RpcError) as e:
        stubs.beat()
    assert e.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_check_does_not_trust_another_authority(
    gateway: GatewayThread, storage: StorageDir, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    other.init()
    for name in ("ca.crt", "ca.key"):
        (storage.pki / name).write_bytes((other.folder / name).read_bytes())
    with pytest.raises(LinkError, match="does not answer"):
        check_gateway(storage)


def test_the_check_names_the_file_it_cannot_read(
    gateway: GatewayThread, storage: StorageDir
) -> None:
    storage.ca.unlink()
    with pytest.raises(StorageError, match=r"cannot read .*ca\.crt"):
        check_gateway(storage)
