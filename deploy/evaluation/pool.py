"""Accuracies on the test split, measured by worker processes in the background.

AutoAttack takes 30 to 70 ms an image on one core, so models (and chunks of very
many images) are spread over as many single-threaded workers as there are cores.
Chunks are of a fixed size: results do not depend on the number of workers. Workers
run at a low priority, below the nodes and the teacher. Not here: the
measuring itself (`deploy/evaluation/worker.py`, `common/robustness/evaluate.py`).
"""

import os
import queue
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.config import DatasetConfig
from common.errors import TaktError, error_of
from common.records import Evaluation
from deploy.evaluation.worker import EvaluationJob, EvaluationReply
from deploy.report.result import Accuracies
from deploy.runtime.processes import exchange
from deploy.runtime.worker_pool import WorkerPool

# Images. Small nets are cheapest in large batches (360 images of a net of 1,000
# parameters: 33 CPU-seconds in one chunk, 59 in three), so few results are cut.
CHUNK = 512
LOW_PRIORITY = 10  # nice; lower would starve on a machine that others use, too


@dataclass
class Measurement:
    """A measurement that is under way."""

    clean: Future[EvaluationReply]
    chunks: list[Future[EvaluationReply]]

    @property
    def progress(self) -> float:
        """Return the fraction of the chunks that is done."""
        return sum(chunk.done() for chunk in self.chunks) / len(self.chunks)

    def done(self) -> bool:
        """Return whether `result` would return at once."""
        return self.clean.done() and all(chunk.done() for chunk in self.chunks)

    def result(self, timeout: float | None = None) -> Accuracies:
        """Wait for the accuracies.

        Raises:
            TaktError: a worker met an error, or died.
        """
        clean = _accepted(self.clean.result(timeout)).clean_accuracy
        found = [_accepted(chunk.result(timeout)).robust for chunk in self.chunks]
        robust = [evaluation for evaluation in found if evaluation is not None]
        assert clean is not None and len(robust) == len(found)
        return Accuracies(clean, merge_chunks(robust))


def merge_chunks(chunks: Sequence[Evaluation]) -> Evaluation:
    """Join evaluations of disjoint images; several are marked by a flag."""
    num_images = sum(chunk.num_images for chunk in chunks)
    right = sum(chunk.accuracy * chunk.num_images for chunk in chunks)
    flags = {flag for chunk in chunks for flag in chunk.flags}
    if len(chunks) > 1:
        flags.add(f"chunks_of_{max(chunk.num_images for chunk in chunks)}")
    return chunks[0].model_copy(
        update={
            "num_images": num_images,
            "accuracy": round(right) / num_images,
            "flags": tuple(sorted(flags)),
        }
    )


def cut(num_images: int, chunk: int = CHUNK) -> list[tuple[int, int]]:
    """Cut images into (first, count) chunks."""
    return [
        (first, min(chunk, num_images - first)) for first in range(0, num_images, chunk)
    ]


class EvaluationPool:
    """Worker processes that measure models; a context manager that ends them."""

    def __init__(
        self,
        *,
        dataset: DatasetConfig,
        seed: int,
        num_test: int,
        eps: float,
        num_workers: int,
        log: Path,
    ) -> None:
        """Prepare; `seed` is of the data set's split and of the attacks."""
        self._dataset = dataset
        self._seed = seed
        self._num_test = num_test
        self._eps = eps
        self._num_workers = num_workers
        self._workers = WorkerPool(
            "deploy.evaluation.worker", num_threads=num_workers, log=log
        )
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Start the workers."""
        for _ in range(self._num_workers):
            self._start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers, whatever they are doing."""
        self._workers.close()

    def submit(self, model: Path, num_images: int) -> Measurement:
        """Queue a model: AutoAttack on the first `num_images`, clean on all."""
        num_images = min(num_images, self._num_test)
        clean = self._ask(model, 0, self._num_test, attack=False)
        chunks = [
            self._ask(model, first, count, attack=True)
            for first, count in cut(num_images)
        ]
        return Measurement(clean, chunks)

    def _ask(
        self, model: Path, first: int, count: int, *, attack: bool
    ) -> Future[EvaluationReply]:
        job = EvaluationJob(
            model=model.resolve(),
            dataset=self._dataset,
            dataset_seed=self._seed,
            first=first,
            count=count,
            eps=self._eps,
            seed=self._seed,
            attack=attack,
        )
        return self._workers.submit(self._exchange, job)

    def _exchange(self, job: EvaluationJob) -> EvaluationReply:
        for _ in range(2):  # a worker may die for outside reasons: out of memory
            worker = self._idle.get()
            line = exchange(worker, job.model_dump_json())
            if line:
                self._idle.put(worker)
                return EvaluationReply.model_validate_json(line)
            code = self._workers.end(worker)
            self._start()
        return EvaluationReply(
            error_code=TaktError.exit_code,
            error=(
                f"an evaluation worker died (exit code {code}) on {job.model.name}, "
                f"twice; see {self._workers.log}"
            ),
        )

    def _start(self) -> None:
        worker = self._workers.start()
        with suppress(ProcessLookupError):  # it has died, which `exchange` will show
            os.setpriority(os.PRIO_PROCESS, worker.pid, LOW_PRIORITY)
        self._idle.put(worker)


def _accepted(reply: EvaluationReply) -> EvaluationReply:
    if reply.error_code:
        raise error_of(reply.error_code)(reply.error)
    return reply
