"""What peers may take by health checks: whose are answered, how many, for how long."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from gateway_site import (
    DEADLINE_S,
    Identity,
    enrolment,
    make_key,
    member,
    request_for,
    status_of,
)
from grpc_health.v1 import health_pb2
from waiting import until

from cloud.gateway.health import CHECK, MAX_CHECK_BYTES
from cloud.gateway.probe import check_gateway
from cloud.gateway.refusals import MAX_CHECKS_OF_ADDRESS
from cloud.gateway.server import GatewayThread
from cloud.pki.allowlist import PROBE
from cloud.pki.authority import Authority
from cloud.storage import StorageDir
from common.errors import ConfigError
from common.pb import takt_pb2 as pb

OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
DENIED = grpc.StatusCode.PERMISSION_DENIED
NUM_CALLS = 128  # of a connection, which has no more


@pytest.fixture
def gateway(storage: StorageDir) -> Iterator[GatewayThread]:
    with GatewayThread(storage=storage) as gateway:
        yield gateway


@pytest.fixture
def patient(
    storage: StorageDir, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GatewayThread]:
    """Start a gateway at which no silent health check ends by itself during a test."""
    monkeypatch.setattr("cloud.gateway.interceptor.CHECK_MESSAGE_S", DEADLINE_S)
    with GatewayThread(storage=storage, first_message_s=DEADLINE_S) as gateway:
        yield gateway


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Let calls be open that send nothing, until the test has ended."""
    never = threading.Event()
    yield never
    never.set()


def anybody(gateway: GatewayThread) -> grpc.Channel:
    """Connect to the enrolment port, by a connection that no other channel shares."""
    ca_pem = gateway.running.authority.ca_pem()
    credentials = grpc.ssl_channel_credentials(ca_pem)
    return grpc.secure_channel(gateway.enroll_address, credentials, (OWN_CONNECTION,))


def prober(gateway: GatewayThread) -> grpc.Channel:
    """Connect to the node port as `takt cloud check` does."""
    made = gateway.running.authority.probe_credentials()
    identity = Identity(made.key, made.certificate, made.ca)
    return identity.channel(gateway.address, OWN_CONNECTION)


def silent_checks(channel: grpc.Channel, never: threading.Event, num: int) -> list[Any]:
    """Open health checks that send no message."""
    call: Any = channel.stream_unary(CHECK)
    return [call.future(iter(never.wait, True)) for _ in range(num)]


def codes(calls: list[Any]) -> Counter[grpc.StatusCode]:
    """Count the statuses of the calls that have ended."""
    return Counter(call.code() for call in calls if call.done())


def test_health_checks_that_send_nothing_take_no_place_of_enrolling_nodes(
    patient: GatewayThread, never: threading.Event
) -> None:
    """Two connections had all 256 calls of the port."""
    token = patient.running.authority.allow("sensor")
    with anybody(patient) as one, anybody(patient) as other:
        calls = silent_checks(one, never, NUM_CALLS)
        calls += silent_checks(other, never, NUM_CALLS)
        until(
            "what is too much has been refused",
            lambda: sum(codes(calls).values()) >= len(calls) - MAX_CHECKS_OF_ADDRESS,
        )
        assert codes(calls) == {EXHAUSTED: len(calls) - MAX_CHECKS_OF_ADDRESS}
        with enrolment(patient) as stub:
            request = pb.EnrollRequest(
                node="sensor", token=token, csr_pem=request_for("sensor", make_key())
            )
            assert stub.Enroll(request, timeout=DEADLINE_S).certificate_pem


def test_the_health_checks_of_an_address_are_bounded_at_the_node_port_too(
    patient: GatewayThread, never: threading.Event
) -> None:
    with prober(patient) as channel:
        calls = silent_checks(channel, never, NUM_CALLS)
        until(
            "what is too much has been refused",
            lambda: sum(codes(calls).values()) >= len(calls) - MAX_CHECKS_OF_ADDRESS,
        )
        assert codes(calls) == {EXHAUSTED: len(calls) - MAX_CHECKS_OF_ADDRESS}


def test_the_gateway_is_checked_again_once_silent_health_checks_have_ended(
    gateway: GatewayThread, storage: StorageDir, never: threading.Event
) -> None:
    with anybody(gateway) as one, prober(gateway) as other:
        calls = silent_checks(one, never, 2 * MAX_CHECKS_OF_ADDRESS)
        calls += silent_checks(other, never, 2 * MAX_CHECKS_OF_ADDRESS)
        until("they have ended", lambda: all(call.done() for call in calls))
    assert check_gateway(storage) == gateway.address


@pytest.mark.parametrize("connect", [anybody, prober])
def test_a_health_check_that_sends_nothing_is_soon_over(
    gateway: GatewayThread, never: threading.Event, connect: Any
) -> None:
    """Other calls have 30 s, for messages that are large."""
    with connect(gateway) as channel:
        call: Any = channel.stream_unary(CHECK)
        code, message = status_of(
            lambda: call(iter(never.wait, True), timeout=DEADLINE_S)
        )
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert message == "no message within 2 s, expected one"


def test_a_revoked_node_is_answered_no_health_check(
    gateway: GatewayThread, never: threading.Event
) -> None:
    identity = member(gateway)
    gateway.running.authority.revoke("sensor")
    with identity.channel(gateway.address) as channel:
        call: Any = channel.stream_unary(CHECK)
        code, message = status_of(
            lambda: call(iter(never.wait, True), timeout=DEADLINE_S)
        )
    assert code is DENIED
    assert "'sensor' is revoked" in message


@pytest.mark.parametrize("connect", [anybody, prober])
def test_a_long_health_check_is_refused_before_it_is_parsed(
    gateway: GatewayThread, connect: Any
) -> None:
    long = health_pb2.HealthCheckRequest(service="x" * MAX_CHECK_BYTES)
    data = long.SerializeToString()
    with connect(gateway) as channel, contextlib.closing(channel):
        call: Any = channel.unary_unary(CHECK)
        code, message = status_of(lambda: call(data, timeout=DEADLINE_S))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == (
        f"message has {len(data)} bytes, expected at most {MAX_CHECK_BYTES}"
    )


def test_no_node_gets_the_name_under_which_the_gateway_is_checked(
    storage: StorageDir,
) -> None:
    """It would be let in past the allow-list."""
    authority = Authority(storage.pki)
    authority.init()
    with pytest.raises(ConfigError, match=r"'takt-cloud-check'.*choose another"):
        authority.allow(PROBE)
    with pytest.raises(ConfigError, match="choose another"):
        authority.sign(request_for(PROBE, make_key()), PROBE)
