"""The trainings of a group of rows: of nodes in turns, of the cloud's students before.

What is trained already is taken from its file. Not here: measuring (worker.py), which
training goes on (interleave.py).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cloud.storage import StorageDir
from cloud.training.images import for_teacher
from common.catalog import needs_live_teacher
from common.data.datasets import Dataset
from common.durable import make_folder
from common.errors import TrustError
from common.models.forward import Model
from common.release import Manifest, student_card
from deploy.compare.entry import SHIPPED
from deploy.compare.interleave import YieldCpu, interleave
from deploy.compare.live_gateway import live_gateway
from deploy.compare.messages import GroupJob, RowJob, starts_of
from deploy.compare.trained import TrainedStudents, TrainingSummary
from deploy.runtime.progress import OnProgress
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import Fitted, fit_student
from edge.distill.knowledge import read_knowledge, read_manifest
from edge.distill.task import Task

Trained = tuple[nn.Module, TrainingSummary]


class Source(NamedTuple):
    """Knowledge, and the images that it speaks of."""

    manifest: Manifest
    dataset: Dataset


Sources = Mapping[Path, Source]  # by the folder of the knowledge


def open_sources(group: GroupJob, dataset: Dataset) -> Sources:
    """Read what the students of a group learn from.

    Raises:
        TrustError: knowledge is damaged, or of other images.
    """
    found: dict[Path, Source] = {}
    for job in (*group.jobs, *starts_of(group.jobs).values()):
        if job.release_dir in found:
            continue
        manifest = read_manifest(job.release_dir)
        # A cloud distils its own student from the images that its teacher has.
        images = for_teacher(job.config, dataset) if job.method == SHIPPED else dataset
        if images.train.fingerprint() != manifest.fingerprint:
            raise TrustError(
                f"the images of {dataset.name} here are not those that the knowledge "
                f"in {job.release_dir} was taken from; remove that folder to take it "
                "anew"
            )
        found[job.release_dir] = Source(manifest, images)
    return found


def trained_students(
    group: GroupJob, sources: Sources, on_progress: OnProgress
) -> dict[str, Trained]:
    """Train a group's students, unless they are there; by their digest."""
    students = TrainedStudents(group.trained)
    sha256 = next(iter(sources.values())).manifest.teacher.weights_sha256
    found: dict[str, Trained] = {}

    def waits(job: RowJob) -> bool:
        kept = students.load(job.digest, sha256)
        if kept is not None:
            found[job.digest] = kept
        return kept is None

    def keep(job: RowJob, student: Trained) -> None:
        manifest = sources[job.release_dir].manifest
        students.save(
            job.digest,
            student[0],
            student_card(manifest, job.recipe, seed=job.seed),
            student[1],
        )
        found[job.digest] = student

    waiting = [job for job in group.jobs if waits(job)]
    nodes = [job for job in waiting if job.method != SHIPPED]
    begun = starts_of(nodes)
    shipped = {job.digest: job for job in waiting if job.method == SHIPPED}
    shipped |= {d: job for d, job in begun.items() if d not in found and waits(job)}
    checkpoints = _checkpoints(group, [*shipped.values(), *nodes], sources)
    for job in shipped.values():
        source = sources[job.release_dir]
        keep(job, _ship(job, source, checkpoints[job.digest]))
    if nodes:
        starts = {digest: found[digest][0] for digest in begun}
        made = _train_in_turns(nodes, sources, checkpoints, starts, on_progress)
        for job, student in zip(nodes, made, strict=True):
            keep(job, student)
    return found


_Checkpoints = Mapping[str, CheckpointFile]  # by the digest of the row


def _checkpoints(
    group: GroupJob, waiting: Sequence[RowJob], sources: Sources
) -> _Checkpoints:
    """Name the checkpoints of trainings; those that cannot be used are deleted.

    What is interleaved goes on as a whole or begins anew as a whole: one that began
    anew beside others would train by itself until it has used as much. Where a live
    teacher is asked none is kept, as its traffic is counted in the process.

    Args:
        group: of which all that are of nodes are trained in turns.
        waiting: what is not trained yet: of the group, and what others begin with.
        sources: of `open_sources`.
    """
    students = TrainedStudents(group.trained)
    make_folder(students.folder)
    together = [job for job in group.jobs if job.method != SHIPPED]

    def named(job: RowJob, beside: Sequence[RowJob]) -> CheckpointFile:
        manifest = sources[job.release_dir].manifest
        decides = [
            job.digest,
            manifest.teacher.weights_sha256,
            manifest.fingerprint,
            [each.digest for each in beside],
        ]
        digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
        return CheckpointFile(students.checkpoint(job.digest), digest)

    found = {
        job.digest: named(job, beside=()) for job in waiting if job.method == SHIPPED
    }
    own = {job.digest: named(job, together) for job in waiting if job in together}
    is_live = any(needs_live_teacher(job.recipe.method) for job in together)
    if is_live or not all(file.load() for file in own.values()):
        for digest in own:
            students.checkpoint(digest).unlink(missing_ok=True)
    return found if is_live else found | own


def _ship(job: RowJob, source: Source, checkpoint: CheckpointFile) -> Trained:
    """Distil a student as the cloud does, for its recipe's epochs, and ship it.

    It costs a node no CPU-seconds, and is in half precision as a release has it.
    """
    fitted = _fit(job, source, checkpoint, lambda own_s: None)
    costs = {"epochs": 0, "cpu_s": 0.0, "attack_cpu_s": 0.0}
    summary = _summary(source.manifest, fitted).model_copy(update=costs)
    return fitted.model.half().float(), summary


def _train_in_turns(
    jobs: Sequence[RowJob],
    sources: Sources,
    checkpoints: _Checkpoints,
    starts: Mapping[str, nn.Module],
    on_progress: OnProgress,
) -> list[Trained]:
    """Train the students of nodes interleaved.

    Args:
        jobs: of nodes, none of them shipped.
        sources: of `open_sources`.
        checkpoints: of `_checkpoints`.
        starts: the shipped students that some begin with, by their digest.
        on_progress: called with the step and the share of it that is done.

    Returns:
        A student for each job, in their order.
    """
    used_s = [0.0] * len(jobs)
    budget_s = sum(job.cpu_budget_s for job in jobs)
    methods = tuple(job.method for job in jobs)

    def work(i: int) -> Callable[[YieldCpu], Trained]:
        def train(yield_cpu: YieldCpu) -> Trained:
            def after_epoch(own_s: float) -> None:
                used_s[i] = own_s
                on_progress("training", sum(used_s) / budget_s)
                yield_cpu(own_s)

            job = jobs[i]
            source = sources[job.release_dir]
            start = None if job.start is None else starts[job.start.digest]
            checkpoint = checkpoints.get(job.digest)
            model, summary = _train(job, source, checkpoint, after_epoch, start)
            others = methods[:i] + methods[i + 1 :]
            return model, summary.model_copy(update={"trained_with": others})

        return train

    return interleave([work(i) for i in range(len(jobs))])


def _train(
    job: RowJob,
    source: Source,
    checkpoint: CheckpointFile | None,
    after_epoch: Callable[[float], None],
    start: nn.Module | None,
) -> Trained:
    """Train one student; `after_epoch` is called with the CPU-seconds used."""
    if not needs_live_teacher(job.recipe.method):
        fitted = _fit(job, source, checkpoint, after_epoch, start=start)
        return fitted.model, _summary(source.manifest, fitted)
    from edge.distill.teacher.live_teacher import live_teacher  # and with it gRPC

    storage = StorageDir(job.release_dir.parent)  # as `prepare_stage` left it
    gateway = live_gateway(storage.weights, storage.gateway_log)
    with gateway as (link, cpu_s), live_teacher(link) as teacher:
        fitted = _fit(job, source, None, after_epoch, start=start, teacher=teacher)
        used = {"live_bytes": teacher.num_bytes, "teacher_cpu_s": round(cpu_s(), 3)}
        return fitted.model, _summary(source.manifest, fitted).model_copy(update=used)


def _summary(manifest: Manifest, fitted: Fitted) -> TrainingSummary:
    measured = [
        p.robust_accuracy for p in fitted.curve if p.robust_accuracy is not None
    ]
    return TrainingSummary(
        teacher_sha256=manifest.teacher.weights_sha256,
        epochs=fitted.epochs,
        cpu_s=round(fitted.cpu_s.distil, 3),
        attack_cpu_s=round(fitted.cpu_s.attack, 3),
        val_robust_accuracy=measured[-1] if measured else None,
        flags=fitted.flags,
        trained_with=(),
    )


def _fit(
    job: RowJob,
    source: Source,
    checkpoint: CheckpointFile | None,
    after_epoch: Callable[[float], None],
    *,
    start: nn.Module | None = None,
    teacher: Model | None = None,
) -> Fitted:
    torch.set_num_threads(1)  # of this thread
    manifest = source.manifest.model_copy(update={"temperature": job.temperature})
    task = Task.of_release(
        manifest,
        train=Images.of(source.dataset.train),
        val=Images.of(source.dataset.val),
        knowledge=read_knowledge(manifest, job.release_dir, job.recipe),
        seed=job.seed,
    )
    task = replace(
        task,
        cpu_budget_s=job.cpu_budget_s or None,
        start=None if start is None else start.state_dict(),
        teacher=teacher,
    )
    return fit_student(
        job.recipe,
        task,
        checkpoint=checkpoint,
        on_epoch=lambda point: after_epoch(point.cpu_s),
    )
