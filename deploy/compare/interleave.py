"""Several trainings in one process, an epoch at a time, at equal CPU-seconds.

A CPU-second of a busy machine does less work than one of an idle machine, by up to
two times on cores that share their units. Trainings that are to be compared at
equal CPU-seconds are therefore interleaved, each in a thread of its own of which one
runs at a time: the one that has used the least goes on. What slows one slows all
alike. Not here: what a training is (edge.distill.fitting.fit).
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common.errors import Interrupted

T = TypeVar("T")
# Called between steps with the CPU-seconds used so far; returns when it may go on.
YieldCpu = Callable[[float], None]


class Interleaver:
    """Lets one of several threads run at a time."""

    def __init__(self, count: int) -> None:
        """Begin with the first thread."""
        self._used_s = [0.0] * count  # by each so far; infinite: it is done
        self._running = 0
        self._failed = False
        self._changed = threading.Condition()

    def begin(self, me: int) -> None:
        """Wait until this thread runs for the first time."""
        with self._changed:
            self._wait(me)

    def yield_after(self, me: int, used_s: float) -> None:
        """Let the thread that has used the least run; return when this one may go on.

        Raises:
            Interrupted: another thread failed.
        """
        with self._changed:
            self._used_s[me] = used_s
            self._choose()
            self._wait(me)

    def end(self, me: int, *, failed: bool) -> None:
        """Leave the CPU to the others; after a failure they end as well."""
        with self._changed:
            self._failed |= failed
            self._used_s[me] = math.inf
            self._choose()

    def _choose(self) -> None:
        self._running = self._used_s.index(min(self._used_s))
        self._changed.notify_all()

    def _wait(self, me: int) -> None:
        self._changed.wait_for(lambda: self._running == me or self._failed)
        if self._failed:
            raise Interrupted("another training of the same comparison failed")


def interleave(works: Sequence[Callable[[YieldCpu], T]]) -> list[T]:
    """Do several works, one at a time.

    Args:
        works: each calls its argument between steps.

    Returns:
        What the works returned, in their order.

    Raises:
        Exception: of the first work that failed; the others end when they next yield.
    """
    interleaver = Interleaver(len(works))

    def run(me: int) -> T:
        failed = True
        try:
            interleaver.begin(me)
            result = works[me](lambda used_s: interleaver.yield_after(me, used_s))
            failed = False
            return result
        finally:
            interleaver.end(me, failed=failed)

    with ThreadPoolExecutor(len(works)) as threads:
        futures = [threads.submit(run, me) for me in range(len(works))]
    errors = [future.exception() for future in futures]
    own = [error for error in errors if error is not None]
    for error in sorted(own, key=lambda error: isinstance(error, Interrupted)):
        raise error
    return [future.result() for future in futures]
