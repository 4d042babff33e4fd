"""How long, and with what pauses, a node keeps trying.

The pauses have full jitter (a uniform draw from zero to a bound that doubles), so that
a whole fleet that lost its gateway at once does not come back at once. One deadline
bounds an operation. Each byte that arrives extends it a little, so that a slow transfer
may finish but a trickle ends. Clock, sleep and randomness enter by
arguments. Not here: which failures are retried (edge/link/connection.py).
"""

import random
from collections.abc import Callable

_FIRST_S, _MAX_S = 0.2, 10.0


def full_jitter(
    failures: int, rng: random.Random, *, first_s: float, max_s: float
) -> float:
    """Draw the pause in seconds after so many failures in a row (1 or more)."""
    return rng.uniform(0.0, min(max_s, first_s * 2.0 ** min(failures - 1, 30)))


class Retry:
    """The retries of one operation, and its deadline."""

    def __init__(
        self,
        deadline_s: float,
        *,
        floor_bytes_s: float = 1024.0,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        rng: random.Random,
    ) -> None:
        """Start the clock.

        Args:
            deadline_s: from now; after it no further try is made.
            floor_bytes_s: a transfer slower than this runs into the deadline.
            clock: monotonic seconds.
            sleep: waits so many seconds.
            rng: of the jitter.
        """
        self.failures = 0  # in a row, without any progress between them
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._started = clock()
        self._deadline_s = deadline_s
        self._floor_bytes_s = floor_bytes_s
        self._deadline = self._started + deadline_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._deadline - self._clock()

    def progressed(self, num_bytes: int) -> None:
        """Note that bytes arrived: pauses are short again."""
        self.failures = 0
        credit = self._deadline + num_bytes / self._floor_bytes_s
        self._deadline = min(credit, self._clock() + self._deadline_s)

    def next_pause_s(self) -> float | None:
        """Count a failure; return the pause before the next try, None for no more."""
        self.failures += 1
        pause = full_jitter(self.failures, self._rng, first_s=_FIRST_S, max_s=_MAX_S)
        return pause if pause < self.remaining_s else None

    def sleep(self, pause_s: float) -> None:
        """Wait."""
        self._sleep(pause_s)
