"""One thread beside the main one, for calls that may never return.

Unlike an executor's, it does not hold up the end of the process when a call hangs in a
library. Not here: pools of worker processes (worker_pool.py).
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A thread that makes calls, and lives until the context ends.

    Child processes that it starts are tied to it, see `processes.tied_to_parent`.
    """

    def __init__(self, name: str) -> None:
        """Name the thread; it starts with the context."""
        self._calls: queue.SimpleQueue[tuple[Future[T], Callable[[], T]] | None]
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Let the thread end after its present call."""
        self._calls.put(None)

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Queue a call."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            try:
                future.set_result(call())
            except BaseException as e:
                future.set_exception(e)
