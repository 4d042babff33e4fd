"""What the daemon says of itself: one status, to status.json and the gateway.

A new state, message, release or epoch is written at once, everything else at
most once a second. A disk that cannot take the status never stops the work. Not
here: what is true (edge/daemon/node.py and edge/daemon/release_handler.py say it).
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from common.errors import StorageError
from edge.records import Status
from edge.state import StateDir

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_NEWS = ("state", "message", "version", "epoch", "outcome", "cap")


class StatusBoard:
    """Holds the present status; used from the daemon's main thread."""

    def __init__(self, state: StateDir, status: Status) -> None:
        """Start with `status`, unwritten."""
        self.status = status
        self.on_change: Callable[[Status], None] = lambda status: None
        self.on_word: Callable[[], None] = lambda: None  # of each `say`: it is alive
        self._state = state
        self._written_at = 0.0

    def say(self, state: str | None = None, **changes: Any) -> None:
        """Change the status and make it known.

        Args:
            state: the new state, None for the same; a new one clears the message.
            changes: fields of `Status`.
        """
        self.on_word()
        before = self.status
        if state is not None and state != before.state:
            changes = {"message": "", "progress": 0.0, **changes, "state": state}
        self.status = before.model_copy(update=changes)
        is_news = any(getattr(before, n) != getattr(self.status, n) for n in _NEWS)
        if not is_news and time.monotonic() - self._written_at < _INTERVAL_S:
            return
        if is_news:
            logger.info(
                "%s version %d %s",
                self.status.state,
                self.status.version,
                self.status.message,
            )
        self._written_at = time.monotonic()
        try:
            self._state.write_status(self.status)
        except StorageError as e:
            logger.warning("%s", e)
        self.on_change(self.status)


def in_a_line(status: Status) -> str:
    """Say a status as `systemctl status` shows it."""
    release = f", release {status.version}" if status.version else ""
    epoch = f", epoch {status.epoch}/{status.epochs}" if status.epochs else ""
    return f"{status.state}{release}{epoch}: {status.message}".removesuffix(": ")
