"""The baselines of ``--compare``: PGD-AT for the CPU-seconds of the node's student.

Same student, data, seed, caps and child process as the node; no teacher. The
recipe keeps everything but the method and its attack, which is the one of Madry
et al. (ICLR 2018): 7 steps of a quarter eps. Not here: measuring the students.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.config import AttackConfig, DatasetConfig, NodeConfig
from common.durable import make_folder, write_atomic
from common.release import Manifest, encode_manifest
from edge.jobs.job import STUDENT, DistilJob, DistilResult
from edge.jobs.runner import ChildUsage, Distillation
from edge.limits import num_threads
from edge.releases.sync import MANIFEST

STEPS = 7


@dataclass(frozen=True)
class TrainedBaseline:
    """A baseline and the file of its student."""

    result: DistilResult
    usage: ChildUsage
    student: Path


class Baselines:
    """Trains several baselines at a time, each in caps; a context manager."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        data_dir: Path | None,
        seed: int,
        num_workers: int,
    ) -> None:
        """Prepare; `num_workers` baselines train at a time."""
        self._folder = folder
        self._manifest = manifest
        self._data_dir = data_dir
        self._seed = seed
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(max(num_workers, 1))

    def __enter__(self) -> Self:
        """Return the baselines themselves."""
        return self

    def __exit__(self, *error: object) -> None:
        """End what is still training."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def submit(
        self, node: NodeConfig, cpu_budget_s: float
    ) -> "Future[TrainedBaseline]":
        """Train a node's baseline for so many CPU-seconds, in the node's caps."""
        return self._threads.submit(self._train, node, cpu_budget_s)

    def _train(self, node: NodeConfig, cpu_budget_s: float) -> TrainedBaseline:
        recipe = self._manifest.students[node.student].model_copy(
            update={
                "method": "pgd_at",
                "attack": AttackConfig(
                    steps=STEPS, step_size=min(self._manifest.eps / 4, 1.0)
                ),
            }
        )
        manifest = self._manifest.model_copy(
            update={"students": {node.student: recipe}}
        )
        release = self._folder / node.name / "release"
        work = self._folder / node.name / "work"
        make_folder(release)
        make_folder(work)
        write_atomic(release / MANIFEST, encode_manifest(manifest))
        job = DistilJob(
            release_dir=release,
            student=node.student,
            dataset=DatasetConfig.model_validate(
                {"name": manifest.dataset, "data_dir": self._data_dir}
            ),
            work_dir=work,
            seed=self._seed,
            threads=num_threads(node.profile),
            cpu_budget_s=cpu_budget_s,
        )
        distillation = Distillation(
            node.profile,
            node=f"{node.name}-baseline",
            cap_method=None,
            stop=self._stop,
            on_progress=lambda point, usage: None,
        )
        result, usage = distillation.run(job, default_batch_size=recipe.batch_size)
        return TrainedBaseline(result, usage, work / STUDENT)
