"""What the user sees while a simulation runs.

On a terminal: a line for each finished phase, and below them the phase under
way and a progress bar for each node. Elsewhere (a pipe, a log): plain lines, one
when a phase begins or ends and one when a node's state changes. Both show
`Snapshot`s of the run's state. Not here: measuring anything, and the sentences
(deploy/report/wording.py).
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from common.text import counted
from deploy.report.result import DatasetFacts
from deploy.report.wording import describe_progress
from deploy.runtime.output import OutputError, ReaderGone
from deploy.simulation.nodes import NodeView
from deploy.simulation.phases import PhaseView
from deploy.simulation.run_state import RunState

POLL_S = 0.5


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment: within its phase, at its nodes, and in the background."""

    detail: str = ""
    nodes: tuple[NodeView, ...] = ()
    background: str = ""


Refresh = Callable[[], Snapshot]


def take_snapshot(state: RunState) -> Snapshot:
    """Take what the view shows from a run's state and its teacher's progress file."""
    background = ""
    if measurements := state.measurements():
        done = sum(m.progress for m in measurements) / len(measurements)
        models = counted(len(measurements), "model")
        background = f"AutoAttack of {models}: {100 * done:.0f} %"
    detail = ""
    if state.phase == "teacher":
        epoch = _last_epoch(state.run.cloud.progress)
        detail = describe_progress(epoch, state.config, state.num_val)
    return Snapshot(
        detail=detail,
        nodes=state.nodes.views() if state.nodes is not None else (),
        background=background,
    )


def _last_epoch(progress: Path) -> dict[str, object]:
    """Read the last line of a progress file; empty where there is none yet."""
    try:
        last = json.loads(progress.read_bytes().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return last if isinstance(last, dict) else {}


@contextmanager
def open_view(console: Console, refresh: Refresh) -> Iterator[PhaseView]:
    """Show a run on `console`, in the way that suits it."""
    if console.is_terminal and not console.is_dumb_terminal:
        yield from _terminal(console, refresh)
    else:
        yield from _lines(console, refresh)


def _terminal(console: Console, refresh: Refresh) -> Iterator[PhaseView]:
    view = TerminalView(console, refresh)
    with Live(
        console=console,
        get_renderable=view.render,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield view


def _lines(console: Console, refresh: Refresh) -> Iterator[PhaseView]:
    view = LineView(console)
    stop = threading.Event()

    def follow() -> None:
        with contextlib.suppress(ReaderGone, OutputError):  # the run hears it as well
            while not stop.wait(POLL_S):
                view.update(refresh())

    thread = threading.Thread(target=follow, name="live view", daemon=True)
    thread.start()
    try:
        yield view
    finally:
        stop.set()
        thread.join()


def print_notes(console: Console, dataset: DatasetFacts) -> None:
    """Print what a user should know of a run's images, a line each."""
    for note in dataset.notes or ():
        console.print(
            f"[yellow]note[/yellow]: {escape(note)}", highlight=False, soft_wrap=True
        )


def phase_line(name: str, seconds: float, summary: str, ok: bool) -> str:
    """Write the line of a finished phase, with rich's markup."""
    mark = "[green]done[/green]" if ok else "[red]stopped[/red]"
    return f"{mark:24} {name:11} [dim]{seconds:6.1f} s[/dim]  {escape(summary)}"


class TerminalView:
    """Renders the moving part below the finished lines."""

    def __init__(self, console: Console, refresh: Refresh) -> None:
        """Show on `console` what `refresh` returns."""
        self._console = console
        self._refresh = refresh
        self._phase: tuple[str, str, float] | None = None

    def phase_started(self, name: str, purpose: str) -> None:
        """Show that a phase begins."""
        self._phase = (name, purpose, time.monotonic())

    def phase_ended(self, name: str, seconds: float, summary: str, ok: bool) -> None:
        """Print the finished line."""
        self._phase = None
        self._console.print(phase_line(name, seconds, summary, ok), highlight=False)

    def render(self) -> Group:
        """Draw the phase under way and the nodes."""
        snapshot = self._refresh()
        rows: list[Spinner | Table | str] = []
        if self._phase is not None:
            name, purpose, start = self._phase
            text = f"{name}: {purpose} [dim]{time.monotonic() - start:.0f} s[/dim]"
            if snapshot.detail:
                text += f"  {escape(snapshot.detail)}"
            rows.append(Spinner("dots", text=text))
        if snapshot.nodes:
            rows.append(_node_bars(snapshot.nodes, self._console.width))
        if snapshot.background:
            rows.append(f"  [dim]{escape(snapshot.background)}[/dim]")
        return Group(*rows)


def _node_bars(nodes: tuple[NodeView, ...], width: int) -> Table:
    table = Table.grid(padding=(0, 1))
    for node in nodes:
        cells = [f"  {escape(node.name)}", escape(node.state)]
        bar = ProgressBar(total=1.0, completed=node.progress, width=20)
        if width >= 60:
            table.add_row(*cells, bar, f"[dim]{escape(node.detail)}[/dim]")
        else:
            table.add_row(*cells, bar)
    return table


class LineView:
    """Prints a plain line when something changed."""

    def __init__(self, console: Console) -> None:
        """Print to `console`."""
        self._console = console
        self._start = time.monotonic()
        self._states: dict[str, str] = {}
        self._detail = ""

    def phase_started(self, name: str, purpose: str) -> None:
        """Print that a phase begins."""
        self._print(f"{name}: {purpose}")

    def phase_ended(self, name: str, seconds: float, summary: str, ok: bool) -> None:
        """Print that it is over, with its summary."""
        mark = "done" if ok else "stopped"
        detail = f": {summary}" if summary else ""
        self._print(f"{name} {mark} in {seconds:.1f} s{detail}")

    def update(self, snapshot: Snapshot) -> None:
        """Print which nodes changed their state, and what is new in the phase."""
        if snapshot.detail and snapshot.detail != self._detail:
            self._detail = snapshot.detail
            self._print(f"  {snapshot.detail}")
        for node in snapshot.nodes:
            if self._states.get(node.name) != node.state:
                self._states[node.name] = node.state
                detail = f": {node.detail}" if node.detail else ""
                self._print(f"  {node.name} is {node.state}{detail}")

    def _print(self, text: str) -> None:
        elapsed = time.monotonic() - self._start
        line = f"[{elapsed:6.1f} s] {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
