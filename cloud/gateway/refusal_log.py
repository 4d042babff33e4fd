"""Calls that end with an error, in the gateway's log: the like of them once a minute.

A node that is refused may call again at once, as often as it likes: line by line it
would wash all else out of the log's two files. The status page counts every call. Who
has no certificate yet is refused seldom enough to be named each time (`refusals`). Not
here: which status an error becomes (`cloud.gateway.interceptor`).
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

import grpc

from cloud.errors import ThrottledError
from cloud.gateway.health import CHECK

logger = logging.getLogger(__name__)

EVERY_S = 60.0
MAX_KINDS = 1024  # of node, method and reason together; the oldest is forgotten


class RefusalLog:
    """What was said of refused calls lately; used from one event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember none; `clock` gives seconds."""
        self._clock = clock
        # By node, method and kind of error: when it was said, and how many since.
        self._said: OrderedDict[tuple[str, str, str], tuple[float, int]] = OrderedDict()

    def num_remembered(self) -> int:
        """Return how many kinds of refusals are remembered."""
        return len(self._said)

    def note(
        self,
        error: Exception,
        code: grpc.StatusCode,
        *,
        method: str,
        node: str,
        peer: str,
    ) -> None:
        """Say that a call ended with an error, unless its like was said just now.

        Args:
            error: the reason.
            code: what it leaves as.
            method: the full name of the call.
            node: that its certificate names; "": it has none.
            peer: its address.
        """
        is_bug = code is grpc.StatusCode.INTERNAL
        # What fails is the operator's to mend; the node waits and tries again.
        is_failure = is_bug or code is grpc.StatusCode.UNAVAILABLE
        if not is_failure and (
            # Anybody may send health checks that are refused, as many as he likes.
            isinstance(error, ThrottledError) or method.startswith(CHECK)
        ):
            logger.debug("%s from %s refused: %s", method, peer, error)
            return
        left_out = 0
        if node or is_failure:
            seen = self._seen((node, method, type(error).__name__))
            if seen is None:
                return
            left_out = seen
        ended = "failed: " if is_failure else "refused: "
        logger.log(
            logging.ERROR if is_failure else logging.INFO,
            "%s from %s %s%s",
            method,
            peer,
            "failed unexpectedly" if is_bug else f"{ended}{error}",
            f" (and {left_out} more like it since the last line)" if left_out else "",
            exc_info=error if is_bug else None,
        )

    def _seen(self, key: tuple[str, str, str]) -> int | None:
        """Count one more; return how many were left out, or None: so is this one."""
        now = self._clock()
        before = self._said.get(key)
        if before is not None and now < before[0] + EVERY_S:
            self._said[key] = before[0], before[1] + 1
            return None
        self._said[key] = now, 0
        self._said.move_to_end(key)
        if len(self._said) > MAX_KINDS:
            self._said.popitem(last=False)
        return before[1] if before else 0
