"""A token bucket: how many bytes a second a node may read.

The bucket is paid after each read and may go into debt; the next read waits
until the debt is gone. So a chunk larger than a second's worth still passes,
and the average holds. Time and sleeping enter by arguments. Not here: what is
read, and the kernel's own traffic shaping.
"""

import threading
from collections.abc import Callable


class TokenBucket:
    """Hold an average rate in bytes a second; safe for several threads."""

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
            rate_bytes_s: the average to hold, above 0.
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
