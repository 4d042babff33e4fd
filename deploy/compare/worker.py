"""Some rows of `takt compare`: ``python -m deploy.compare.worker``.

Reads a `GroupJob` from stdin, trains its students on one thread in turns, measures
them and says how far it is and what came of each, a `RowNews` a line on stdout. Not
here: which rows are worth making (grid.py), whose turn it is
(interleave.py).
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from cloud.storage import StorageDir
from common.catalog import contents_for, needs_live_teacher
from common.config import DatasetConfig, StudentConfig
from common.errors import TaktError, TrustError
from common.release import Manifest, student_card
from deploy.compare.interleave import in_turns
from deploy.compare.live_gateway import live_gateway
from deploy.compare.rows import Row
from deploy.compare.trained import Story, TrainedStudents

if TYPE_CHECKING:
    from torch import nn

    from common.data.datasets import Dataset
    from common.models.forward import Model
    from edge.distill.fit import Fitted

Tell = Callable[[str, float], None]
Rest = Callable[[float], None]
_Trained = tuple["nn.Module", Story]


class Message(BaseModel):
    """What passes between compare and its worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RowJob(Message):
    """One student to train and measure."""

    release_dir: Path  # see teacher.py
    dataset: DatasetConfig
    student: str
    recipe: StudentConfig
    temperature: float  # of the soft labels
    seed: int
    cpu_budget_s: float
    num_images: int
    identity: str


class GroupJob(Message):
    """Students of one data set, to train in turns."""

    jobs: tuple[RowJob, ...]
    trained: Path  # keeps those that are trained, until they are measured


class RowNews(Message):
    """How far a group is, or one of its rows."""

    step: str = ""
    share: float = 0.0
    row: Row | None = None
    error_code: int = 0
    error: str = ""


def main() -> None:
    """Do the job on stdin."""
    import torch

    torch.set_num_threads(1)
    replies = sys.stdout
    sys.stdout = sys.stderr  # a library's print must not look like news

    def send(news: RowNews) -> None:
        print(news.model_dump_json(), file=replies, flush=True)

    try:
        group = GroupJob.model_validate_json(sys.stdin.read())
        tell: Tell = lambda step, share: send(RowNews(step=step, share=share))  # noqa: E731
        for row in make_rows(group, tell):
            send(RowNews(row=row))
    except TaktError as e:
        send(RowNews(error_code=e.exit_code, error=str(e)))


def make_rows(group: GroupJob, tell: Tell) -> Iterator[Row]:
    """Train a group's students in turns, then measure one after the other.

    Raises:
        ConfigError: a recipe names what this takt does not know.
        DataError: the data set cannot be read.
        TrustError: the knowledge is damaged, or of other images.
    """
    from common.data.datasets import load_dataset
    from edge.distill.knowledge import read_manifest

    first = group.jobs[0]
    manifest = read_manifest(first.release_dir)
    dataset = load_dataset(first.dataset, seed=manifest.seed)
    if dataset.train.fingerprint() != manifest.fingerprint:
        raise TrustError(
            f"the images of {first.dataset.name} here are not those that the knowledge "
            f"in {first.release_dir} was taken from; remove that folder to take it anew"
        )
    students = TrainedStudents(group.trained)
    sha256 = manifest.teacher.weights_sha256
    kept = {job.identity: students.load(job.identity, sha256) for job in group.jobs}
    waiting = [job for job in group.jobs if kept[job.identity] is None]
    for job, trained in _train_all(waiting, manifest, dataset, tell):
        card = student_card(manifest, job.recipe, seed=job.seed)
        students.save(job.identity, trained[0], card, trained[1])
        kept[job.identity] = trained
    for job in group.jobs:
        found = kept[job.identity]
        assert found is not None, "every job's student was kept or trained"
        said = f"attacking {job.recipe.method}"
        tell(said, 0.0)
        attacked: Callable[[float], None] = partial(tell, said)
        yield _measured(job, manifest, *found, dataset, attacked)


def _train_all(
    jobs: Sequence[RowJob], manifest: Manifest, dataset: "Dataset", tell: Tell
) -> "list[tuple[RowJob, _Trained]]":
    """Train students in turns."""
    used = [0.0] * len(jobs)
    budget_s = sum(job.cpu_budget_s for job in jobs)
    methods = tuple(job.recipe.method for job in jobs)

    def work(i: int) -> "Callable[[Rest], _Trained]":
        def train(rest: Rest) -> "_Trained":
            def after_epoch(used_s: float) -> None:
                used[i] = used_s
                tell("training", sum(used) / budget_s)
                rest(used_s)

            model, story = _train(jobs[i], manifest, dataset, after_epoch)
            others = methods[:i] + methods[i + 1 :]
            return model, story.model_copy(update={"trained_with": others})

        return train

    if not jobs:
        return []
    return list(zip(jobs, in_turns([work(i) for i in range(len(jobs))]), strict=True))


def _train(
    job: RowJob,
    manifest: Manifest,
    dataset: "Dataset",
    after_epoch: Callable[[float], None],
) -> "_Trained":
    """Train one student; `after_epoch` is told the CPU-seconds used."""
    if not needs_live_teacher(job.recipe.method):
        fitted = _fit(job, manifest, dataset, after_epoch, teacher=None)
        return fitted.model, _story(manifest, fitted)
    from edge.distill.live_teacher import live_teacher

    storage = StorageDir(job.release_dir.parent)  # as `prepare_stage` left it
    gateway = live_gateway(storage.weights, storage.gateway_log)
    with gateway as (link, cpu_s), live_teacher(link) as teacher:
        fitted = _fit(job, manifest, dataset, after_epoch, teacher=teacher)
        used = {"live_bytes": teacher.num_bytes, "teacher_cpu_s": round(cpu_s(), 3)}
        return fitted.model, _story(manifest, fitted).model_copy(update=used)


def _story(manifest: Manifest, fitted: "Fitted") -> Story:
    watched = [p.robust_accuracy for p in fitted.curve if p.robust_accuracy is not None]
    return Story(
        teacher_sha256=manifest.teacher.weights_sha256,
        epochs=fitted.epochs,
        cpu_s=round(fitted.cpu_s.distil, 3),
        attack_cpu_s=round(fitted.cpu_s.attack, 3),
        val_robust_accuracy=watched[-1] if watched else None,
        flags=fitted.flags,
        trained_with=(),
    )


def _fit(
    job: RowJob,
    manifest: Manifest,
    dataset: "Dataset",
    after_epoch: Callable[[float], None],
    *,
    teacher: "Model | None",
) -> "Fitted":
    import torch

    from edge.distill.batch import Images
    from edge.distill.fit import fit_student
    from edge.distill.knowledge import read_knowledge
    from edge.distill.task import Task

    torch.set_num_threads(1)  # of this thread
    manifest = manifest.model_copy(update={"temperature": job.temperature})
    task = Task.of_release(
        manifest,
        train=Images.of(dataset.train),
        val=Images.of(dataset.val),
        knowledge=read_knowledge(manifest, job.release_dir, job.recipe),
        seed=job.seed,
    )
    task = replace(task, cpu_budget_s=job.cpu_budget_s, teacher=teacher)
    return fit_student(
        job.recipe, task, on_epoch=lambda point: after_epoch(point.cpu_s)
    )


def _measured(
    job: RowJob,
    manifest: Manifest,
    model: "nn.Module",
    story: Story,
    dataset: "Dataset",
    progress: Callable[[float], None],
) -> Row:
    """Measure a trained student on the test split."""
    from common.models.zoo import num_parameters
    from common.robustness.evaluate import (
        autoattack,
        clean_accuracy,
        is_collapsed,
        predict,
    )
    from edge.distill.losses import method

    x, y = dataset.test.tensors()
    collapsed = is_collapsed(predict(model, x), manifest.num_classes, labels=y)
    found = autoattack(
        model,
        x[: job.num_images],
        y[: job.num_images],
        eps=manifest.eps,
        seed=manifest.seed,  # the same attack for every student
        progress=progress,
    )
    contents = contents_for(job.recipe.method, job.recipe.boundary_weight)
    has_teacher = bool(contents) or needs_live_teacher(job.recipe.method)
    return Row(
        dataset=manifest.dataset,
        student=job.student,
        num_parameters=num_parameters(model),
        method=job.recipe.method,
        seed=job.seed,
        cpu_s=story.cpu_s,
        steps=job.recipe.attack.steps if method(job.recipe.method).craft else 0,
        epochs=story.epochs,
        clean_accuracy=clean_accuracy(model, x, y),
        robust_accuracy=found.accuracy,
        attack=found.attack,
        version=found.version,
        num_images=found.num_images,
        eps=found.eps,
        norm=found.norm,
        num_train=manifest.num_samples,
        cpu_budget_s=job.cpu_budget_s,
        attack_cpu_s=story.attack_cpu_s,
        learning_rate=job.recipe.learning_rate,
        pulled_bytes=story.live_bytes
        + sum(s.num_bytes for s in manifest.shards_for(contents, job.recipe.num_views)),
        val_robust_accuracy=story.val_robust_accuracy,
        flags=(*story.flags, *found.flags, *(("collapsed",) if collapsed else ())),
        teacher_sha256=manifest.teacher.weights_sha256 if has_teacher else None,
        trained_with=story.trained_with,
        teacher_cpu_s=story.teacher_cpu_s,
        identity=job.identity,
    )


if __name__ == "__main__":
    main()
