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
from common.config.own_images import CameraShift
from common.errors import TaktError, error_of
from common.records import Evaluation
from deploy.evaluation.images import OWN_CLASSES
from deploy.evaluation.worker import ClassCount, EvaluationJob, EvaluationReply
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

    def result(
        self, timeout: float | None = None, *, classes: Sequence[int] = ()
    ) -> Accuracies:
        """Wait for the accuracies.

        Args:
            timeout: in seconds; None: as long as it takes.
            classes: a node's own, which are measured apart as well; none: not.

        Raises:
            TaktError: a worker met an error, or died.
        """
        clean = _accepted(self.clean.result(timeout)).clean_accuracy
        replies = [_accepted(chunk.result(timeout)) for chunk in self.chunks]
        found = [reply.robust for reply in replies if reply.robust is not None]
        assert clean is not None and len(found) == len(replies)
        robust = merge_chunks(found)
        counts = [reply.by_class for reply in replies]
        return Accuracies(clean, robust, _of_classes(robust, counts, classes))


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


def _of_classes(
    robust: Evaluation,
    counts: Sequence[tuple[ClassCount, ...]],
    classes: Sequence[int],
) -> Evaluation | None:
    """Take the figure of some classes from an attack on all; None: no image of them."""
    own = [chunk[k] for chunk in counts for k in classes if k < len(chunk)]
    attacked = sum(count.attacked for count in own)
    if not attacked:
        return None
    return robust.model_copy(
        update={
            "num_images": attacked,
            "accuracy": sum(count.robust for count in own) / attacked,
            "flags": (*robust.flags, OWN_CLASSES),
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

    def submit(
        self, model: Path, num_images: int, *, shift: CameraShift = "none"
    ) -> Measurement:
        """Queue a model: AutoAttack on `num_images` test images, clean on all.

        Args:
            model: safetensors with takt's model card.
            num_images: to attack, some of each class; at most the test images.
            shift: how the camera of the model's node shifts its images.
        """
        num_images = min(num_images, self._num_test)
        job = EvaluationJob(
            model=model.resolve(),
            dataset=self._dataset,
            dataset_seed=self._seed,
            num_images=num_images,
            shift=shift,
            eps=self._eps,
            seed=self._seed,
        )
        clean = self._ask(job, attack=False)
        chunks = [
            self._ask(job, first=first, count=count) for first, count in cut(num_images)
        ]
        return Measurement(clean, chunks)

    def _ask(self, job: EvaluationJob, **part: object) -> Future[EvaluationReply]:
        return self._workers.submit(self._exchange, job.model_copy(update=part))

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
