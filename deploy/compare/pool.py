"""Worker processes that make the rows of `takt compare`, several at a time.

One process a group of rows, computing on one thread. Not here: which rows (grid.py),
what a process does (worker.py).
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Self

from common.errors import TaktError, error_of
from deploy.compare.messages import GroupJob, WorkerUpdate
from deploy.compare.rows import Row
from deploy.runtime.worker_pool import WorkerPool


class RowPool:
    """Makes rows; a context manager that ends what is still at work."""

    def __init__(self, *, num_workers: int, log: Path) -> None:
        """Prepare; `num_workers` groups are made at a time."""
        self._workers = WorkerPool(
            "deploy.compare.worker", num_threads=num_workers, log=log
        )
        self._lock = threading.Lock()
        self._updates: dict[str, WorkerUpdate] = {}

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers, whatever they are doing."""
        self._workers.close()

    def submit(self, group: GroupJob) -> list[Future[Row]]:
        """Queue a group; its rows come one by one, in its order."""
        rows: list[Future[Row]] = [Future() for _ in group.jobs]
        self._workers.submit(self._make, group, rows)
        return rows

    def updates(self) -> Mapping[str, WorkerUpdate]:
        """Return how far the groups under way are, by their first row's digest."""
        with self._lock:
            return dict(self._updates)

    def _make(self, group: GroupJob, rows: list[Future[Row]]) -> None:
        """Run a group's process; rows that do not come get the error."""
        waiting = list(rows)
        try:
            code = self._run(group, waiting)
            if waiting:
                raise TaktError(
                    f"a worker of compare died (exit code {code}); see "
                    f"{self._workers.log}, and run compare again to go on"
                )
        except Exception as e:
            for future in waiting:
                future.set_exception(e)

    def _run(self, group: GroupJob, waiting: list[Future[Row]]) -> int:
        """Take each row off `waiting` as it comes; return the process's exit code."""
        name = group.jobs[0].digest
        process = self._workers.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            self._show(name, WorkerUpdate(step="starting"))
            with suppress(BrokenPipeError):  # it died; its exit code says more
                process.stdin.write(group.model_dump_json())
                process.stdin.close()
            for line in process.stdout:
                update = WorkerUpdate.model_validate_json(line)
                if update.error_code:
                    raise error_of(update.error_code)(update.error)
                if update.row is not None:
                    waiting.pop(0).set_result(update.row)
                else:
                    self._show(name, update)
            return process.wait()
        finally:
            self._workers.end(process)
            with self._lock:
                self._updates.pop(name, None)

    def _show(self, name: str, update: WorkerUpdate) -> None:
        with self._lock:
            self._updates[name] = update
