"""What a soak consists of: a gateway and daemons, each a process that may be killed.

The gateway is the server alone, without Ray: who kills it starts it again, as Ray Serve
would. Not here: what happens when (soak.py).
"""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))

from edge_site import EdgeSite, recipe
from waiting import until

from cloud.gateway.addresses import Addresses
from cloud.gateway.server import start_gateway_server
from cloud.pki.authority import Authority
from cloud.storage import StorageDir
from common.config import GatewayConfig, ProfileConfig
from common.errors import StorageError
from edge.config import EdgeConfig, save_edge_config
from edge.daemon.enrolment import enroll
from edge.state import Current, StateDir

_SERVE = "--serve"


class Usage(NamedTuple):
    """What a process holds at a moment."""

    rss_mib: float
    num_fds: int
    num_threads: int


class Member:
    """A process that is killed and started again."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        """Start it; what it prints goes to a file."""
        self.name = name
        self.ended_by_itself: list[int] = []  # its exit codes
        self.num_kills = 0
        self._command, self._log = command, log
        self._is_killed = False
        self.start()

    def start(self) -> None:
        """Start it."""
        self._is_killed = False
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE"},
            )

    def is_running(self) -> bool:
        """Tell whether it runs; note an end that nobody asked for."""
        code = self._process.poll()
        if code is not None and not self._is_killed:
            self._is_killed = True  # noted once
            self.ended_by_itself.append(code)
        return code is None

    def kill(self) -> None:
        """Kill it without a warning."""
        if self.is_running():
            self._is_killed = True
            self.num_kills += 1
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it in peace."""
        if self.is_running():
            self._is_killed = True
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(120)

    def usage(self) -> Usage | None:
        """Look at what it holds; None: it does not run."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            with process.oneshot():
                rss_mib = process.memory_info().rss / 2**20
                return Usage(rss_mib, process.num_fds(), process.num_threads())
        return None


class Node(Member):
    """A daemon and its state folder."""

    def __init__(self, config: EdgeConfig) -> None:
        """Start the daemon of a node that has joined."""
        path = config.state_dir / "edge.toml"
        save_edge_config(config, path)
        command = [sys.executable, "-m", "deploy.cli.main", "edge", "run"]
        self.state = StateDir(config.state_dir)
        self.handled: dict[int, str] = {}  # outcomes by version, as seen in passing
        log = config.state_dir.with_suffix(".log")
        super().__init__(config.node, [*command, "-c", str(path)], log)

    def look(self) -> Current:
        """Read what it handled last, and remember it."""
        with suppress(StorageError):
            current = self.state.read_current()
            if current.version:
                self.handled[current.version] = current.outcome
            return current
        return Current()

    def num_unsent(self) -> int:
        """Count the reports that wait to be sent, or were refused."""
        return len(list(self.state.outbox.glob("*")))


class Site:
    """A project whose gateway and daemons are processes."""

    def __init__(self, folder: Path, num_daemons: int, *, epochs: int) -> None:
        """Make the project, start the gateway, let nodes join and start them."""
        self.edge_site = EdgeSite(folder)
        self.storage: StorageDir = self.edge_site.storage
        self.nodes_folder = folder / "nodes"
        self._epochs = epochs
        command = [sys.executable, __file__, _SERVE, str(self.storage.root)]
        self.gateway = Member("gateway", command, folder / "gateway.log")
        until("the gateway's address", lambda: Addresses.load(self.storage) is not None)
        self.nodes = [self._join(f"node-{n + 1}") for n in range(num_daemons)]

    def _join(self, name: str) -> Node:
        addresses = Addresses.load(self.storage)
        assert addresses is not None
        config = EdgeConfig(
            node=name,
            student="tiny",
            gateway=addresses.address,
            enroll=addresses.enroll_address,
            ca=self.storage.ca,
            state_dir=self.nodes_folder / name,
            profile=ProfileConfig(cpus=1, memory_mib=1500, bandwidth_kib_s=10_000),
        )
        enroll(config, Authority(self.storage.pki).allow(name))
        return Node(config)

    def publish(self, seed: int) -> int:
        """Publish another release of digits; return its version."""
        students = {"tiny": recipe(epochs=self._epochs)}
        return self.edge_site.publish_digits(seed=seed, students=students).version

    def stop(self) -> None:
        """End every process."""
        for member in (*self.nodes, self.gateway):
            member.stop()


def mib_below(folder: Path) -> float:
    """Add up what files below a folder take; one that goes meanwhile takes nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(place, name).stat().st_blocks * 512
    return total / 2**20


async def _serve(storage: StorageDir) -> None:
    gateway = await start_gateway_server(
        storage=storage, config=GatewayConfig(), channel="digits"
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()
    await gateway.stop()


if __name__ == "__main__" and sys.argv[1:2] == [_SERVE]:
    asyncio.run(_serve(StorageDir(Path(sys.argv[2]))))
