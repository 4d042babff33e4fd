"""Two hundred nodes whose gateway was away: they come back one by one, and all of them.

The node's own code waits and tries again, in a time of its own that passes at once.
"""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from edge_site import connection_of
from gateway_site import signed_by
from waiting import WAIT_S, until

from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.config import ProfileConfig
from common.errors import LinkError
from edge.config import EdgeConfig
from edge.credentials import Certificates
from edge.daemon.release_watch import ReleaseWatcher
from edge.link.client import Link
from edge.link.retry import Retry
from edge.state import StateDir

NUM_NODES = 200
AWAY_S = 60.0  # how long the gateway is
Returns = Callable[[int], float]


class Time(threading.Event):
    """A node's time, which passes as it waits; it ends once the node is back."""

    def __init__(self, began_s: float) -> None:
        """Begin."""
        super().__init__()
        self.now_s = began_s
        self.back_s: float | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass at once."""
        self.now_s += timeout or 0.0
        return self.is_set()

    def call(self) -> None:
        """Fail while the gateway is away, and note the first time that it is not."""
        if self.now_s < AWAY_S:
            raise LinkError("the gateway is away")
        self.back_s = self.now_s
        self.set()


class Away:
    """A link to a gateway that is away for a while."""

    def __init__(self, time: Time) -> None:
        """Fail as long as it is away."""
        self._time = time

    def watch(self, channel: str, known_version: int) -> Iterator[int]:
        """Listen; a gateway that is back announces nothing new."""
        self._time.call()
        yield known_version


def watching(node: int) -> float:
    """Return when a node's watcher listens again."""
    time = Time(random.Random(-node).uniform(0, 0.1))  # all lose it within a moment
    watcher = ReleaseWatcher(
        Away(time),  # type: ignore[arg-type]
        channel="digits",
        known_version=lambda: 1,
        on_release=lambda: None,
        stop=time,
        rng=random.Random(node),
    )
    watcher.start()
    watcher.close(WAIT_S)
    assert time.back_s is not None
    return time.back_s


def retrying(node: int) -> float:
    """Return when a node's call succeeds that was under way."""
    time = Time(random.Random(-node).uniform(0, 0.1))
    retry = Retry(
        600.0, clock=lambda: time.now_s, sleep=time.wait, rng=random.Random(node)
    )
    while True:
        with contextlib.suppress(LinkError):
            time.call()
            return time.now_s
        pause_s = retry.next_pause_s()
        assert pause_s is not None
        retry.sleep(pause_s)


@pytest.mark.parametrize(
    ("returns", "within_s", "most_a_second"),
    [(watching, 30.0, 20), (retrying, 10.0, 45)],
    ids=["watchers", "calls"],
)
def test_two_hundred_nodes_return_spread_over_the_bound_of_their_pauses(
    returns: Returns, within_s: float, most_a_second: int
) -> None:
    """Together they would be 200 in the first second; evenly, 7 and 20 in each."""
    back_s = [returns(node) - AWAY_S for node in range(NUM_NODES)]
    assert max(back_s) <= within_s
    seconds = Counter(int(at_s) for at_s in back_s)
    assert max(seconds.values()) <= most_a_second
    assert len(seconds) >= 0.6 * within_s


def join(gateway: GatewayThread, node: str, folder: Path) -> EdgeConfig:
    """Let a node in; write its certificates."""
    identity = signed_by(gateway.running.authority, node)
    state = StateDir(folder / node)
    state.create()
    state.identity.mkdir()
    ca, certificate, key = Certificates.of(state.identity)
    assert certificate is not None and key is not None
    ca.write_bytes(identity.ca_pem)
    certificate.write_bytes(identity.certificate_pem)
    key.write_bytes(identity.key_pem)
    return EdgeConfig(
        node=node,
        student="tiny",
        gateway=gateway.address,
        state_dir=folder / node,
        profile=ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=10_000),
        deadline_s=WAIT_S,
    )


@pytest.mark.slow
def test_two_hundred_nodes_all_get_through_to_a_gateway_that_restarts(
    tmp_path: Path,
) -> None:
    storage = StorageDir(tmp_path)
    names = [f"node-{n}" for n in range(NUM_NODES)]
    with GatewayThread(storage=storage) as gateway:
        nodes = [join(gateway, name, tmp_path / "nodes") for name in names]
    waited, done = Counter[str](), Counter[str]()

    def fetch(node: EdgeConfig) -> None:
        connection = connection_of(
            node, on_wait=lambda error, pause_s: waited.update([node.node])
        )
        with contextlib.closing(Link(connection)) as link:
            data = b"".join(link.fetch("metadata/timestamp.json", max_bytes=10_000))
        done[node.node] += bool(data)

    with ThreadPoolExecutor(NUM_NODES) as pool:
        tries = [pool.submit(fetch, node) for node in nodes]
        until("all have missed it", lambda: len(waited) == NUM_NODES)
        with GatewayThread(storage=storage) as gateway:
            for each in tries:
                each.result(WAIT_S)
            assert gateway.running.status.look().refused == {}
    assert done == dict.fromkeys(names, 1)
