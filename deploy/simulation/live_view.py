"""What the user sees while a simulation runs: its phase, its nodes, its measurements.

Each is a step of the run's display; finished phases leave a line. The steps follow
`Snapshot`s of the run's state. Not here: measuring anything, bars and lines
(deploy/runtime/progress.py), and the sentences (deploy/report/wording.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.text import counted
from deploy.cloud_progress import (
    Progress,
    knowledge_progress,
    teacher_progress,
    weights_progress,
)
from deploy.report.result import DatasetFacts
from deploy.runtime.progress import Display, Step
from deploy.simulation.nodes import NodeView
from deploy.simulation.phases import PhaseView
from deploy.simulation.run_state import RunState

_EVALUATION = "AutoAttack"


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment: within its phase, at its nodes, and in the background."""

    phase: Progress
    nodes: tuple[NodeView, ...] = ()
    num_measured: int = 0  # models that are attacked, or were
    measured: float = 0.0  # the share of their attacks that is done


Refresh = Callable[[], Snapshot]


def take_snapshot(state: RunState) -> Snapshot:
    """Take what the view shows from a run's state and its cloud side's progress."""
    cloud, config = state.run.cloud, state.config
    phase = Progress()
    if state.phase == "teacher":
        phase = teacher_progress(config, cloud)
    elif state.phase == "knowledge":
        phase = knowledge_progress(cloud)
    elif state.phase == "weights":
        phase = weights_progress(config, cloud)
    measurements = state.measurements()
    return Snapshot(
        phase=phase,
        nodes=state.nodes.views() if state.nodes is not None else (),
        num_measured=len(measurements),
        measured=sum(m.progress for m in measurements) / max(len(measurements), 1),
    )


@contextmanager
def open_view(display: Display, refresh: Refresh) -> Iterator[PhaseView]:
    """Show a run while the body does it."""
    view = RunView(display, refresh)
    try:
        with display.following(view.look):
            yield view
    finally:
        view.close()


def print_notes(display: Display, dataset: DatasetFacts) -> None:
    """Print what a user should know of a run's images, a line each."""
    for note in dataset.notes or ():
        display.print(note, label="note")


class RunView:
    """The steps of a run on its display."""

    def __init__(self, display: Display, refresh: Refresh) -> None:
        """Show on `display` what `refresh` returns."""
        self._display, self._refresh = display, refresh
        self._phase: Step | None = None
        self._nodes: dict[str, Step] = {}
        self._evaluation: Step | None = None

    def phase_started(self, name: str, purpose: str) -> None:
        """Show that a phase begins."""
        self._phase = self._display.step(name, purpose)

    def phase_ended(self, name: str, seconds: float, summary: str, ok: bool) -> None:
        """Print the finished line."""
        phase, self._phase = self._phase, None
        if phase is not None:
            phase.end()
        self._display.conclude(name, seconds, summary, ok)

    def look(self) -> None:
        """Bring all steps up to date."""
        phase = self._phase
        snapshot = self._refresh()
        if phase is not None and phase is self._phase:  # the snapshot is of this one
            phase.update(snapshot.phase.share, detail=snapshot.phase.detail)
        self._look_at_nodes(snapshot.nodes)
        if snapshot.num_measured and self._evaluation is None:
            self._evaluation = self._display.step(_EVALUATION)
        if self._evaluation is not None:
            models = counted(snapshot.num_measured, "model")
            self._evaluation.update(snapshot.measured, stage=models)

    def close(self) -> None:
        """Remove every bar."""
        for step in (self._phase, self._evaluation, *self._nodes.values()):
            if step is not None:
                step.end()

    def _look_at_nodes(self, nodes: tuple[NodeView, ...]) -> None:
        for node in nodes:
            if node.name not in self._nodes:
                self._nodes[node.name] = self._display.step(node.name)
            self._nodes[node.name].update(
                node.progress or None, stage=node.state, detail=node.detail
            )
        gone = self._nodes.keys() - {node.name for node in nodes}
        for name in gone:
            self._nodes.pop(name).end()
