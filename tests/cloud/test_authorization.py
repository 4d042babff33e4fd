"""Who may call the gateway: certificates, the allow-list, quotas."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from chaos_proxy import ChaosProxy
from gateway_site import (
    DEADLINE_S,
    Identity,
    enrolment,
    make_key,
    member,
    request_for,
    signed_by,
    stubs_of,
)
from waiting import until

from cloud.gateway.peers import source_of
from cloud.gateway.refusals import MAX_OF_ADDRESS, MAX_OF_ALL
from cloud.gateway.server import GatewayThread
from cloud.pki.authority import Authority, Lifetimes
from cloud.storage import StorageDir
from common.config import GatewayConfig
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc

DENIED = grpc.StatusCode.PERMISSION_DENIED
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)


class Clock:
    """The real time, and what a test adds to it."""

    def __init__(self) -> None:
        """Start with the real time."""
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(tmp_path: Path, clock: Clock) -> Iterator[GatewayThread]:
    with GatewayThread(
        storage=StorageDir(tmp_path),
        config=GatewayConfig(max_streams_per_node=3),
        channel="digits",
        clock=clock,
    ) as gateway:
        yield gateway


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "other")
    authority.init()
    return authority


@contextlib.contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """Expect a status, and words in its message."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() is code, caught.value
    for word in words:
        assert word in str(caught.value.details())


def test_an_enrolled_node_may_call(gateway: GatewayThread) -> None:
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()
    assert [row.node for row in gateway.running.fleet.nodes()] == ["sensor"]


def test_an_unknown_node_is_named_with_the_fix(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    identity = member(gateway)
    (tmp_path / "pki" / "allow.json").unlink()
    with (
        identity.open(gateway.address) as stubs,
        refused(DENIED, "'sensor'", "takt pki allow sensor"),
    ):
        stubs.beat()


def test_a_certificate_of_another_authority_does_not_get_through_tls(
    gateway: GatewayThread, other: Authority
) -> None:
    identity = signed_by(other, "sensor", ca_pem=gateway.running.authority.ca_pem())
    with (
        identity.open(gateway.address) as stubs,
        refused(grpc.StatusCode.UNAVAILABLE),
    ):
        stubs.beat()


def test_a_forged_certificate_of_a_known_node_does_not_help(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    """The authority's own key signs, but past the allow-list."""
    real = member(gateway)
    copy = Authority(tmp_path / "copy")
    copy.folder.mkdir()
    for name in ("ca.key", "ca.crt"):
        (copy.folder / name).write_bytes((tmp_path / "pki" / name).read_bytes())
    forged = signed_by(copy, "sensor")
    with forged.open(gateway.address) as stubs, refused(DENIED, "issued to it later"):
        stubs.beat()
    with real.open(gateway.address) as stubs:
        stubs.beat()


def test_the_gateways_own_certificate_makes_no_node(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    pki = tmp_path / "pki"
    identity = Identity(
        (pki / "server.key").read_bytes(),
        (pki / "server.crt").read_bytes(),
        (pki / "ca.crt").read_bytes(),
    )
    with (
        identity.open(gateway.address) as stubs,
        pytest.raises(grpc.RpcError),
    ):
        stubs.beat()


def test_no_certificate_does_not_get_through_tls(gateway: GatewayThread) -> None:
    ca_pem = gateway.running.authority.ca_pem()
    credentials = grpc.ssl_channel_credentials(ca_pem)
    with (
        grpc.secure_channel(gateway.address, credentials) as channel,
        refused(grpc.StatusCode.UNAVAILABLE),
    ):
        stubs_of(channel).beat()


def test_a_node_does_not_talk_to_a_gateway_of_another_authority(
    gateway: GatewayThread, other: Authority
) -> None:
    identity = replace(member(gateway), ca_pem=other.ca_pem())
    with (
        identity.open(gateway.address) as stubs,
        refused(grpc.StatusCode.UNAVAILABLE),
    ):
        stubs.beat()


def test_an_expired_certificate_does_not_get_through_tls(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    past = Authority(
        tmp_path / "pki",
        clock=lambda: datetime.now(UTC) - timedelta(hours=3),
        lifetimes=Lifetimes(node=timedelta(hours=1)),
    )
    with (
        signed_by(past, "sensor").open(gateway.address) as stubs,
        refused(grpc.StatusCode.UNAVAILABLE),
    ):
        stubs.beat()


def test_a_certificate_that_runs_out_ends_the_open_stream(
    gateway: GatewayThread, clock: Clock
) -> None:
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()
        news = stubs.releases.Watch(
            pb.WatchRequest(channel="digits"), timeout=DEADLINE_S
        )
        clock.ahead = timedelta(days=400)
        with refused(DENIED, "is valid from", "takt pki allow sensor"):
            next(iter(news))


def test_a_certificate_is_not_admitted_before_its_time_because_it_once_was(
    gateway: GatewayThread, clock: Clock
) -> None:
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()
        clock.ahead = timedelta(days=-2)
        with refused(DENIED, "is valid from"):
            stubs.beat()


def test_plaintext_to_the_node_port_fails_and_leaves_it_serving(
    gateway: GatewayThread,
) -> None:
    with (
        grpc.insecure_channel(gateway.address) as channel,
        refused(grpc.StatusCode.UNAVAILABLE),
    ):
        stubs_of(channel).beat()
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 4096, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64]
)
def test_garbage_on_either_port_leaves_both_serving(
    gateway: GatewayThread, data: bytes
) -> None:
    for address in (gateway.address, gateway.enroll_address):
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=DEADLINE_S) as peer,
            contextlib.suppress(OSError),
        ):
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()
    with enrolment(gateway) as stub, refused(DENIED):
        stub.Enroll(pb.EnrollRequest(node="sensor", token="x"), timeout=DEADLINE_S)


def test_a_revoked_nodes_open_watch_ends(
    gateway: GatewayThread,
) -> None:
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()
        news = stubs.releases.Watch(
            pb.WatchRequest(channel="digits"), timeout=DEADLINE_S
        )
        gateway.running.authority.revoke("sensor")
        with refused(DENIED, "'sensor' is revoked"):
            next(iter(news))


def test_a_revoked_nodes_stalled_download_ends(
    gateway: GatewayThread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream is stopped by flow control, in the middle of a write."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "repository" / "targets" / "large"
    path.write_bytes(bytes(32 * 1024 * 1024))
    with member(gateway).open(gateway.address) as stubs:
        messages = stubs.releases.Fetch(
            pb.FetchRequest(path="targets/large"), timeout=DEADLINE_S
        )
        next(iter(messages))
        gateway.running.authority.revoke("sensor")
        received = 0
        with refused(DENIED, "'sensor' is revoked"):
            # The peer reads nothing until the gateway has ended the call.
            until("its end", lambda: "'sensor' is revoked" in caplog.text)
            for message in messages:
                received += len(message.data)
        assert received < 16 * 1024 * 1024


def test_a_revoked_node_may_not_call_again(gateway: GatewayThread) -> None:
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()
        gateway.running.authority.revoke("sensor")
        with refused(DENIED, "'sensor' is revoked"):
            stubs.beat()


def test_the_older_of_two_daemons_with_one_name_is_refused(
    gateway: GatewayThread,
) -> None:
    older, newer = member(gateway), member(gateway)
    with newer.open(gateway.address) as stubs:
        stubs.beat()
    with older.open(gateway.address) as stubs, refused(DENIED, "two nodes share"):
        stubs.beat()


def test_a_node_has_a_bounded_number_of_calls_open(gateway: GatewayThread) -> None:
    limit = grpc.StatusCode.RESOURCE_EXHAUSTED
    # A version that the gateway does not have: a first notice comes at once.
    request = pb.WatchRequest(channel="digits", known_version=1)
    with (
        member(gateway).open(gateway.address) as stubs,
        member(gateway, "camera").open(gateway.address) as others,
    ):
        watches = [stubs.releases.Watch(request, timeout=DEADLINE_S) for _ in range(3)]
        for watch in watches:
            assert next(iter(watch)).version == 0
        with refused(limit, "'sensor' has 3 calls open"):
            stubs.beat()
        others.beat()
        watches[0].cancel()

        def is_let_in() -> bool:
            try:
                stubs.beat()
            except grpc.RpcError as e:
                assert e.code() is limit
                return False
            return True

        until("the gateway has seen it go", is_let_in)


def test_enrolment_gives_what_a_node_needs(gateway: GatewayThread) -> None:
    token = gateway.running.authority.allow("sensor")
    request = request_for("sensor", make_key())
    with enrolment(gateway) as stub:
        answer = stub.Enroll(
            pb.EnrollRequest(node="sensor", token=token, csr_pem=request),
            timeout=DEADLINE_S,
        )
    assert gateway.running.authority.check(answer.certificate_pem) == "sensor"
    assert answer.ca_pem == gateway.running.authority.ca_pem()
    assert answer.root_json == gateway.running.repository.root_json()
    assert answer.channel == "digits"


def enroll(gateway: GatewayThread, token: str, csr_pem: bytes) -> bytes:
    """Enrol the node `sensor`; return its certificate."""
    request = pb.EnrollRequest(node="sensor", token=token, csr_pem=csr_pem)
    with enrolment(gateway) as stub:
        return stub.Enroll(request, timeout=DEADLINE_S).certificate_pem


@contextlib.contextmanager
def peer_at(
    gateway: GatewayThread, host: str
) -> Iterator[Callable[[str, bytes], object]]:
    """Enrol the node `sensor` from an address, through a tunnel that begins there."""
    with ChaosProxy(gateway.enroll_address, source=host) as tunnel:
        credentials = grpc.ssl_channel_credentials(gateway.running.authority.ca_pem())
        with grpc.secure_channel(tunnel.address, credentials) as channel:
            stub = takt_pb2_grpc.FleetServiceStub(channel)
            yield lambda token, csr_pem: stub.Enroll(
                pb.EnrollRequest(node="sensor", token=token, csr_pem=csr_pem),
                timeout=DEADLINE_S,
            )


def test_a_wrong_or_used_token_is_denied(gateway: GatewayThread) -> None:
    token = gateway.running.authority.allow("sensor")
    with refused(DENIED, "wrong or was used already", "takt pki allow sensor"):
        enroll(gateway, "wrong", request_for("sensor", make_key()))
    enroll(gateway, token, request_for("sensor", make_key()))
    with refused(DENIED, "wrong or was used already"):
        enroll(gateway, token, request_for("sensor", make_key()))


def test_a_lost_answer_to_an_enrolment_is_given_again(
    gateway: GatewayThread, clock: Clock, tmp_path: Path
) -> None:
    """Another process may serve the second try: the storage knows of the first."""
    token, key = gateway.running.authority.allow("sensor"), make_key()
    lost = enroll(gateway, token, request_for("sensor", key))
    clock.ahead += timedelta(minutes=9)
    assert enroll(gateway, token, request_for("sensor", key)) == lost
    after_a_restart = Authority(tmp_path / "pki", clock=clock)
    again = after_a_restart.enroll("sensor", token, request_for("sensor", key))
    assert again == lost
    assert gateway.running.authority.check(lost) == "sensor"


def test_a_lost_answer_is_given_to_its_key_alone(gateway: GatewayThread) -> None:
    token, key = gateway.running.authority.allow("sensor"), make_key()
    first = enroll(gateway, token, request_for("sensor", key))
    with refused(DENIED, "wrong or was used already"):
        enroll(gateway, token, request_for("sensor", make_key()))
    assert gateway.running.authority.check(first) == "sensor"


def test_a_lost_answer_is_void_after_ten_minutes(
    gateway: GatewayThread, clock: Clock
) -> None:
    token, key = gateway.running.authority.allow("sensor"), make_key()
    enroll(gateway, token, request_for("sensor", key))
    clock.ahead += timedelta(minutes=11)
    with refused(DENIED, "wrong or was used already"):
        enroll(gateway, token, request_for("sensor", key))


@pytest.mark.parametrize("is_revoked", [True, False])
def test_a_lost_answer_is_void_once_the_operator_decides_anew(
    gateway: GatewayThread, is_revoked: bool
) -> None:
    authority, key = gateway.running.authority, make_key()
    token = authority.allow("sensor")
    enroll(gateway, token, request_for("sensor", key))
    if is_revoked:
        authority.revoke("sensor")
    else:
        authority.allow("sensor")
    with refused(DENIED, "wrong or was used already"):
        enroll(gateway, token, request_for("sensor", key))


def test_many_refused_enrolments_of_an_address_are_refused_for_a_minute(
    gateway: GatewayThread, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    token = gateway.running.authority.allow("sensor")
    request = request_for("sensor", make_key())
    caplog.set_level(logging.INFO)
    for _ in range(MAX_OF_ADDRESS):
        with refused(DENIED, "wrong or was used already"):
            enroll(gateway, "wrong", request)
    for _ in range(3):
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "try again in a minute"):
            enroll(gateway, token, request)
    told = [r for r in caplog.records if "Enroll" in r.getMessage()]
    assert len(told) == MAX_OF_ADDRESS
    assert caplog.text.count("further ones are not answered") == 1
    clock.ahead += timedelta(seconds=61)
    enroll(gateway, token, request)


def test_refused_enrolments_of_many_addresses_are_bounded_in_all(
    gateway: GatewayThread, clock: Clock
) -> None:
    """Every address of 127.0.0.0/8 is this machine's; a peer may call from any."""
    request = request_for("sensor", make_key())
    num_hosts = MAX_OF_ALL // MAX_OF_ADDRESS
    for i in range(num_hosts):
        with peer_at(gateway, f"127.0.0.{i + 2}") as call:
            for _ in range(MAX_OF_ADDRESS):
                with refused(DENIED):
                    call("wrong", request)
    with peer_at(gateway, f"127.0.0.{num_hosts + 2}") as call:
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_OF_ALL} in all"):
            call("wrong", request)
        clock.ahead += timedelta(seconds=61)
        with refused(DENIED):
            call("wrong", request)


def test_a_node_of_another_address_enrols_beside_a_refused_one(
    gateway: GatewayThread,
) -> None:
    token = gateway.running.authority.allow("sensor")
    request = request_for("sensor", make_key())
    with peer_at(gateway, "127.0.0.2") as call:
        for _ in range(MAX_OF_ADDRESS):
            with refused(DENIED):
                call("wrong", request)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
            call(token, request)
    enroll(gateway, token, request)


def test_calls_of_one_address_that_send_nothing_leave_room_for_others(
    gateway: GatewayThread,
) -> None:
    token = gateway.running.authority.allow("sensor")
    credentials = grpc.ssl_channel_credentials(gateway.running.authority.ca_pem())
    never = threading.Event()
    with contextlib.ExitStack() as opened:
        opened.callback(never.set)
        calls = []
        for _ in range(3):  # a connection has at most 128
            tunnel = ChaosProxy(gateway.enroll_address, source="127.0.0.2")
            address = opened.enter_context(tunnel).address
            channel = opened.enter_context(grpc.secure_channel(address, credentials))
            call: Any = channel.stream_unary("/takt.v1.FleetService/Enroll")
            calls += [call.future(iter(never.wait, True)) for _ in range(86)]
        until(
            "the gateway has refused what is too much",
            lambda: sum(each.done() for each in calls) >= len(calls) - 64,
        )
        enroll(gateway, token, request_for("sensor", make_key()))
        open_calls = [each for each in calls if not each.done()]
        assert len(open_calls) <= 64


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("ipv4:192.0.2.7:50000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:50000", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:192.0.2.7]:50000", "192.0.2.7"),
        ("ipv6:[fe80::1%25eth0]:50000", "fe80::/64"),
    ],
)
def test_a_peer_is_known_by_what_one_subscriber_has(peer: str, source: str) -> None:
    assert source_of(peer) == source


def test_a_bad_signing_request_is_an_invalid_argument(gateway: GatewayThread) -> None:
    token = gateway.running.authority.allow("sensor")
    with (
        enrolment(gateway) as stub,
        refused(grpc.StatusCode.INVALID_ARGUMENT, "not a PEM signing request"),
    ):
        stub.Enroll(
            pb.EnrollRequest(node="sensor", token=token, csr_pem=b"x"),
            timeout=DEADLINE_S,
        )


def test_the_enrolment_port_serves_nothing_else(gateway: GatewayThread) -> None:
    credentials = grpc.ssl_channel_credentials(gateway.running.authority.ca_pem())
    with grpc.secure_channel(gateway.enroll_address, credentials) as channel:
        stubs = stubs_of(channel)
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            stubs.beat()
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            stubs.fetch("metadata/timestamp.json")


def test_the_node_port_enrols_nobody(gateway: GatewayThread) -> None:
    with (
        member(gateway).open(gateway.address) as stubs,
        refused(grpc.StatusCode.UNIMPLEMENTED, "enrolment address"),
    ):
        stubs.fleet.Enroll(pb.EnrollRequest(node="sensor"), timeout=DEADLINE_S)


def test_a_node_that_was_allowed_meanwhile_may_call_without_a_restart(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()
    identity = signed_by(Authority(tmp_path / "pki"), "camera")
    with identity.open(gateway.address) as stubs:
        stubs.beat()


def test_a_revoked_node_is_refused_before_it_sends_a_message(
    gateway: GatewayThread,
) -> None:
    """A call that waits for its message held a place that honest nodes need."""
    identity = member(gateway)
    gateway.running.authority.revoke("sensor")
    never = threading.Event()
    with identity.channel(gateway.address) as channel:
        call: Any = channel.stream_unary("/takt.v1.FleetService/Heartbeat")
        with refused(DENIED, "'sensor' is revoked"):
            call(iter(never.wait, True), timeout=DEADLINE_S)
        never.set()


def test_empty_calls_of_a_revoked_node_take_no_place_from_honest_ones(
    gateway: GatewayThread,
) -> None:
    """Calls that send nothing, on many connections."""
    honest, thief = member(gateway, "honest"), member(gateway, "thief")
    gateway.running.authority.revoke("thief")
    never = threading.Event()
    with contextlib.ExitStack() as opened:
        opened.callback(never.set)
        calls: list[Any] = []
        stubs = opened.enter_context(honest.open(gateway.address))
        for _ in range(6):
            connection = thief.channel(gateway.address, OWN_CONNECTION)
            channel = opened.enter_context(connection)
            call: Any = channel.stream_unary("/takt.v1.FleetService/Heartbeat")
            calls += [call.future(iter(never.wait, True)) for _ in range(64)]
            stubs.beat()
        until("all are refused", lambda: all(each.done() for each in calls))
        assert {each.code() for each in calls} == {DENIED}
        stubs.beat()


def test_a_call_that_never_sends_its_message_ends(tmp_path: Path) -> None:
    never = threading.Event()
    with GatewayThread(storage=StorageDir(tmp_path), first_message_s=0.2) as gateway:
        ca_pem = gateway.running.authority.ca_pem()
        credentials = grpc.ssl_channel_credentials(ca_pem)
        with (
            member(gateway).channel(gateway.address) as node,
            grpc.secure_channel(gateway.enroll_address, credentials) as enrolling,
        ):
            for channel, method in ((node, "Heartbeat"), (enrolling, "Enroll")):
                call: Any = channel.stream_unary(f"/takt.v1.FleetService/{method}")
                with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "within 0.2 s"):
                    call(iter(never.wait, True), timeout=DEADLINE_S)
            never.set()
