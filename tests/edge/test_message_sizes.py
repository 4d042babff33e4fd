"""How much of a file a node asks for in one message: what suits its line."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from edge_site import EdgeSite, connection_of, edge_site

from common.config import ProfileConfig
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc
from edge.config import EdgeConfig
from edge.link.client import Link

KIB = 1024


class Recorder(takt_pb2_grpc.ReleaseServiceServicer):
    """Sends one byte and keeps what was asked; cuts or ignores some requests."""

    def __init__(self) -> None:
        """Answer each request."""
        self.asked: list[int] = []
        self.faults: list[str] = []  # of the next requests: "cut" or "silent"

    def Fetch(self, request: pb.FetchRequest, context: Any) -> Any:  # noqa: N802
        """Send the whole file, which is one byte long."""
        self.asked.append(request.message_bytes)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "cut":
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if fault == "silent":
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait()
        yield pb.FetchResponse(data=b"x", total_bytes=1)

    def Watch(self, request: pb.WatchRequest, context: Any) -> Any:  # noqa: N802
        """Announce nothing."""
        return iter(())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


@contextlib.contextmanager
def recording(site: EdgeSite, node: EdgeConfig, **changes: Any) -> Iterator[Any]:
    """Serve a recorder; yield it, and a function that fetches the file once."""
    pki: Path = site.storage.ca.parent
    pair = ((pki / "server.key").read_bytes(), (pki / "server.crt").read_bytes())
    recorder = Recorder()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    takt_pb2_grpc.add_ReleaseServiceServicer_to_server(recorder, server)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    server.start()
    options = {"profile": None, "sleep": lambda seconds: None, **changes}
    link = Link(connection_of(node, address=f"localhost:{port}", **options))
    try:
        yield recorder, lambda: list(link.fetch("x", max_bytes=1))
    finally:
        link.close()
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("bandwidth_kib_s", "expected_kib"), [(64, 32), (400, 200), (10**6, 1024)]
)
def test_a_node_asks_for_half_a_second_of_its_bandwidth(
    site: EdgeSite, node: EdgeConfig, bandwidth_kib_s: int, expected_kib: int
) -> None:
    profile = ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=bandwidth_kib_s)
    with recording(site, node, profile=profile) as (recorder, fetch):
        fetch()
    assert recorder.asked == [expected_kib * KIB]


def test_the_try_after_a_failure_asks_for_the_least(
    site: EdgeSite, node: EdgeConfig
) -> None:
    with recording(site, node) as (recorder, fetch):
        recorder.faults = ["cut"]
        fetch()
        fetch()
    assert recorder.asked == [1024 * KIB, 0, 1024 * KIB]


def test_a_node_whose_line_stalled_asks_for_the_least_from_then_on(
    site: EdgeSite, node: EdgeConfig
) -> None:
    with recording(site, node, stall_s=0.2) as (recorder, fetch):
        recorder.faults = ["silent"]
        fetch()
        fetch()
    assert recorder.asked[-1] == 0
