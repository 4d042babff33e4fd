"""Worker processes of a pool: none outlives it, and none is started after it."""

from pathlib import Path

import pytest
from waiting import WAIT_S, until

from common.errors import Interrupted
from deploy.runtime.processes import exchange
from deploy.runtime.worker_pool import WorkerPool

READER = "json.tool"  # of the standard library: reads stdin to its end


def test_a_closed_pool_has_ended_its_workers_and_starts_no_more(tmp_path: Path) -> None:
    pool = WorkerPool(READER, num_threads=1, log=tmp_path / "log")
    workers = [pool.start(), pool.start()]
    waiting = pool.submit(exchange, workers[0], "[1,")  # it answers at the end only
    until("the call is made", waiting.running)
    pool.close()
    assert waiting.result(timeout=WAIT_S) == ""
    assert all(worker.returncode is not None for worker in workers)
    with pytest.raises(Interrupted):
        pool.start()


def test_a_worker_that_died_is_ended_with_its_exit_code(tmp_path: Path) -> None:
    pool = WorkerPool(READER, num_threads=1, log=tmp_path / "log")
    worker = pool.start()
    assert worker.stdin is not None
    worker.stdin.close()  # an empty document: json.tool refuses it
    worker.wait(timeout=WAIT_S)
    assert exchange(worker, "late") == ""
    assert pool.end(worker) == 1
    pool.close()
