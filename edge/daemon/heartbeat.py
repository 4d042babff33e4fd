"""Two threads that keep the gateway and the node informed of each other.

`Herald` sends heartbeats: at once on a new state, else every few seconds, always the
latest word only. `Watcher` listens for new releases and wakes the daemon. Both swallow
network errors, for neither may stop the work; both come back by themselves after an
outage. Not here: reports, which must arrive (edge/daemon/reports.py).
"""

import logging
import random
import threading
from collections.abc import Callable

from common.errors import Interrupted, TaktError
from common.pb import takt_pb2
from edge.link.client import Link
from edge.link.retry import full_jitter
from edge.records import Status

logger = logging.getLogger(__name__)

_FIRST_S, _MAX_S = 1.0, 30.0


class Herald:
    """Sends the latest status, from a thread of its own."""

    def __init__(self, link: Link, *, interval_s: float) -> None:
        """Start silent; the first `tell` breaks the silence."""
        self._link = link
        self._interval_s = interval_s
        self._news = threading.Condition()
        self._status: Status | None = None
        self._is_new = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="herald", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell(self, status: Status) -> None:
        """Note the latest status; a new state or message is sent at once."""
        with self._news:
            before, self._status = self._status, status
            if before is None or _word(before) != _word(status):
                self._is_new = True
                self._news.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send the last word if that goes quickly, and end the thread."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._news:
                if not self._is_new and not self._is_closing:
                    self._news.wait(self._interval_s)
                if self._is_closing and not self._is_new:
                    return
                self._is_new = False
                status = self._status
            if status is None:
                continue
            try:
                self._link.heartbeat(
                    takt_pb2.HeartbeatRequest(
                        state=status.state,
                        version=status.version,
                        progress=status.progress,
                        message=status.message,
                    )
                )
            except Interrupted:
                return
            except TaktError as e:
                logger.debug("heartbeat not delivered: %s", e)


def _word(status: Status) -> tuple[str, str, int]:
    """Take what is worth a heartbeat at once."""
    return status.state, status.message, status.version


class Watcher:
    """Listens for releases, from a thread of its own."""

    def __init__(
        self,
        link: Link,
        *,
        channel: str,
        known_version: Callable[[], int],
        on_news: Callable[[], None],
        stop: threading.Event,
        rng: random.Random,
    ) -> None:
        """Prepare.

        Args:
            link: to the gateway.
            channel: to listen on.
            known_version: the one that was handled last, asked at each reconnect.
            on_news: called when another version is announced.
            stop: ends the thread.
            rng: of the pauses between reconnects.
        """
        self._link = link
        self._channel = channel
        self._known_version = known_version
        self._on_news = on_news
        self._stop = stop
        self._rng = rng
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Wait for the thread to end; `stop` must be set."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                for version in self._link.watch(self._channel, self._known_version()):
                    failures = 0
                    if version != self._known_version():
                        self._on_news()
            except Interrupted:
                return
            except TaktError as e:
                logger.debug("not listening on %s: %s", self._channel, e)
            failures += 1
            pause_s = full_jitter(failures, self._rng, first_s=_FIRST_S, max_s=_MAX_S)
            self._stop.wait(pause_s)
