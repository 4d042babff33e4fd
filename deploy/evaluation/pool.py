"""Accuracies on the test split, measured by worker processes in the background.

AutoAttack takes 30 to 70 ms an image on one core, so models (and chunks of very
many images) are spread over as many single-threaded workers as there are cores.
Chunks are of a fixed size: results do not depend on the number of workers. Workers
run at a low priority, below the nodes and the teacher. Not here: the
measuring itself (`deploy/evaluation/worker.py`, `common/robustness/evaluate.py`), and
what the replies come to (`deploy/evaluation/measurement.py`).
"""

import os
import queue
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from common.config import DatasetConfig
from common.config.own_images import CameraShift
from common.errors import Interrupted, TaktError
from deploy.evaluation.measurement import Measurement, accepted
from deploy.evaluation.same_model import digest_of_function
from deploy.evaluation.worker import EvaluationJob, EvaluationReply
from deploy.report.details import Answer
from deploy.runtime.processes import exchange, read_line
from deploy.runtime.worker_pool import WorkerPool

# Images. Small nets are cheapest in large batches (360 images of a net of 1,000
# parameters: 33 CPU-seconds in one chunk, 59 in three), so few results are cut.
CHUNK = 512
LOW_PRIORITY = 10  # nice; lower would starve on a machine that others use, too


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
        # None: the pool is closed.
        self._idle: queue.SimpleQueue[subprocess.Popen[str] | None] = (
            queue.SimpleQueue()
        )
        self._measurements: dict[tuple[str | None, int, CameraShift], Measurement] = {}

    def __enter__(self) -> Self:
        """Start the workers."""
        for _ in range(self._num_workers):
            self._start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers, whatever they are doing."""
        for _ in range(self._num_workers):  # for threads that wait for a worker
            self._idle.put(None)
        self._workers.close()

    def submit(
        self,
        model: Path,
        num_images: int,
        *,
        shift: CameraShift = "none",
        detailed: bool = False,
    ) -> Measurement:
        """Queue a model: AutoAttack on `num_images` test images, clean on all.

        A model that is measured already, as the same function in another file, is not
        measured again.

        Args:
            model: safetensors with takt's model card.
            num_images: to attack, some of each class; at most the test images.
            shift: how the camera of the model's node shifts its images.
            detailed: measure what the page draws as well.
        """
        num_images = min(num_images, self._num_test)
        key = (digest_of_function(model), num_images, shift)
        known = self._measurements.get(key)
        if known is not None and (known.detailed or not detailed):
            return known
        job = self._job(model, num_images=num_images, shift=shift)
        clean = self._ask(job, part="clean")
        shares: dict[int, float] = {}
        chunks = [
            self._ask(
                job,
                partial(shares.__setitem__, place),
                first=first,
                count=count,
                sampled=detailed,
            )
            for place, (first, count) in enumerate(cut(num_images))
        ]
        radii = self._ask(job, part="radii") if detailed else None
        measurement = Measurement(clean, chunks, radii, shares)
        if key[0] is not None:
            self._measurements[key] = measurement
        return measurement

    def ask(self, model: Path, pixels: Sequence[str]) -> tuple[Answer, ...]:
        """Wait for what a model says of images.

        Args:
            model: safetensors with takt's model card.
            pixels: of each image, as `EvaluationJob` has them; one at least.

        Raises:
            TaktError: a worker met an error, or died.
        """
        job = self._job(model, num_images=0)
        reply = self._ask(job, part="answers", pixels=tuple(pixels)).result()
        return accepted(reply).answers

    def _job(
        self, model: Path, *, num_images: int, shift: CameraShift = "none"
    ) -> EvaluationJob:
        return EvaluationJob(
            model=model.resolve(),
            dataset=self._dataset,
            dataset_seed=self._seed,
            num_images=num_images,
            shift=shift,
            eps=self._eps,
            seed=self._seed,
        )

    def _ask(
        self,
        job: EvaluationJob,
        on_share: Callable[[float], None] = lambda share: None,
        **part: object,
    ) -> Future[EvaluationReply]:
        job = job.model_copy(update=part)
        return self._workers.submit(self._exchange, job, on_share)

    def _exchange(
        self, job: EvaluationJob, on_share: Callable[[float], None]
    ) -> EvaluationReply:
        for _ in range(2):  # a worker may die for outside reasons: out of memory
            worker = self._idle.get()
            if worker is None:
                raise Interrupted("the pool was closed")
            line = exchange(worker, job.model_dump_json())
            while line:
                reply = EvaluationReply.model_validate_json(line)
                if reply.share is None:
                    self._idle.put(worker)
                    return reply
                on_share(reply.share)
                line = read_line(worker)
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
