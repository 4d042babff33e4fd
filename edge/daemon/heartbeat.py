"""A thread that sends the daemon's status to the gateway.

At once on a new state, message or version, else every few seconds; always the latest
status only. Network errors are logged and never stop the work. Not here: reports, which
must arrive (edge/daemon/reports.py).
"""

import logging
import threading

from common.errors import IdentityError, Interrupted, TaktError
from common.pb import takt_pb2
from common.records import to_wire
from edge.link.client import Link
from edge.state import Status

logger = logging.getLogger(__name__)


class Heartbeat:
    """Sends the latest status, from a thread of its own."""

    def __init__(self, link: Link, *, interval_s: float) -> None:
        """Send nothing before the first `update`."""
        self._link = link
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._status: Status | None = None
        self._is_due = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def update(self, status: Status) -> None:
        """Note the latest status; a new state, message or version is sent at once."""
        with self._changed:
            before, self._status = self._status, status
            if before is None or _urgent_part(before) != _urgent_part(status):
                self._is_due = True
                self._changed.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is due if that is quick, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        is_refused = False  # and said so
        while True:
            with self._changed:
                if not self._is_due and not self._is_closing:
                    self._changed.wait(self._interval_s)
                if self._is_closing and not self._is_due:
                    return
                self._is_due = False
                status = self._status
            if status is None:
                continue
            beat = takt_pb2.HeartbeatRequest()
            to_wire(status, beat)
            try:
                self._link.heartbeat(beat)
            except Interrupted:
                return
            except IdentityError as e:  # revoked, or another daemon has this identity
                level = logging.DEBUG if is_refused else logging.WARNING
                logger.log(level, "heartbeat refused: %s", e)
                is_refused = True
            except TaktError as e:
                logger.debug("heartbeat not delivered: %s", e)
            else:
                is_refused = False


def _urgent_part(status: Status) -> tuple[str, str, int]:
    """Take the fields whose change is sent at once."""
    return status.state, status.message, status.version
