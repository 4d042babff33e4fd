"""The network that a node's profile allows: its bandwidth, and its planned outages.

The token bucket is paid after each read and may go into debt; the next read waits
until the debt is gone. So a message larger than a second's worth still passes, and the
average holds. That is why no rate limiter of a library is used: those are asked before
the transfer, and an amount above their capacity never passes. While an outage lasts, no
call to the gateway begins and those under way break off, as if the cable were out. Both
work alike in a simulation, a container and on a device, and need no rights. Time and
sleeping enter by arguments. Not here: what is read, what becomes of the calls
(edge/link/connection.py), and the kernel's own traffic shaping.
"""

import threading
from collections.abc import Callable, Sequence

import grpc

from common.config import CutConfig


class TokenBucket:
    """Keep an average rate in bytes a second; safe for several threads."""

    def __init__(
        self,
        rate_bytes_s: float,
        *,
        burst_bytes: float,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        """Start full.

        Args:
            rate_bytes_s: the average to keep, above 0.
            burst_bytes: what may pass at once after an idle time.
            clock: a monotonic clock in seconds.
            sleep: waits so many seconds; it may return early (a stop).
        """
        self._rate = rate_bytes_s
        self._burst = burst_bytes
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = burst_bytes
        self._filled = clock()

    def pay(self, num_bytes: int) -> float:
        """Book bytes that were read, and sleep off the debt.

        Returns:
            The seconds that the debt asked for (0 when there was none).
        """
        with self._lock:
            now = self._clock()
            gained = (now - self._filled) * self._rate
            self._tokens = min(self._burst, self._tokens + gained) - num_bytes
            self._filled = now
            debt_s = max(0.0, -self._tokens / self._rate)
        if debt_s > 0:
            self._sleep(debt_s)
        return debt_s


class CutError(grpc.RpcError):
    """A call that an outage of the profile ended, or did not let begin."""

    def code(self) -> grpc.StatusCode:
        """Count as a broken connection."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return the reason."""
        return "this node's network is cut, as its profile says"


class Outages:
    """When the network is out, counted from its first use."""

    def __init__(self, cuts: Sequence[CutConfig], clock: Callable[[], float]) -> None:
        """Prepare; `clock` is monotonic, in seconds."""
        self._clock = clock
        self._start: float | None = None
        self._spans = [(cut.after_s, cut.after_s + cut.for_s) for cut in cuts]

    def is_out(self) -> bool:
        """Check whether the network is cut at this moment.

        The first question starts the count, not the daemon: however long that takes to
        start, a cut of the first seconds meets its first call.
        """
        now = self._clock()
        if self._start is None:
            self._start = now
        return any(begin <= now - self._start < end for begin, end in self._spans)
