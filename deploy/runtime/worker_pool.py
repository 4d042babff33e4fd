"""Threads that each talk to worker processes of one module.

What is the same in every pool of workers: starting them, and ending all of them,
whatever they are doing. Not here: the jobs of a worker (deploy.compare.pool,
deploy.evaluation.pool), how a process is started and ended (processes.py).
"""

import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from common.errors import Interrupted
from deploy.runtime.processes import close_pipes, end_trees, start_worker

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool:
    """Threads and worker processes, which `close` ends."""

    def __init__(self, module: str, *, num_threads: int, log: Path) -> None:
        """Prepare; the workers' stderr goes to `log`."""
        self.log = log
        self._module = module
        self._threads = ThreadPoolExecutor(num_threads)
        self._lock = threading.Lock()
        self._closed = False
        self._workers: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        """Cancel the calls that wait, and end the workers at once."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        self._threads.shutdown(wait=False, cancel_futures=True)
        end_trees(workers, grace_s=0)
        self._threads.shutdown(wait=True)
        for worker in workers:
            close_pipes(worker)

    def submit(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Queue a call for one of the threads."""
        return self._threads.submit(call, *args, **kwargs)

    def start(self) -> "subprocess.Popen[str]":
        """Start a worker.

        Raises:
            Interrupted: the pool was closed.
        """
        with self._lock:
            if self._closed:
                raise Interrupted("stopped before this work began")
            worker = start_worker(self._module, self.log)
            self._workers.append(worker)
        return worker

    def end(self, worker: "subprocess.Popen[str]") -> int:
        """End a worker and all that it started; return its exit code."""
        end_trees([worker], grace_s=0)
        with self._lock:
            self._workers.remove(worker)
        close_pipes(worker)
        return worker.returncode
