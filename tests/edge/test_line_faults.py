"""What comes late, twice or in another order, and a fleet on one gateway."""

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc
import pytest
from chaos_proxy import ChaosProxy, Faults
from edge_site import CHANNEL, MOST_CALLS, EdgeSite, connection_of, edge_site
from gateway_site import put_file
from waiting import WAIT_S

from common.errors import LinkError, TaktError
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc
from edge.config import EdgeConfig
from edge.daemon.release_watch import ReleaseWatcher
from edge.link.client import Link
from edge.link.retry import full_jitter

CHUNKS = (b"aaaa", b"bbbb", b"cccc")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


class Disorder(takt_pb2_grpc.ReleaseServiceServicer):
    """Sends the chunks of a file in the order that a test asks for."""

    def __init__(self, *order: int) -> None:
        """Send none before it is asked."""
        self.order = order

    def Fetch(self, request: pb.FetchRequest, context: Any) -> Any:  # noqa: N802
        """Send chunks, each with its own true offset."""
        for at in self.order:
            yield pb.FetchResponse(offset=4 * at, data=CHUNKS[at], total_bytes=12)

    def Watch(self, request: pb.WatchRequest, context: Any) -> Any:  # noqa: N802
        """Announce versions that there are not, each another one."""
        return (
            pb.WatchResponse(channel=request.channel, version=version)
            for version in range(1, 3000)
        )


class Pauses(threading.Event):
    """Is set by the last of so many waits, none of which takes any time."""

    def __init__(self, num: int) -> None:
        """Expect `num` waits."""
        super().__init__()
        self.num = num
        self.asked: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Note for how long."""
        self.asked.append(timeout or 0.0)
        if len(self.asked) == self.num:
            self.set()
        return self.is_set()


@contextlib.contextmanager
def sending(site: EdgeSite, *order: int) -> Iterator[str]:
    """Serve a file in disorder, with the certificate of the site's gateway."""
    pki = site.storage.ca.parent
    pair = ((pki / "server.key").read_bytes(), (pki / "server.crt").read_bytes())
    server = grpc.server(futures.ThreadPoolExecutor(2))
    takt_pb2_grpc.add_ReleaseServiceServicer_to_server(Disorder(*order), server)
    credentials = grpc.ssl_server_credentials([pair])
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


def link_of(node: EdgeConfig, **changes: Any) -> Link:
    return Link(connection_of(node, **{"profile": None, **changes}))


def test_chunks_in_their_order_make_the_file(site: EdgeSite, node: EdgeConfig) -> None:
    with (
        sending(site, 0, 1, 2) as address,
        contextlib.closing(link_of(node, address=address)) as link,
    ):
        assert b"".join(link.fetch("x", max_bytes=12)) == b"".join(CHUNKS)


@pytest.mark.parametrize("order", [(0, 0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 1, 2, 0)])
def test_a_chunk_that_comes_twice_late_or_early_is_never_written(
    site: EdgeSite, node: EdgeConfig, order: tuple[int, ...]
) -> None:
    got: list[bytes] = []
    with (
        sending(site, *order) as address,
        contextlib.closing(link_of(node, address=address)) as link,
        pytest.raises(LinkError, match=r"sent byte \d+ of x, expected \d+"),
    ):
        got.extend(link.fetch("x", max_bytes=12))
    assert b"".join(CHUNKS).startswith(b"".join(got))


def test_a_gateway_that_announces_without_end_wakes_the_daemon_ever_less_often(
    site: EdgeSite, node: EdgeConfig
) -> None:
    stop, wakes = Pauses(9), Counter[str]()
    with (
        sending(site) as address,
        contextlib.closing(link_of(node, address=address)) as link,
    ):
        watcher = ReleaseWatcher(
            link,
            channel=CHANNEL,
            known_version=lambda: 0,
            on_release=lambda: wakes.update(["wake"]),
            stop=stop,
            rng=random.Random(0),
        )
        watcher.start()
        watcher.close(WAIT_S)
    assert wakes["wake"] == 9
    assert stop.asked == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.slow
def test_a_lossy_slow_line_with_long_ways_brings_every_byte_once(
    site: EdgeSite, node: EdgeConfig
) -> None:
    manifest = site.publish_noise(num_samples=600)
    used = sum(s.num_bytes for s in manifest.shards if s.content != "unread")
    faults = Faults(loss=0.05, round_trip_s=0.2, rate_bytes_s=32_000)
    with ChaosProxy(node.gateway, default=faults) as proxy:
        through = node.model_copy(update={"gateway": proxy.address})
        with site.syncing(through) as (link, sync):
            release = sync.check()
            assert release is not None
            sync.pull(release, "tiny", lambda state, progress: None)
            assert used < link.pulled_bytes < used + 20_000
        assert proxy.num_late > 0


def test_a_straggler_keeps_no_other_node_waiting_and_finishes(
    site: EdgeSite, node: EdgeConfig
) -> None:
    data = random.Random(0).randbytes(8 * 2**20)  # more than waits on the line
    put_file(site.repository, "targets/long", data)
    with (
        contextlib.closing(link_of(node)) as slow,
        contextlib.closing(link_of(site.join("hub"))) as fast,
    ):
        straggler = slow.fetch("targets/long", max_bytes=len(data))
        first = next(straggler)
        assert b"".join(fast.fetch("targets/long", max_bytes=len(data))) == data
        assert first + b"".join(straggler) == data


def test_a_gateway_without_any_node_publishes_and_the_first_gets_it(
    tmp_path: Path,
) -> None:
    with edge_site(tmp_path) as site:
        assert site.gateway is not None
        site.publish_noise(num_samples=20)
        assert site.gateway.running.fleet.nodes() == []
        with site.syncing(site.join("sensor")) as (_, sync):
            release = sync.check()
        assert release is not None and release.version == 1


def test_a_gateway_that_all_nodes_left_serves_the_next_one(
    site: EdgeSite, node: EdgeConfig
) -> None:
    for _ in range(2):
        with contextlib.closing(link_of(node)) as link:
            for _ in range(MOST_CALLS):  # together more than may be open
                link.heartbeat(pb.HeartbeatRequest(state="idle"))
    version = site.publish_noise(num_samples=20, seed=8).version
    with site.syncing(site.join("late")) as (_, sync):
        release = sync.check()
    assert release is not None
    assert (release.channel, release.version) == (CHANNEL, version)


def test_the_pauses_of_a_fleet_are_spread_over_their_whole_bound() -> None:
    pauses = [
        full_jitter(4, random.Random(node), first_s=0.2, max_s=10.0)
        for node in range(200)
    ]
    bound = 0.2 * 2**3
    for found, share in zip(quantiles(pauses), (0.25, 0.5, 0.75), strict=True):
        assert found == pytest.approx(share * bound, abs=0.15 * bound)


def test_nodes_that_lost_their_gateway_do_not_come_back_together(
    node: EdgeConfig,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        pauses = [pauses_without(node, address) for _ in range(4)]
    assert all(len(each) >= 2 for each in pauses)
    assert len({each[0] for each in pauses}) == len(pauses)


def pauses_without(node: EdgeConfig, address: str) -> list[float]:
    """Collect a node's pauses until it gives up on a gateway that is away."""
    now, pauses = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def note(error: TaktError, pause_s: float) -> None:
        pauses.append(pause_s)

    link = link_of(
        node,
        address=address,
        deadline_s=2.0,
        stall_s=1.0,
        clock=lambda: now,
        sleep=sleep,
        on_wait=note,
    )
    with contextlib.closing(link), pytest.raises(LinkError):
        list(link.fetch("x", max_bytes=1))
    return pauses
