"""A wall clock that a test moves."""

from datetime import UTC, datetime


class Clock:
    """Stands still until a test sets `now`."""

    def __init__(self) -> None:
        """Start at the first of June."""
        self.now = datetime(2026, 6, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now
