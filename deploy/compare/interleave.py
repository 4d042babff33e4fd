"""Several trainings in one process, an epoch at a time: whoever has used the least.

A CPU-second of a busy machine does less work than one of an idle machine, by up to
two times on cores that share their units. Trainings that are to be compared at
equal CPU-seconds therefore take turns: what slows one slows all alike. Not here:
what a training is (edge.distill.fit).
"""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common.errors import Interrupted

T = TypeVar("T")


class Turns:
    """Lets one of several threads run at a time."""

    def __init__(self, count: int) -> None:
        """Begin with the first thread's turn."""
        self._used = [0.0] * count  # by each so far; infinite: it is done
        self._turn = 0
        self._failed = False
        self._changed = threading.Condition()

    def begin(self, me: int) -> None:
        """Wait for the first turn."""
        with self._changed:
            self._wait(me)

    def yield_after(self, me: int, used_s: float) -> None:
        """Say what was used so far; return when it is this thread's turn again.

        Raises:
            Interrupted: another thread failed.
        """
        with self._changed:
            self._used[me] = used_s
            self._next()
            self._wait(me)

    def end(self, me: int, *, failed: bool) -> None:
        """Leave the turns to the others; after a failure they end as well."""
        with self._changed:
            self._failed |= failed
            self._used[me] = math.inf
            self._next()

    def _next(self) -> None:
        self._turn = self._used.index(min(self._used))
        self._changed.notify_all()

    def _wait(self, me: int) -> None:
        self._changed.wait_for(lambda: self._turn == me or self._failed)
        if self._failed:
            raise Interrupted("another training of the same comparison failed")


def in_turns(works: Sequence[Callable[[Callable[[float], None]], T]]) -> list[T]:
    """Do several works, one at a time; each gets a function to call between steps.

    Args:
        works: each takes ``rest(used_s)``, which returns when it may go on.

    Returns:
        What the works returned, in their order.

    Raises:
        Exception: of the first work that failed; the others end at their next rest.
    """
    turns = Turns(len(works))

    def run(me: int) -> T:
        failed = True
        try:
            turns.begin(me)
            result = works[me](lambda used_s: turns.yield_after(me, used_s))
            failed = False
            return result
        finally:
            turns.end(me, failed=failed)

    with ThreadPoolExecutor(len(works)) as threads:
        futures = [threads.submit(run, me) for me in range(len(works))]
    errors = [future.exception() for future in futures]
    own = [error for error in errors if error is not None]
    for error in sorted(own, key=lambda error: isinstance(error, Interrupted)):
        raise error
    return [future.result() for future in futures]
