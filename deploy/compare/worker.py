"""Some rows of `takt compare`: ``python -m deploy.compare.worker``.

Reads a `GroupJob` from stdin, trains its students interleaved on one thread, measures
them and writes a `WorkerUpdate` a line to stdout. Stopped, it goes on where it was: the
trainings of a group together, from their checkpoints. Not here: which rows are worth
making (grid.py), which training goes on (interleave.py).
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from cloud.storage import StorageDir
from cloud.training.images import for_teacher
from common.catalog import contents_for, needs_live_teacher
from common.data.datasets import Dataset, load_dataset
from common.durable import make_folder
from common.errors import TaktError, TrustError
from common.models.forward import Model
from common.models.zoo import num_parameters, shipped_bytes
from common.release import Manifest, student_card
from common.robustness.evaluate import (
    autoattack_each,
    clean_accuracy,
    is_collapsed,
    predict,
)
from deploy.compare.grid import SHIPPED
from deploy.compare.interleave import YieldCpu, interleave
from deploy.compare.live_gateway import live_gateway
from deploy.compare.messages import GroupJob, RowJob, WorkerUpdate
from deploy.compare.rows import Row
from deploy.compare.trained import TrainedStudents, TrainingSummary
from deploy.evaluation.images import stratified_positions
from deploy.runtime.progress import OnProgress
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import Fitted, fit_student
from edge.distill.knowledge import read_knowledge, read_manifest
from edge.distill.methods.losses import method
from edge.distill.task import Task

_Trained = tuple[nn.Module, TrainingSummary]


def main() -> None:
    """Do the job on stdin."""
    torch.set_num_threads(1)
    replies = sys.stdout
    sys.stdout = sys.stderr  # a library's print must not look like an update

    def send(update: WorkerUpdate) -> None:
        print(update.model_dump_json(), file=replies, flush=True)

    def send_progress(step: str, share: float) -> None:
        send(WorkerUpdate(step=step, share=share))

    try:
        group = GroupJob.model_validate_json(sys.stdin.read())
        for row in make_rows(group, send_progress):
            send(WorkerUpdate(row=row))
    except TaktError as e:
        send(WorkerUpdate(error_code=e.exit_code, error=str(e)))


def make_rows(group: GroupJob, on_progress: OnProgress) -> Iterator[Row]:
    """Train a group's students interleaved, then measure one after the other.

    Raises:
        ConfigError: a recipe names what this takt does not know.
        DataError: the data set cannot be read.
        TrustError: the knowledge is damaged, or of other images.
    """
    config = group.jobs[0].config
    dataset = load_dataset(config.dataset, seed=config.seed)
    sources = _open_sources(group, dataset)
    students = TrainedStudents(group.trained)
    sha256 = next(iter(sources.values())).manifest.teacher.weights_sha256
    trained = {job.digest: students.load(job.digest, sha256) for job in group.jobs}
    waiting = [job for job in group.jobs if trained[job.digest] is None]
    checkpoints = _checkpoints(group, waiting, sources)
    for job, (model, summary) in _train_all(waiting, sources, checkpoints, on_progress):
        card = student_card(
            sources[job.release_dir].manifest, job.recipe, seed=job.seed
        )
        students.save(job.digest, model, card, summary)
        trained[job.digest] = model, summary
    for job in group.jobs:
        student = trained[job.digest]
        assert student is not None, "every job's student was loaded or trained"
        step = f"attacking {job.method}"
        on_progress(step, 0.0)
        state = students.attack(job.digest)
        yield _measure(
            job, sources, student, dataset, state, partial(on_progress, step)
        )


class _Source(NamedTuple):
    """Knowledge, and the images that it speaks of."""

    manifest: Manifest
    dataset: Dataset


_Sources = Mapping[Path, _Source]  # by the folder of the knowledge


def _open_sources(group: GroupJob, dataset: Dataset) -> _Sources:
    """Read what the students of a group learn from.

    Raises:
        TrustError: knowledge is damaged, or of other images.
    """
    found: dict[Path, _Source] = {}
    for job in group.jobs:
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
        found[job.release_dir] = _Source(manifest, images)
    return found


_Checkpoints = Mapping[str, CheckpointFile]  # by the digest of the row


def _checkpoints(
    group: GroupJob, waiting: Sequence[RowJob], sources: _Sources
) -> _Checkpoints:
    """Name the checkpoints of trainings; those that cannot be used are deleted.

    What is interleaved goes on as a whole or begins anew as a whole: one that began
    anew beside others would train by itself until it has used as much. Where a live
    teacher is asked none is kept, as its traffic is counted in the process.
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


def _train_all(
    jobs: Sequence[RowJob],
    sources: _Sources,
    checkpoints: _Checkpoints,
    on_progress: OnProgress,
) -> list[tuple[RowJob, _Trained]]:
    """Train students interleaved; the cloud's own before them, as no node does."""
    found = [
        (job, _ship(job, sources[job.release_dir], checkpoints[job.digest]))
        for job in jobs
        if job.method == SHIPPED
    ]
    jobs = [job for job in jobs if job.method != SHIPPED]
    used_s = [0.0] * len(jobs)
    budget_s = sum(job.cpu_budget_s for job in jobs)
    methods = tuple(job.method for job in jobs)

    def work(i: int) -> Callable[[YieldCpu], _Trained]:
        def train(yield_cpu: YieldCpu) -> _Trained:
            def after_epoch(own_s: float) -> None:
                used_s[i] = own_s
                on_progress("training", sum(used_s) / budget_s)
                yield_cpu(own_s)

            source = sources[jobs[i].release_dir]
            checkpoint = checkpoints.get(jobs[i].digest)
            model, summary = _train(jobs[i], source, checkpoint, after_epoch)
            others = methods[:i] + methods[i + 1 :]
            return model, summary.model_copy(update={"trained_with": others})

        return train

    if jobs:
        works = [work(i) for i in range(len(jobs))]
        found += zip(jobs, interleave(works), strict=True)
    return found


def _ship(job: RowJob, source: _Source, checkpoint: CheckpointFile) -> _Trained:
    """Distil a student as the cloud does, for its recipe's epochs, and ship it.

    It costs a node no CPU-seconds, and is in half precision as a release has it.
    """
    fitted = _fit(job, source, checkpoint, lambda own_s: None, teacher=None)
    costs = {"epochs": 0, "cpu_s": 0.0, "attack_cpu_s": 0.0}
    summary = _summary(source.manifest, fitted).model_copy(update=costs)
    return fitted.model.half().float(), summary


def _train(
    job: RowJob,
    source: _Source,
    checkpoint: CheckpointFile | None,
    after_epoch: Callable[[float], None],
) -> _Trained:
    """Train one student; `after_epoch` is called with the CPU-seconds used."""
    if not needs_live_teacher(job.recipe.method):
        fitted = _fit(job, source, checkpoint, after_epoch, teacher=None)
        return fitted.model, _summary(source.manifest, fitted)
    from edge.distill.teacher.live_teacher import live_teacher  # and with it gRPC

    storage = StorageDir(job.release_dir.parent)  # as `prepare_stage` left it
    gateway = live_gateway(storage.weights, storage.gateway_log)
    with gateway as (link, cpu_s), live_teacher(link) as teacher:
        fitted = _fit(job, source, None, after_epoch, teacher=teacher)
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
    source: _Source,
    checkpoint: CheckpointFile | None,
    after_epoch: Callable[[float], None],
    *,
    teacher: Model | None,
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
    task = replace(task, cpu_budget_s=job.cpu_budget_s or None, teacher=teacher)
    return fit_student(
        job.recipe,
        task,
        checkpoint=checkpoint,
        on_epoch=lambda point: after_epoch(point.cpu_s),
    )


def _measure(
    job: RowJob,
    sources: _Sources,
    student: _Trained,
    dataset: Dataset,
    state: Path,
    progress: Callable[[float], None],
) -> Row:
    """Measure a trained student on the test split; `state` is AutoAttack's file."""
    model, summary = student
    manifest = sources[job.release_dir].manifest
    x, y = dataset.test.tensors()
    collapsed = is_collapsed(predict(model, x), manifest.num_classes, labels=y)
    chosen = stratified_positions(dataset.test.labels, min(job.num_images, len(y)))
    attacked = autoattack_each(
        model,
        x[chosen],
        y[chosen],
        eps=manifest.eps,
        seed=manifest.seed,  # the same attack for every student
        progress=progress,
        state=state,
    )
    found = attacked.evaluation
    contents = contents_for(job.recipe.method, job.recipe.boundary_weight)
    has_teacher = bool(contents) or needs_live_teacher(job.recipe.method)
    return Row(
        dataset=manifest.dataset,
        student=job.student,
        num_parameters=num_parameters(model),
        method=job.method,
        seed=job.seed,
        cpu_s=summary.cpu_s,
        steps=job.recipe.attack.steps if method(job.recipe.method).craft else 0,
        epochs=summary.epochs,
        clean_accuracy=clean_accuracy(model, x, y),
        robust_accuracy=found.accuracy,
        attack=found.attack,
        version=found.version,
        num_images=found.num_images,
        eps=found.eps,
        norm=found.norm,
        num_train=len(dataset.train),  # of a node, whoever trained the student
        cpu_budget_s=job.cpu_budget_s,
        budget=job.budget,
        attack_cpu_s=summary.attack_cpu_s,
        learning_rate=job.recipe.learning_rate,
        pulled_bytes=_pulled_bytes(job, manifest, student),
        val_robust_accuracy=summary.val_robust_accuracy,
        flags=(*summary.flags, *found.flags, *(("collapsed",) if collapsed else ())),
        teacher_sha256=manifest.teacher.weights_sha256 if has_teacher else None,
        trained_with=summary.trained_with,
        teacher_cpu_s=summary.teacher_cpu_s,
        tuned=job.tuned,
        step_size=job.recipe.attack.step_size if job.tuned else None,
        num_views=job.recipe.num_views,
        held=np.packbits(attacked.robust.numpy()).tobytes().hex(),
        identity=job.digest,
    )


def _pulled_bytes(job: RowJob, manifest: Manifest, student: _Trained) -> int:
    """Count what a node pulls: knowledge, or the cloud's student; or exchanges."""
    model, summary = student
    if job.method == SHIPPED:
        return shipped_bytes(model)
    contents = contents_for(job.recipe.method, job.recipe.boundary_weight)
    shards = manifest.shards_for(contents, job.recipe.num_views)
    return summary.live_bytes + sum(shard.num_bytes for shard in shards)


if __name__ == "__main__":
    main()
