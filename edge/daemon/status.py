"""The daemon's status: kept in one place, written to status.json, passed to listeners.

A new state, message, release or epoch is published at once, everything else at
most once a second. A disk that cannot take the status never stops the work. Not
here: the values (edge/daemon/node.py and edge/daemon/release_handler.py set them).
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from common.errors import StorageError
from edge.state import StateDir, Status

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_URGENT = ("state", "message", "version", "epoch", "outcome", "cap")


class StatusReporter:
    """Holds the present status; used from the daemon's main thread.

    Attributes:
        status: the present one.
        on_publish: called with each status that is published.
        on_update: called at each `update`, which shows that the daemon is alive.
    """

    def __init__(self, state: StateDir, status: Status) -> None:
        """Start with `status`, unwritten."""
        self.status = status
        self.on_publish: Callable[[Status], None] = lambda status: None
        self.on_update: Callable[[], None] = lambda: None
        self._state = state
        self._published_at = 0.0

    def update(
        self, state: str | None = None, *, is_told: bool = False, **changes: Any
    ) -> None:
        """Change the status; publish it if it is urgent, or a second has passed.

        Args:
            state: the new state, None for the same; a new one clears the message.
            is_told: the user is told of it elsewhere: the log goes without.
            changes: fields of `Status`.
        """
        self.on_update()
        before = self.status
        if state is not None and state != before.state:
            changes = {"message": "", "progress": 0.0, **changes, "state": state}
        self.status = before.model_copy(update=changes)
        is_urgent = any(getattr(before, n) != getattr(self.status, n) for n in _URGENT)
        if not is_urgent and time.monotonic() - self._published_at < _INTERVAL_S:
            return
        if is_urgent and not is_told:
            logger.info(
                "%s version %d %s",
                self.status.state,
                self.status.version,
                self.status.message,
            )
        self._published_at = time.monotonic()
        try:
            self._state.write_status(self.status)
        except StorageError as e:
            logger.warning("%s", e)
        self.on_publish(self.status)


def summary_line(status: Status) -> str:
    """Sum a status up in a line, as `systemctl status` shows it."""
    release = f", release {status.version}" if status.version else ""
    epoch = f", epoch {status.epoch}/{status.epochs}" if status.epochs else ""
    return f"{status.state}{release}{epoch}: {status.message}".removesuffix(": ")
