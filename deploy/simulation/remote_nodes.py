"""Nodes that run elsewhere, as their heartbeats tell of them.

Who they are is known from the fleet's database alone; their students lie in a
folder that is mounted here. Not here: starting or stopping them.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from cloud.fleet.database import Fleet, NodeRow
from common.clock import Clock, utc_now
from common.config import NodeConfig
from deploy.simulation.live_view import NodeView
from edge.records import Status

GONE = timedelta(seconds=45)  # stopped for so long, it was not a restart


class RemoteNodes:
    """The nodes of a run's config in a fleet's database."""

    def __init__(
        self,
        nodes: Sequence[NodeConfig],
        fleet: Fleet,
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
        """Say how a node ended for good; None: it did not, as far as is known."""
        row = self._rows().get(name)
        if row is None or row.state != "stopped":
            return None
        if self._clock() - row.last_seen < GONE:
            return None
        return f"its daemon stopped: {row.message or 'it was asked to'}"

    def status(self, name: str) -> Status | None:
        """Say what a node does; None: it has said nothing yet."""
        row = self._rows().get(name)
        if row is None:
            return None
        return Status(
            node=name,
            state=row.state,
            version=row.version,
            progress=row.progress,
            message=row.message,
        )

    def views(self) -> tuple[NodeView, ...]:
        """Describe every node for the live view."""
        rows = self._rows()
        return tuple(
            _view(rows[node.name])
            if node.name in rows
            else NodeView(node.name, "not seen", 0.0)
            for node in self._nodes
        )

    def _rows(self) -> dict[str, NodeRow]:
        return {row.node: row for row in self._fleet.nodes()}


def _view(row: NodeRow) -> NodeView:
    return NodeView(row.node, row.state, row.progress, row.message)
