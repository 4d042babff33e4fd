"""The node's link: its caps hold, and no network fault loses or repeats bytes."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from chaos_proxy import ChaosProxy, Faults
from clocks import ClockOfWaits
from edge_site import EdgeSite, connection_of, edge_site
from hypothesis import given
from hypothesis import strategies as st
from waiting import WAIT_S, until

from common.config import CutConfig, ProfileConfig
from common.errors import IdentityError, Interrupted, LinkError, TrustError
from common.pb import takt_pb2
from edge.config import EdgeConfig
from edge.credentials import Certificates
from edge.link.client import Link
from edge.link.failures import MissingFileError
from edge.link.retry import Retry, full_jitter
from edge.link.stall import StallGuard
from edge.link.throttle import TokenBucket


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def shard(site: EdgeSite) -> tuple[str, bytes]:
    """Publish a release; its largest shard, as the gateway names it."""
    manifest = site.publish_noise()
    info = max(manifest.shards, key=lambda s: s.num_bytes)
    folder, _, name = info.path.rpartition("/")
    path = f"targets/{folder}/{info.sha256}.{name}"
    return path, (site.repository.root / path).read_bytes()


@pytest.fixture(scope="module")
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


def linked(node: EdgeConfig, address: str | None = None, **changes: Any) -> Link:
    """Open a link by which a file of these tests comes in several messages."""
    defaults = {"profile": None, "rng": random.Random(0)}
    arguments = {**defaults, **changes, "address": address or node.gateway}
    connection = connection_of(node, **arguments)
    connection.message_bytes = 64 * 1024
    return Link(connection)


def test_what_is_pulled_is_paid_for_at_the_bandwidth_of_the_profile(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    profile = ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=128)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    link = linked(node, profile=profile, clock=lambda: now, sleep=sleep)
    with contextlib.closing(link):
        assert b"".join(link.fetch(path, max_bytes=len(data))) == data
    assert len(data) / 1024 / now == pytest.approx(128, rel=0.1)


@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=50))
def test_a_bucket_never_lets_more_pass_than_rate_and_burst(sizes: list[int]) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    bucket = TokenBucket(1000.0, burst_bytes=100.0, clock=lambda: now, sleep=sleep)
    for size in sizes:
        bucket.pay(size)
    assert sum(sizes) <= 1000 * now + 100 + 1e-3
    assert sum(sizes) >= 1000 * now - 1e-3  # and it sleeps no longer than it must


def test_the_delay_is_added_to_each_call(node: EdgeConfig) -> None:
    profile = ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=9999, delay_ms=70)
    slept: list[float] = []
    with contextlib.closing(linked(node, profile=profile, sleep=slept.append)) as link:
        for _ in range(3):
            list(link.fetch("metadata/timestamp.json", max_bytes=10_000))
    assert slept.count(0.07) == 3


@pytest.mark.parametrize("cut_at", [0, 1, 700, 5_000, 100_000, 250_001])
def test_a_cut_connection_resumes_where_it_broke_off(
    node: EdgeConfig, shard: tuple[str, bytes], cut_at: int
) -> None:
    path, data = shard
    with ChaosProxy(node.gateway) as proxy:
        proxy.then(cut_at=cut_at)
        proxy.then(cut_at=cut_at)  # also for the diagnosis, which connects by itself
        with contextlib.closing(linked(node, proxy.address)) as link:
            assert b"".join(link.fetch(path, max_bytes=len(data))) == data
            assert link.pulled_bytes == len(data)
        assert proxy.num_connections > 1


CUT = ProfileConfig(
    cpus=1,
    memory_mib=500,
    bandwidth_kib_s=10**6,
    cuts=(CutConfig(after_s=10, for_s=30),),
)


def test_a_cut_of_the_profile_breaks_a_stream_that_then_resumes_at_its_offset(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    now, tries = 0.0, list[str]()

    def quarter_minute_passes(error: Exception, pause_s: float) -> None:
        nonlocal now
        tries.append(str(error))
        now += 15.0

    link = linked(
        node,
        profile=CUT,
        clock=lambda: now,
        deadline_s=100.0,
        on_wait=quarter_minute_passes,
    )
    with contextlib.closing(link):
        received = b""
        for chunk in link.fetch(path, max_bytes=len(data)):
            received += chunk
            if now == 0.0 and len(received) > 100_000:
                now = 10.0
    assert received == data
    assert link.pulled_bytes == len(data)
    assert len(tries) == 2  # at 10 s in the stream, at 25 s before it could begin
    assert all("this node's network is cut" in words for words in tries)


def test_a_cut_of_the_profile_ends_calls_under_way_and_lets_none_begin(
    node: EdgeConfig,
) -> None:
    now = 0.0
    with contextlib.closing(linked(node, profile=CUT, clock=lambda: now)) as link:
        versions = link.watch("digits", 0)
        next(versions)
        now = 10.0
        with pytest.raises(LinkError):
            next(versions)
        with pytest.raises(LinkError, match="network is cut"):
            link.heartbeat(takt_pb2.HeartbeatRequest(state="idle"))
        now = 40.0
        link.heartbeat(takt_pb2.HeartbeatRequest(state="idle"))


def test_a_flipped_byte_on_the_line_does_not_reach_the_file(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    with ChaosProxy(node.gateway) as proxy:
        proxy.then(flip_at=150_000)
        with contextlib.closing(linked(node, proxy.address)) as link:
            assert b"".join(link.fetch(path, max_bytes=len(data))) == data


def test_a_black_hole_is_left_after_the_stall_time(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    with ChaosProxy(node.gateway) as proxy:
        proxy.then(hole_at=150_000)
        with contextlib.closing(linked(node, proxy.address, stall_s=0.5)) as link:
            assert b"".join(link.fetch(path, max_bytes=len(data))) == data
            assert link.pulled_bytes == len(data)


def test_a_trickle_ends_at_the_deadline(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    now = 0.0

    def a_minute_passes(error: Exception, pause_s: float) -> None:
        nonlocal now
        now += 60.0

    with ChaosProxy(node.gateway, default=Faults(rate_bytes_s=20_000.0)) as proxy:
        link = linked(
            *(node, proxy.address),
            stall_s=0.5,  # no message comes whole in that time
            deadline_s=100.0,
            clock=lambda: now,
            on_wait=a_minute_passes,
        )
        with contextlib.closing(link), pytest.raises(LinkError, match="gave up after"):
            list(link.fetch(path, max_bytes=len(data)))


def test_a_trickle_that_never_stalls_ends_as_well(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    now = 0.0
    link = linked(node, clock=lambda: now, deadline_s=100.0)
    with contextlib.closing(link), pytest.raises(LinkError, match="too slowly"):
        for chunk in link.fetch(path, max_bytes=len(data)):
            now += len(chunk) / 100  # as over a line of 100 bytes a second


def test_a_slow_transfer_outlives_the_deadline_as_long_as_it_moves() -> None:
    now = 0.0
    retry = Retry(
        10.0, floor_bytes_s=1000.0, clock=lambda: now, sleep=id, rng=random.Random(0)
    )
    for _ in range(100):  # 2000 bytes a second
        now += 1.0
        retry.progressed(2000)
    assert retry.remaining_s == pytest.approx(10.0)
    for _ in range(100):  # 100 bytes a second
        now += 1.0
        retry.progressed(100)
    assert retry.remaining_s < 0


def test_a_gateway_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    with edge_site(tmp_path) as site:
        node = site.join("sensor")
        site.stop()
        waits: list[str] = []

        def start_at_the_third(error: Exception, pause_s: float) -> None:
            waits.append(str(error))
            if len(waits) == 3:
                site.start()

        link = linked(node, on_wait=start_at_the_third)
        with contextlib.closing(link):
            assert list(link.fetch("metadata/timestamp.json", max_bytes=10_000))
        assert "connection refused" in waits[0]


def test_an_absent_gateway_is_one_readable_line_at_the_deadline(
    node: EdgeConfig,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    clock = ClockOfWaits()
    link = linked(node, address, deadline_s=1.0, clock=clock, sleep=clock.sleep)
    with contextlib.closing(link), pytest.raises(LinkError) as raised:
        list(link.fetch("metadata/timestamp.json", max_bytes=10_000))
    message = str(raised.value)
    assert address in message and "takt cloud serve" in message
    assert "\n" not in message and "ipv4:" not in message


def test_a_missing_file_is_said_at_once(node: EdgeConfig) -> None:
    link = linked(node)
    with contextlib.closing(link), pytest.raises(MissingFileError):
        list(link.fetch("metadata/99.root.json", max_bytes=10_000))


def test_data_beyond_the_declared_length_is_cut(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    link = linked(node)
    with contextlib.closing(link), pytest.raises(TrustError, match="longer than decl"):
        list(link.fetch(path, max_bytes=len(data) - 1))
    assert link.pulled_bytes == 0


def test_a_stop_cancels_a_read_that_would_never_end() -> None:
    class Silent:
        """A call that answers nothing before it is cancelled."""

        def __init__(self) -> None:
            self.cancelled = threading.Event()

        def __iter__(self) -> Iterator[bytes]:
            self.cancelled.wait()
            yield from ()

        def cancel(self) -> None:
            self.cancelled.set()

    stop = threading.Event()
    with (
        ThreadPoolExecutor(1) as pool,
        StallGuard(Silent(), None, stop.is_set) as guard,
    ):
        read = pool.submit(lambda: list(guard.responses()))
        stop.set()
        assert read.result(timeout=WAIT_S) == []


def test_a_silent_call_that_is_stopped_ends_as_interrupted(
    node: EdgeConfig, shard: tuple[str, bytes]
) -> None:
    path, data = shard
    stop = threading.Event()
    with ChaosProxy(node.gateway) as proxy:
        proxy.then(hole_at=150_000)
        link = linked(node, proxy.address, stall_s=60.0, stop=stop)
        with contextlib.closing(link), ThreadPoolExecutor(1) as pool:
            pull = pool.submit(lambda: list(link.fetch(path, max_bytes=len(data))))
            until("some bytes", lambda: link.pulled_bytes > 0)
            stop.set()
            with pytest.raises(Interrupted):
                pull.result(timeout=WAIT_S)


def test_a_plaintext_gateway_is_named_as_such(node: EdgeConfig) -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        link = linked(node, f"127.0.0.1:{port}")
        with contextlib.closing(link), pytest.raises(IdentityError, match="plaintext"):
            list(link.fetch("metadata/timestamp.json", max_bytes=10_000))
        server.stop(0).wait()


def test_the_enrolment_port_is_not_taken_for_the_gateway(node: EdgeConfig) -> None:
    assert node.enroll is not None
    link = linked(node, node.enroll)
    with contextlib.closing(link), pytest.raises(LinkError, match="enrolment port"):
        list(link.fetch("metadata/timestamp.json", max_bytes=10_000))


def test_a_gateway_of_another_ca_is_refused(node: EdgeConfig, tmp_path: Path) -> None:
    with edge_site(tmp_path) as other:
        assert other.gateway is not None
        link = linked(node, other.gateway.address)
        with contextlib.closing(link), pytest.raises(IdentityError, match="project CA"):
            list(link.fetch("metadata/timestamp.json", max_bytes=10_000))


def test_a_gateway_under_a_name_it_has_no_certificate_for_is_refused(
    node: EdgeConfig,
) -> None:
    with ChaosProxy(node.gateway, host="127.0.0.2") as proxy:
        link = linked(node, proxy.address)
        with contextlib.closing(link), pytest.raises(IdentityError, match="not for '1"):
            list(link.fetch("metadata/timestamp.json", max_bytes=10_000))


def test_a_revoked_node_is_told_so(site: EdgeSite) -> None:
    node = site.join("outcast")
    assert site.gateway is not None
    site.gateway.running.authority.revoke("outcast")
    link = linked(node)
    with contextlib.closing(link), pytest.raises(IdentityError, match="refused this"):
        list(link.fetch("metadata/timestamp.json", max_bytes=10_000))


def test_a_certificate_of_another_project_is_refused(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    with edge_site(tmp_path) as other:
        stranger = other.join("sensor").state_dir / "identity"
    certificates = Certificates(
        node.state_dir / "identity" / "ca.crt",
        stranger / "node.crt",
        stranger / "node.key",
    )
    link = linked(node, certificates=certificates)
    with contextlib.closing(link), pytest.raises(IdentityError, match=r"node\.crt"):
        list(link.fetch("metadata/timestamp.json", max_bytes=10_000))


def test_a_heartbeat_reaches_the_fleet(site: EdgeSite, node: EdgeConfig) -> None:
    with contextlib.closing(linked(node)) as link:
        link.heartbeat(takt_pb2.HeartbeatRequest(state="idle", message="hello"))
    assert site.gateway is not None
    rows = {row.node: row for row in site.gateway.running.fleet.nodes()}
    assert rows["sensor"].message == "hello"


def test_watch_tells_of_the_newest_release(site: EdgeSite, node: EdgeConfig) -> None:
    version = site.publish_noise(num_samples=20).version
    with contextlib.closing(linked(node)) as link:
        versions = link.watch("digits", 0)
        assert version in versions  # at once the present one, then each new one
        versions.close()


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_pauses_are_jittered_and_bounded(failures: int, seed: int) -> None:
    pause = full_jitter(failures, random.Random(seed), first_s=0.2, max_s=10.0)
    assert 0 <= pause <= min(10.0, 0.2 * 2.0 ** min(failures - 1, 30))


def test_no_try_is_made_after_the_deadline() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    retry = Retry(5.0, clock=lambda: now, sleep=sleep, rng=random.Random(1))
    while (pause := retry.next_pause_s()) is not None:
        retry.sleep(pause)
    assert now < 5.0
