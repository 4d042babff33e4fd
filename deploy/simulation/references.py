"""What a node's student is to be seen beside: students that went without something.

    own_only   the node's own images alone, from scratch, by takt's own attack
    shipped    the release's starting weights as they are: no training at the node
    baseline   with ``--compare``: a training without a teacher, not tuned, from random
               weights: those of a release are of its teacher. Of a release with
               images: the same images and views with true labels, takt's own attack.
               Of another: PGD-AT of Madry et al. (ICLR 2018), 7 steps of a quarter eps
    natural    with ``--compare``: the natural twin, the same model and images without
               an attack and without the teacher's knowledge, from random weights. It
               shows what a student answers that nobody made robust

What is trained has the node's student, seed, threads, memory cap and child process,
and as many CPU-seconds as the node's own training took, of which the natural twin gets
a quarter. They may be spent as fast as a core allows: a node's share of one would make
the run longer, and the student no other. What the cloud spent on a release's weights
is not in them: a baseline goes without that as well. Each is measured on the same test
images as the node's student. Not here: the measuring (deploy.evaluation), the training
(edge.distill).
"""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Self

from cloud.publishing.repository import ReleaseRepository
from common.config import AttackConfig, DatasetConfig, NodeConfig, OwnImagesConfig
from common.durable import make_folder, storing, write_atomic
from common.errors import DataError, StudentError
from common.release import MANIFEST, Manifest, encode_manifest
from deploy.evaluation.measurement import Measurement
from deploy.evaluation.pool import EvaluationPool
from deploy.simulation.node_images import images_of_nodes, shift_of
from deploy.simulation.run_state import (
    FinishedBaseline,
    FinishedReference,
    ReferenceKind,
    RunState,
)
from edge.jobs.job import DistilJob, DistilResult
from edge.jobs.runner import ChildUsage, Distillation
from edge.limits import num_threads
from edge.state import STUDENT

PGD_STEPS = 7
NATURAL_SHARE = 0.25  # of the student's CPU-seconds: an epoch without attack is cheap


class References:
    """Trains and measures the references of a run; a context manager."""

    def __init__(self, state: RunState, pool: EvaluationPool) -> None:
        """Prepare; what is found goes into `state` at once.

        Args:
            state: of a run whose release is published.
            pool: measures them.
        """
        assert state.manifest is not None
        self._state = state
        self._manifest = state.manifest
        self._pool = pool
        self._own = images_of_nodes(state.config)
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(max(len(state.config.nodes), 1))
        self._trainings: list[Future[None]] = []

    def __enter__(self) -> Self:
        """Measure the students that are shipped."""
        self._state.references = []
        for node in self._state.config.nodes:
            if node.student in self._manifest.weights:
                self._measure_shipped(node)
        return self

    def __exit__(self, *error: object) -> None:
        """End what is still training."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def node_done(self, node: NodeConfig) -> None:
        """Train a node on its own images alone, if it has some and is done."""
        found = self._state.finished[node.name]
        report = found.report
        if report is not None and report.own_labelled and report.cpu_s.distil > 0:
            self._start(self._own_only, node, report.cpu_s.distil)

    def finish(self, *, compare: bool) -> None:
        """Wait until everything is trained; it may not be measured yet.

        Args:
            compare: train a baseline in the place of each promoted student as well,
                and its natural twin.

        Raises:
            TaktError: a training could not be done.
        """
        if compare:
            self._state.baselines = []
            for node in self._state.config.nodes:
                found = self._state.finished[node.name]
                if found.student is not None and found.report is not None:
                    budget_s = found.report.cpu_s.distil
                    self._start(self._baseline, node, budget_s)
                    self._start(self._natural, node, NATURAL_SHARE * budget_s)
        wait(self._trainings)
        for training in self._trainings:
            training.result()
        for each in self._references():
            if each.kind == "natural" and each.student is not None:
                self._answer_for_student(each, each.student)

    def _answer_for_student(self, twin: FinishedReference, model: Path) -> None:
        """Ask a natural twin about the images that its student was attacked with."""
        measured = self._state.finished[twin.node.name].measurement
        samples = () if measured is None else measured.samples()
        if samples:
            pixels = [each.pixels for each in samples]
            answers = self._pool.ask(self._state.run.path / model, pixels)
            places = [each.sample.position for each in samples]
            twin.answers = dict(zip(places, answers, strict=True))

    def _measure_shipped(self, node: NodeConfig) -> None:
        info = self._manifest.weights[node.student]
        student = Path("students") / f"{node.name}-shipped.safetensors"
        place = release_file(self._repository(), info.path, info.sha256)
        with storing(self._state.run.path / student):
            shutil.copyfile(place, self._state.run.path / student)
        # With what the page draws of a student: that of a node may be the very same.
        measurement = self._measure(node, student, detailed=True)
        found = FinishedReference(node, "shipped", student, measurement=measurement)
        self._references().append(found)

    def _start(
        self,
        task: Callable[[NodeConfig, float], None],
        node: NodeConfig,
        budget_s: float,
    ) -> None:
        self._trainings.append(self._threads.submit(task, node, budget_s))

    def _own_only(self, node: NodeConfig, budget_s: float) -> None:
        self._reference(node, "own_only", self._manifest, budget_s, without="release")

    def _natural(self, node: NodeConfig, budget_s: float) -> None:
        manifest = natural_twin(self._manifest, node.student)
        self._reference(node, "natural", manifest, budget_s, without="")

    def _reference(
        self,
        node: NodeConfig,
        kind: ReferenceKind,
        manifest: Manifest,
        budget_s: float,
        *,
        without: str,
    ) -> None:
        """Train and measure a reference; that its images are too few is a finding."""
        try:
            result, _, student = self._train(
                node, kind, manifest, budget_s, without=without
            )
        except (DataError, StudentError) as e:
            failed = FinishedReference(node, kind, None, message=str(e))
            self._references().append(failed)
            return
        measurement = self._measure(node, student, detailed=kind == "natural")
        self._references().append(
            FinishedReference(node, kind, student, result, measurement)
        )

    def _baseline(self, node: NodeConfig, budget_s: float) -> None:
        manifest, without = from_random_weights(self._manifest, node.student), "teacher"
        if manifest.images == "same":
            manifest, without = with_pgd_at(manifest, node.student), ""
        result, usage, student = self._train(
            node, "baseline", manifest, budget_s, without=without
        )
        assert self._state.baselines is not None
        self._state.baselines.append(
            FinishedBaseline(node, result, usage, student, self._measure(node, student))
        )

    def _train(
        self,
        node: NodeConfig,
        kind: str,
        manifest: Manifest,
        budget_s: float,
        *,
        without: str,
    ) -> tuple[DistilResult, ChildUsage, Path]:
        """Train a student in the node's memory; its path is within the run's folder."""
        run = self._state.run
        folder = run.references / node.name / kind
        release, work = folder / "release", folder / "work"
        make_folder(release)
        make_folder(work)
        copy_release(self._repository(), manifest, release)
        recipe = manifest.students[node.student]
        data_dir = self._state.config.dataset.data_dir
        job = DistilJob.model_validate(
            {
                "release_dir": release,
                "student": node.student,
                "dataset": DatasetConfig.model_validate(
                    {
                        "name": manifest.dataset,
                        "data_dir": None if data_dir is None else data_dir.absolute(),
                    }
                ),
                "work_dir": work,
                "seed": self._state.config.seed,
                "threads": num_threads(node.profile),
                "cpu_budget_s": budget_s,
                "own": _unshared(self._own.get(node.name)),
                "without": without,
            }
        )
        distillation = Distillation(
            node.profile.model_copy(update={"cpus": max(node.profile.cpus, 1.0)}),
            node=f"{node.name}-{kind}",
            cap_method=None,
            stop=self._stop,
            on_progress=lambda point, usage: None,
        )
        result, usage = distillation.run(job, default_batch_size=recipe.batch_size)
        label = kind.replace("baseline", result.method).replace("_only", "-only")
        student = Path("students") / f"{node.name}-{label}.safetensors"
        with storing(run.path / student):
            shutil.copyfile(work / STUDENT, run.path / student)
        return result, usage, student

    def _measure(
        self, node: NodeConfig, student: Path, *, detailed: bool = False
    ) -> Measurement:
        return self._pool.submit(
            self._state.run.path / student,
            self._state.config.evaluation.autoattack_images,
            shift=shift_of(self._own.get(node.name)),
            detailed=detailed,
        )

    def _repository(self) -> ReleaseRepository:
        cloud = self._state.run.cloud
        return ReleaseRepository(cloud.repository, cloud.keys)

    def _references(self) -> list[FinishedReference]:
        assert self._state.references is not None
        return self._state.references


def release_file(repository: ReleaseRepository, path: str, sha256: str) -> Path:
    """Name the file of a release in its repository (TUF's consistent snapshots)."""
    folder, _, name = path.rpartition("/")
    return repository.targets / folder / f"{sha256}.{name}"


def copy_release(
    repository: ReleaseRepository, manifest: Manifest, folder: Path
) -> None:
    """Lay a release out as a node has it that pulled everything.

    Raises:
        StorageError: a file is missing, or the folder cannot be written.
    """
    with storing(folder):
        files = [(shard.path, shard.sha256) for shard in manifest.shards]
        files += [(each.path, each.sha256) for each in manifest.weights.values()]
        for path, sha256 in files:
            source = release_file(repository, path, sha256)
            shutil.copyfile(source, folder / path.rpartition("/")[2])
    write_atomic(folder / MANIFEST, encode_manifest(manifest))


def from_random_weights(manifest: Manifest, student: str) -> Manifest:
    """Take the starting weights, which are of the teacher's knowledge, from a release.

    The recipe stays as it is.
    """
    return _trained_by(manifest, student)


def with_pgd_at(manifest: Manifest, student: str) -> Manifest:
    """Change a student's recipe to PGD-AT, from random weights; all else stays.

    Starting weights are of the teacher's knowledge, which the baseline goes without.
    """
    attack = AttackConfig(steps=PGD_STEPS, step_size=min(manifest.eps / 4, 1.0))
    return _trained_by(manifest, student, method="pgd_at", attack=attack)


def natural_twin(manifest: Manifest, student: str) -> Manifest:
    """Change a student's recipe to natural training, from random weights."""
    return _trained_by(manifest, student, method="natural")


def _trained_by(manifest: Manifest, student: str, **changes: object) -> Manifest:
    recipe = manifest.students[student].model_copy(update=changes)
    return manifest.model_copy(update={"students": {student: recipe}, "weights": {}})


def _unshared(data: OwnImagesConfig | None) -> OwnImagesConfig | None:
    """Keep a reference from asking the gateway, which is gone by then."""
    return None if data is None else data.model_copy(update={"share_images": False})
