"""The wall clock that certificates, metadata, heartbeats and reports are dated with.

Whoever dates something takes a `Clock` as an argument, so that a test can set the
time. Not here: durations, which come from `time.monotonic`.
"""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Read the wall clock, in UTC."""
    return datetime.now(UTC)
