"""The phases of a run: their order, their times, and the one under way.

Phases follow each other, so their seconds add up to the total; what runs in
the background (waiting nodes, evaluations) counts in the phase that waits for it. Not
here: what the phases do, and how they are shown.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


class PhaseView(Protocol):
    """What shows the phases, see `deploy/simulation/live_view.py`."""

    def phase_started(self, name: str, purpose: str) -> None:
        """Show that a phase begins."""

    def phase_ended(self, name: str, seconds: float, summary: str, ok: bool) -> None:
        """Show that it is over, with a summary of its results."""


@dataclass
class Phase:
    """One phase under way; `summary` is shown when it ends."""

    name: str
    summary: str = ""


@dataclass
class Phases:
    """Measures phases against a clock in seconds."""

    view: PhaseView
    clock: Callable[[], float]
    current: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start the total."""
        self._start = self.clock()

    @contextmanager
    def phase(self, name: str, purpose: str) -> Iterator[Phase]:
        """Time a block and show it; a failing one is timed, too."""
        phase = Phase(name)
        self.current = name
        self.view.phase_started(name, purpose)
        start = self.clock()
        ok = False
        try:
            yield phase
            ok = True
        finally:
            self.seconds[name] = self.clock() - start
            self.view.phase_ended(name, self.seconds[name], phase.summary, ok)

    def timings(self) -> dict[str, float]:
        """List the seconds of each phase and, last, in all."""
        total = self.clock() - self._start
        return {
            name: round(seconds, 3)
            for name, seconds in {**self.seconds, "total": total}.items()
        }
