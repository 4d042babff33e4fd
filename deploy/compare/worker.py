"""Some rows of `takt compare`: ``python -m deploy.compare.worker``.

Reads a `GroupJob` from stdin, trains its students interleaved on one thread, measures
them and writes a `WorkerUpdate` a line to stdout. Stopped, it goes on where it was: the
trainings of a group together, from their checkpoints. Not here: which rows are worth
making (grid.py), training them (training.py).
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.catalog import contents_for, needs_live_teacher
from common.data.datasets import Dataset, load_dataset
from common.errors import TaktError
from common.models.zoo import num_parameters, shipped_bytes
from common.release import Manifest
from common.robustness.evaluate import (
    autoattack_each,
    clean_accuracy,
    is_collapsed,
    predict,
)
from deploy.compare.entry import SHIPPED
from deploy.compare.messages import GroupJob, RowJob, WorkerUpdate
from deploy.compare.rows import Row
from deploy.compare.trained import TrainedStudents
from deploy.compare.training import (
    Sources,
    Trained,
    open_sources,
    trained_students,
)
from deploy.evaluation.images import stratified_positions
from deploy.runtime.progress import OnProgress
from edge.distill.fitting.training import tuned
from edge.distill.methods.losses import method


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
    sources = open_sources(group, dataset)
    trained = trained_students(group, sources, on_progress)
    students = TrainedStudents(group.trained)
    for job in group.jobs:
        step = f"attacking {job.method}"
        on_progress(step, 0.0)
        state = students.attack(job.digest)
        yield _measure(
            job,
            sources,
            trained[job.digest],
            dataset,
            state,
            partial(on_progress, step),
        )


def _measure(
    job: RowJob,
    sources: Sources,
    student: Trained,
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
        learning_rate=(tuned(job.recipe) if job.start else job.recipe).learning_rate,
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


def _pulled_bytes(job: RowJob, manifest: Manifest, student: Trained) -> int:
    """Count what a node pulls: knowledge, the cloud's student; or exchanges."""
    model, summary = student
    if job.method == SHIPPED:
        return shipped_bytes(model)
    start_bytes = shipped_bytes(model) if job.start else 0
    contents = contents_for(job.recipe.method, job.recipe.boundary_weight)
    shards = manifest.shards_for(contents, job.recipe.num_views)
    knowledge_bytes = sum(shard.num_bytes for shard in shards)
    return start_bytes + summary.live_bytes + knowledge_bytes


if __name__ == "__main__":
    main()
