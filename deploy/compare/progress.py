"""The progress of `takt compare` in the terminal: bars, or a line a step without one.

Not here: what is done (run.py), the summary at the end (tables.py).
"""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


def open_progress(console: Console) -> Progress:
    """Make the bars, which show only in a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


class StepDisplay:
    """Shows the steps of one piece of work; a context manager that removes its bar."""

    def __init__(self, progress: Progress, name: str) -> None:
        """Add a bar of this name."""
        self._progress, self._name, self._step = progress, name, ""
        self._task = progress.add_task(name, total=1.0)

    def __enter__(self) -> Self:
        """Return the display itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self._progress.remove_task(self._task)

    def __call__(self, step: str, share: float) -> None:
        """Show a step, and which share of it is done."""
        text = f"{self._name}: {step}"
        self._progress.update(self._task, description=text, completed=share)
        if step != self._step and self._progress.disable:
            print_line(self._progress.console, text)
        self._step = step


def print_line(console: Console, text: str) -> None:
    """Print a text as it is, on one line."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
