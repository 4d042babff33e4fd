"""Cancels a streaming call that has gone silent, or that a stop or an outage ends.

A gRPC deadline covers a whole call, and a slow but moving transfer may take
hours; what counts is how long one read waits. A thread watches the read under
way and cancels the call. Time between reads (waiting for bandwidth) does not count as
silence. Not here: what happens next (edge/link/client.py resumes).
"""

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

_TICK_S = 0.1


class StallGuard:
    """Watch the reads of one streaming call; a context manager."""

    def __init__(
        self, call: Any, stall_s: float | None, should_cancel: Callable[[], bool]
    ) -> None:
        """Prepare to watch.

        Args:
            call: a server-streaming call: an iterator with `cancel`.
            stall_s: longest silence allowed; None: any.
            should_cancel: once true, the call ends within a fraction of a second.
        """
        self.stalled = False
        self._call = call
        self._stall_s = stall_s
        self._should_cancel = should_cancel
        self._done = threading.Event()
        self._reading_since: float | None = None
        self._thread = threading.Thread(
            target=self._watch, name="stall-guard", daemon=True
        )

    def __enter__(self) -> "StallGuard":
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching, and end the call if it still runs."""
        self._done.set()
        self._call.cancel()
        self._thread.join()

    def responses(self) -> Iterator[Any]:
        """Yield the call's responses, each read under watch.

        Raises:
            grpc.RpcError: the call failed, or was cancelled by this guard.
        """
        iterator = iter(self._call)
        while True:
            self._reading_since = time.monotonic()
            try:
                response = next(iterator)
            except StopIteration:
                return
            finally:
                self._reading_since = None
            yield response

    def _watch(self) -> None:
        while not self._done.wait(_TICK_S):
            since = self._reading_since
            if self._stall_s is not None and since is not None:
                self.stalled = time.monotonic() - since > self._stall_s
            if self.stalled or self._should_cancel():
                self._call.cancel()
                return
