"""Clocks that a test moves, or that only waiting moves."""

from datetime import UTC, datetime


class Clock:
    """Stands still until a test sets `now`."""

    def __init__(self) -> None:
        """Start at the first of June."""
        self.now = datetime(2026, 6, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now


class ClockOfWaits:
    """Monotonic seconds that only waits between tries move, without any waiting.

    A deadline is reached by failures then, however slow the machine is.
    """

    def __init__(self) -> None:
        """Start at 0."""
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds
