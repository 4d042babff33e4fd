"""Worker processes that make the rows of `takt compare`, several at a time.

One process a group of rows, computing on one thread. Not here: which rows
(grid.py), what a process does (worker.py).
"""

import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from common.errors import Interrupted, TaktError, error_of
from deploy.compare.rows import Row
from deploy.compare.worker import GroupJob, RowNews
from deploy.runtime.processes import close_pipes, end_trees, start_worker


class RowPool:
    """Makes rows; a context manager that ends what is still at work."""

    def __init__(self, *, num_workers: int, log: Path) -> None:
        """Prepare; `num_workers` groups are made at a time."""
        self._log = log
        self._lock = threading.Lock()
        self._closed = False
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._news: dict[str, RowNews] = {}
        self._threads = ThreadPoolExecutor(num_workers)

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the workers, whatever they are doing."""
        with self._lock:
            self._closed = True
            running = list(self._running.values())
        self._threads.shutdown(wait=False, cancel_futures=True)
        end_trees(running, grace_s=0)
        self._threads.shutdown(wait=True)

    def submit(self, group: GroupJob) -> "list[Future[Row]]":
        """Queue a group; its rows come one by one, in its order."""
        rows: list[Future[Row]] = [Future() for _ in group.jobs]
        self._threads.submit(self._make, group, rows)
        return rows

    def news(self) -> Mapping[str, RowNews]:
        """Tell how far the groups under way are, by their first row's identity."""
        with self._lock:
            return dict(self._news)

    def _make(self, group: GroupJob, rows: "list[Future[Row]]") -> None:
        """Run a group's process; the rows that do not come get what went wrong."""
        waiting = list(rows)
        try:
            code = self._run(group, waiting)
            if waiting:
                raise TaktError(
                    f"a worker of compare died (exit code {code}); see {self._log}, "
                    "and run compare again to go on"
                )
        except Exception as e:
            for future in waiting:
                future.set_exception(e)

    def _run(self, group: GroupJob, waiting: "list[Future[Row]]") -> int:
        """Take each row off `waiting` as it comes; return the process's exit code."""
        name = group.jobs[0].identity
        with self._lock:
            if self._closed:
                raise Interrupted("stopped before this row began")
            process = self._running[name] = start_worker(
                "deploy.compare.worker", self._log
            )
            self._news[name] = RowNews(step="starting")
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it died; its exit code says more
                process.stdin.write(group.model_dump_json())
                process.stdin.close()
            for line in process.stdout:
                news = RowNews.model_validate_json(line)
                if news.error_code:
                    raise error_of(news.error_code)(news.error)
                if news.row is not None:
                    waiting.pop(0).set_result(news.row)
                else:
                    with self._lock:
                        self._news[name] = news
            return process.wait()
        finally:
            end_trees([process], grace_s=0)
            with self._lock:
                del self._running[name], self._news[name]
            close_pipes(process)
