"""Progress of long work: bars on a terminal, a bounded number of lines elsewhere.

A verb has one `Display`, and a `Step` for each piece of work under way. On a terminal a
step is a bar that is removed when it ends. In a pipe, a log or a dumb terminal it is a
line when it begins, when it comes to another stage, and at most at each tenth of the
way. What remains is estimated by the pace since the first report of progress; before
the second one there is no estimate. rich keeps the pace and draws the bars.

Not here: what the steps are, and the results, which `Display.quiet` does not silence.
"""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.table import Column
from rich.text import Text

from common.errors import TaktError
from common.text import printable
from deploy.runtime.output import OutputError, ReaderGone
from deploy.runtime.terminal import plain

_POLL_S = 0.5
_PACE_S = 900.0  # of the past that an estimate goes by: an epoch may take minutes
_BETWEEN_LINES_S = 5.0  # at least, between two tenths of one stage
_MOST_REPEATS = 3  # lines of one stage that a step goes back to
_WIDE, _NARROW = 80, 50  # columns of the terminal
# Called with the stage that a piece of work is in, and which share of it is done.
OnProgress = Callable[[str, float], None]


class Display:
    """What a user sees of a verb's work; a context manager.

    Attributes:
        console: where it is shown.
        quiet: nothing is shown.
    """

    def __init__(
        self,
        console: Console,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        write_line: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; bars are shown from entering on.

        Args:
            console: a terminal, or what takes lines.
            quiet: show nothing.
            clock: in seconds.
            write_line: takes the lines where there are no bars; None: the console,
                with the seconds since the beginning before each.
        """
        self.console, self.quiet = console, quiet
        self._clock, self._began = clock, clock()
        self._write_line = write_line or self._print_with_time
        is_terminal = console.is_terminal and not console.is_dumb_terminal
        self.has_bars = is_terminal and not quiet
        self.bars = Progress(
            *_columns(console.width),
            console=console,
            speed_estimate_period=_PACE_S,
            transient=True,
            redirect_stdout=False,
            # What a library says goes above the bars, if it came here anyway.
            redirect_stderr=sys.stderr.isatty(),
            get_time=clock,
            disable=not self.has_bars,
        )

    def __enter__(self) -> Self:
        """Show the bars."""
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bars."""
        self.bars.stop()

    def step(self, name: str, purpose: str = "") -> "Step":
        """Begin a piece of work."""
        step = Step(self, name, self._clock)
        if purpose:
            self.line(f"{name}: {purpose}")
        return step

    def conclude(self, name: str, seconds: float, summary: str, ok: bool) -> None:
        """Show what came of a piece of work, on a line that stays."""
        if not self.has_bars:
            detail = f": {summary}" if summary else ""
            self.line(
                f"{name} {'done' if ok else 'stopped'} in {seconds:.1f} s{detail}"
            )
            return
        mark = "[green]done[/green]" if ok else "[red]stopped[/red]"
        line = f"{mark:24} {name:11} [dim]{seconds:6.1f} s[/dim]  {plain(summary)}"
        self.console.print(line, highlight=False)

    def print(self, text: str, *, label: str = "") -> None:
        """Print a line that stays, above the bars where there are some.

        Args:
            text: as it is, but for what would steer the terminal.
            label: comes before it, in yellow.
        """
        if self.quiet:
            return
        text = printable(text)
        line = Text(text)
        if label:
            line = Text.assemble((label, "yellow"), f": {text}")
        self.console.print(line, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Write a line, where there are no bars."""
        if not self.has_bars and not self.quiet:
            self._write_line(text)

    @contextlib.contextmanager
    def following(self, look: Callable[[], None]) -> Iterator[None]:
        """Call `look`, which updates steps, every half second while the body runs.

        It runs in a thread. What it cannot read now it may read the next time.
        """
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(_POLL_S):
                try:
                    look()
                except (ReaderGone, OutputError):  # of which the body hears as well
                    return
                except (TaktError, OSError):
                    continue

        thread = threading.Thread(target=follow, name="progress", daemon=True)
        if not self.quiet:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if not self.quiet:
                thread.join()

    def _print_with_time(self, text: str) -> None:
        line = f"[{self._clock() - self._began:6.1f} s] {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Step:
    """A piece of work under way; a context manager that removes its bar."""

    def __init__(self, display: Display, name: str, clock: Callable[[], float]) -> None:
        """Add the bar; `Display.step` is how steps are made."""
        self._display, self._name, self._clock = display, name, clock
        self._stage, self._share = "", 0.0
        self._repeats: Counter[str] = Counter()
        self._tenths: dict[str, int] = {}  # written, by stage
        self._written_at = 0.0
        self._task = display.bars.add_task(
            name, total=None, stage="", share=None, detail="", updated_at=clock()
        )

    def __enter__(self) -> Self:
        """Return the step itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self.end()

    def end(self) -> None:
        """Remove the bar."""
        with contextlib.suppress(KeyError):  # it is gone already
            self._display.bars.remove_task(self._task)

    def __call__(self, stage: str, share: float) -> None:
        """Show a stage and which share of it is done; an `OnProgress`."""
        self.update(share, stage=stage)

    def update(
        self, share: float | None = None, *, stage: str = "", detail: str = ""
    ) -> None:
        """Show how far the work is.

        Args:
            share: of this stage, in [0, 1]; None: not known.
            stage: what is being done; another one has a pace of its own.
            detail: figures, beside the bar.
        """
        bars, now, detail = self._display.bars, self._clock(), printable(detail)
        fields: dict[str, Any] = {
            "stage": stage,
            "share": share,
            "detail": detail,
            "updated_at": now,
        }
        is_new = stage != self._stage
        total = None if share is None else 1.0
        try:
            if is_new or (share or 0.0) < self._share:  # another pace
                bars.reset(self._task, **fields)
            bars.update(self._task, total=total, completed=share, **fields)
        except KeyError:  # another thread has ended the step meanwhile
            return
        self._stage, self._share = stage, share or 0.0
        if self._is_due(share, now, is_new=is_new):
            self._written_at = now
            self._display.line(f"  {self._text(share, stage, detail)}")

    def _is_due(self, share: float | None, now: float, *, is_new: bool) -> bool:
        """Decide whether to write a line: a bounded number of them for each stage."""
        stage = self._stage
        tenth = int(10 * (share or 0.0))
        before = self._tenths.get(stage, -1)
        if is_new and stage:
            self._repeats[stage] += 1
            if self._repeats[stage] <= _MOST_REPEATS:
                self._tenths[stage] = max(before, tenth)
                return True
        waited = before < 0 or now - self._written_at >= _BETWEEN_LINES_S
        if not share or tenth <= before or not waited:
            return False
        self._tenths[stage] = tenth
        return True

    def _text(self, share: float | None, stage: str, detail: str) -> str:
        parts = [stage] if stage else []
        if share:
            parts.append(f"{100 * share:.0f} %")
        task = next((t for t in self._display.bars.tasks if t.id == self._task), None)
        if task is not None and (left := _left(task)):
            parts.append(left)
        if detail:
            parts.append(detail)
        return f"{self._name}: {', '.join(parts)}"


def _left(task: Task) -> str:
    """Say how long a task still takes; "" where its pace is not known yet."""
    remaining = task.time_remaining
    if remaining is None or task.finished:
        return ""
    remaining -= task.get_time() - task.fields["updated_at"]
    return f"{_duration(max(remaining, 0.0))} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class _Cell(ProgressColumn):
    """A text of a task, on one line, cut where the terminal is too narrow."""

    def __init__(self, text: Callable[[Task], str], style: str = "") -> None:
        super().__init__(Column())
        self._text, self._style = text, style

    def render(self, task: Task) -> Text:
        """Draw the cell."""
        text = self._text(task)
        return Text(text, style=self._style, no_wrap=True, overflow="ellipsis")


def _name(task: Task) -> str:
    stage = task.fields["stage"]
    return f"{task.description}: {stage}" if stage else task.description


def _percent(task: Task) -> str:
    return "" if task.fields["share"] is None else f"{task.percentage:3.0f} %"


def _elapsed(task: Task) -> str:
    return _duration(task.elapsed or 0.0)


def _detail(task: Task) -> str:
    return str(task.fields["detail"])


def _columns(width: int) -> list[ProgressColumn]:
    """Choose what a bar's line holds in a terminal of so many columns."""
    spinner = SpinnerColumn(table_column=Column(no_wrap=True))
    name, percent = _Cell(_name), _Cell(_percent)
    times = [_Cell(_elapsed, "dim"), _Cell(_left)]
    if width < _NARROW:
        return [spinner, name, percent]
    if width < _WIDE:
        return [spinner, name, BarColumn(10), percent, *times]
    return [spinner, name, BarColumn(20), percent, *times, _Cell(_detail, "dim")]
