"""A thread that listens for new releases, and wakes the daemon.

Network errors are logged and never stop the work: the thread reconnects, with jitter,
until it is stopped. A missed announcement is found by the daemon's own polling. After
each wake it reads no further announcement for a while, longer each time that no release
came of it: a hostile gateway, whatever it sends, wakes the daemon about once a minute.
Not here: what the daemon does with a release (edge/daemon/release_handler.py).
"""

import logging
import random
import threading
from collections.abc import Callable

from common.errors import Interrupted, TaktError
from edge.link.client import Link
from edge.link.retry import full_jitter

logger = logging.getLogger(__name__)

_FIRST_S, _MAX_S = 1.0, 30.0
WAKE_FIRST_S, WAKE_MAX_S = 1.0, 60.0  # between two wakes; releases are minutes apart


class ReleaseWatcher:
    """Listens on one channel, from a thread of its own."""

    def __init__(
        self,
        link: Link,
        *,
        channel: str,
        known_version: Callable[[], int],
        on_release: Callable[[], None],
        stop: threading.Event,
        rng: random.Random,
    ) -> None:
        """Prepare.

        Args:
            link: to the gateway.
            channel: to listen on.
            known_version: returns the version handled last; called at each reconnect.
            on_release: called when another version is announced.
            stop: set it to end the thread.
            rng: of the jitter between reconnects.
        """
        self._link = link
        self._channel = channel
        self._known_version = known_version
        self._on_release = on_release
        self._stop = stop
        self._rng = rng
        self._known_at_wake, self._pause_s = -1, WAKE_FIRST_S
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
                        self._wake()
                    if self._stop.is_set():
                        return
            except Interrupted:
                return
            except TaktError as e:
                logger.debug("not listening on %s: %s", self._channel, e)
            failures += 1
            pause_s = full_jitter(failures, self._rng, first_s=_FIRST_S, max_s=_MAX_S)
            self._stop.wait(pause_s)

    def _wake(self) -> None:
        """Wake the daemon, then pause; unread announcements wait in the stream."""
        known = self._known_version()
        if known != self._known_at_wake:
            self._known_at_wake, self._pause_s = known, WAKE_FIRST_S
        self._on_release()
        self._stop.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, WAKE_MAX_S)
