"""The nodes of a run: simulated ones on this machine, or ones that run elsewhere.

A simulated node is a real daemon in a process of its own. It gets a folder with an
edge.toml and a one-time token; then it makes its key, enrols, pulls, distils and
reports over the wire. Its status.json is for the live view only: its result is the
report in the fleet's database. Of a node that runs elsewhere only that database is
known, and a mounted folder with its students. Not here: the daemon
(edge/daemon/node.py) and its caps (edge/limits/methods.py).
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from common.clock import Clock, utc_now
from common.config import NodeConfig, OwnImagesConfig
from common.durable import make_folder, write_atomic
from common.errors import Interrupted, StorageError
from common.interpreter import python
from common.text import shortened
from deploy.runtime.processes import end_trees, start_daemon

if TYPE_CHECKING:
    from cloud.fleet.database import Fleet, NodeRow
    from edge.state import Status

GRACE_S = 8.0  # a daemon ends its child and writes its state in less
GONE = timedelta(seconds=45)  # stopped for longer than a restart takes


@dataclass(frozen=True)
class NodeView:
    """One line of the live view's nodes; `progress` is within the state, in [0, 1]."""

    name: str
    state: str
    progress: float
    detail: str = ""


class Nodes(Protocol):
    """What a run needs to know of its nodes, wherever they are."""

    def state_dir(self, name: str) -> Path:
        """Name the folder in which a node's students are found."""

    def ended(self, name: str) -> str | None:
        """Describe how a node ended for good; None: it did not."""

    def status(self, name: str) -> "Status | None":
        """Return a node's last status; None: there is none yet."""

    def views(self) -> tuple[NodeView, ...]:
        """Describe every node for the live view."""


@dataclass(frozen=True)
class NodeSite:
    """What every simulated node is told: the gateway's addresses, data and seed."""

    gateway: str
    enroll: str
    ca: Path
    data_dir: Path | None
    seed: int
    own: Mapping[str, OwnImagesConfig] = field(default_factory=dict)  # by node


class SimulatedNodes:
    """The daemons of a run; a context manager that ends them."""

    def __init__(
        self, nodes: Sequence[NodeConfig], *, folder: Path, logs: Path
    ) -> None:
        """Name the folders; nothing is made or started."""
        self._nodes = tuple(nodes)
        self._folder = folder
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def __enter__(self) -> Self:
        """Return the nodes themselves."""
        return self

    def __exit__(self, *error: object) -> None:
        """End every daemon, with its child."""
        self.stop()

    def start(self, site: NodeSite, new_token: Callable[[str], str]) -> None:
        """Write each node's config, allow it to enrol once, and start its daemon.

        Args:
            site: the gateway's addresses and the nodes' data.
            new_token: makes a node's one-time token.

        Raises:
            StorageError: a folder cannot be written.
            Interrupted: the nodes were stopped meanwhile.
        """
        from edge.config import EdgeConfig, save_edge_config

        for node in self._nodes:
            if self._stopping:
                raise Interrupted("stopped before the nodes began")
            state_dir = self.state_dir(node.name)
            make_folder(state_dir)
            config = EdgeConfig(
                node=node.name,
                student=node.student,
                gateway=site.gateway,
                enroll=site.enroll,
                ca=site.ca,
                data_dir=site.data_dir,
                data=site.own.get(node.name),
                max_forgetting=node.max_forgetting,
                profile=node.profile,
                seed=site.seed,
                heartbeat_s=2.0,
            )
            save_edge_config(config, state_dir / "edge.toml")
            token = state_dir / "token"
            write_atomic(token, new_token(node.name).encode(), mode=0o600)
            argv = python("-m", "deploy.cli.main", "edge", "run")
            self._processes[node.name] = start_daemon(
                [
                    *argv,
                    *("--config", str(state_dir / "edge.toml")),
                    *("--token-file", str(token)),
                ],
                self._log(node.name),
            )

    def stop(self) -> None:
        """Stop every daemon: SIGTERM, after `GRACE_S` seconds SIGKILL."""
        self._stopping = True
        end_trees(list(self._processes.values()), grace_s=GRACE_S)

    def state_dir(self, name: str) -> Path:
        """Name a node's state folder."""
        return self._folder / name

    def exit_code(self, name: str) -> int | None:
        """Return the exit code of a node's daemon; None: it runs."""
        process = self._processes.get(name)
        return None if process is None else process.poll()

    def ended(self, name: str) -> str | None:
        """Describe how a daemon ended, with the last line of its log; None: it runs."""
        code = self.exit_code(name)
        if code is None:
            return None
        return f"its daemon ended with code {code}: {self.last_log_line(name)}"

    def status(self, name: str) -> "Status | None":
        """Read a node's status.json; None: there is none yet."""
        from edge.state import read_status

        try:
            return read_status(self.state_dir(name))
        except StorageError:
            return None

    def last_log_line(self, name: str) -> str:
        """Read the last line of a node's log."""
        try:
            lines = self._log(name).read_bytes().splitlines()
        except OSError:
            return ""
        return shortened(lines[-1].decode(errors="replace"), 300) if lines else ""

    def views(self) -> tuple[NodeView, ...]:
        """Describe every node for the live view; none any more once they stop."""
        if self._stopping:
            return ()
        started = [node.name for node in self._nodes if node.name in self._processes]
        return tuple(self._view(name) for name in started)

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _view(self, name: str) -> NodeView:
        code = self.exit_code(name)
        if code is not None:
            line = shortened(self.last_log_line(name), 60)
            return NodeView(name, f"ended ({code})", 1.0, line)
        status = self.status(name)
        if status is None:
            return NodeView(name, "enrolling", 0.0)
        detail = status.message
        if status.state == "distilling" and status.epochs:
            detail = f"epoch {status.epoch}/{status.epochs}, {status.cpu_s:.0f} CPU-s"
        return NodeView(name, status.state, status.progress, detail)


class RemoteNodes:
    """The nodes of a run's config in a fleet's database."""

    def __init__(
        self,
        nodes: Sequence[NodeConfig],
        fleet: "Fleet",
        folder: Path,
        *,
        clock: Clock = utc_now,
    ) -> None:
        """Read from `fleet`; a node's students are in folder/<node>/students."""
        self._nodes = tuple(nodes)
        self._fleet = fleet
        self._folder = folder
        self._clock = clock

    def state_dir(self, name: str) -> Path:
        """Name the folder in which a node's students are found."""
        return self._folder / name

    def ended(self, name: str) -> str | None:
        """Describe how a node ended for good; None: no sign of it."""
        row = self._rows().get(name)
        if row is None or row.state != "stopped":
            return None
        if self._clock() - row.last_seen < GONE:
            return None
        return f"its daemon stopped: {row.message or 'it was asked to'}"

    def status(self, name: str) -> "Status | None":
        """Return a node's last heartbeat as a status; None: there was none yet."""
        from edge.state import Status

        row = self._rows().get(name)
        return None if row is None else Status.model_validate(row, from_attributes=True)

    def views(self) -> tuple[NodeView, ...]:
        """Describe every node for the live view."""
        rows = self._rows()
        return tuple(
            _view(rows[node.name])
            if node.name in rows
            else NodeView(node.name, "not seen", 0.0)
            for node in self._nodes
        )

    def _rows(self) -> "dict[str, NodeRow]":
        return {row.node: row for row in self._fleet.nodes()}


def _view(row: "NodeRow") -> NodeView:
    return NodeView(row.node, row.state, row.progress, row.message)
