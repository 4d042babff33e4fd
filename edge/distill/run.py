"""One student from one release: the child process that runs inside the caps.

``python -m edge.distill JOB.json`` reads the job, the pulled release and the
node's own images, checks that they are the images of the release, trains
(fit.py), measures the student and writes it and its result. Exit codes: 0
done, a TaktError's own, 4 out of memory, 143 ended by SIGTERM (the checkpoint is
safe). Not here: pulling, caps and promotion (edge.daemon).
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from common.config import AttackConfig, DatasetConfig, StudentConfig
from common.data.datasets import Dataset, load_dataset
from common.durable import storing, write_atomic
from common.errors import TrustError
from common.faults import point as fault_point
from common.models.files import save_model
from common.models.zoo import num_parameters
from common.records import Evaluation
from common.release import Manifest, recipe_of, student_card
from common.robustness.evaluate import is_collapsed, predict, robust_accuracy_pgd
from edge.distill.batch import Images
from edge.distill.checkpoint import CheckpointFile
from edge.distill.fit import Fitted, fit_student
from edge.distill.knowledge import read_knowledge, read_manifest
from edge.distill.task import Task
from edge.jobs.job import (
    CHECKPOINT,
    PROGRESS,
    RESULT,
    STUDENT,
    DistilJob,
    DistilResult,
    EpochPoint,
)

if TYPE_CHECKING:
    from edge.distill.live_teacher import LiveTeacher


def distil(
    job: DistilJob, *, should_stop: Callable[[], bool] = lambda: False
) -> DistilResult:
    """Train and measure the job's student; write it to the job's work folder.

    Raises:
        TrustError: the release is damaged, or is not of this node's images.
        DataError: the node's images are missing or damaged.
        ConfigError: the release has no such student, or its recipe names what
            this takt does not know.
        StorageError: the work folder cannot be written.
        LinkError: the live teacher gave no answer within the deadline; the
            checkpoint is kept.
        IdentityError: the gateway refused the node's calls to its teacher.
        Interrupted: `should_stop` returned True.
    """
    manifest = read_manifest(job.release_dir)
    recipe = recipe_of(manifest, job.student)
    train, val = own_images(job.dataset, manifest)
    task = Task.of_release(
        manifest,
        train=train,
        val=val,
        knowledge=read_knowledge(manifest, job.release_dir, recipe),
        seed=job.seed,
    )
    task = replace(task, batch_size=job.batch_size, cpu_budget_s=job.cpu_budget_s)
    digest = _job_digest(job, manifest)
    with _live_teacher(job, should_stop) as teacher:
        fitted = fit_student(
            recipe,
            replace(task, teacher=teacher),
            checkpoint=CheckpointFile(job.work_dir / CHECKPOINT, digest),
            on_epoch=_Progress(job.work_dir / PROGRESS),
            should_stop=should_stop,
        )
    live_bytes = teacher.num_bytes if teacher else 0
    return _write_student(job, manifest, recipe, fitted, val, live_bytes)


@contextlib.contextmanager
def _live_teacher(
    job: DistilJob, should_stop: Callable[[], bool]
) -> "Iterator[LiveTeacher | None]":
    """Connect to the live teacher, if the job has one."""
    if job.live is None:
        yield None
        return
    from edge.distill.live_teacher import live_teacher  # and with it gRPC

    with live_teacher(job.live, should_stop) as teacher:
        yield teacher


def own_images(files: DatasetConfig, manifest: Manifest) -> tuple[Images, Images]:
    """Rebuild the release's training and validation images from the node's files.

    Raises:
        DataError: the node's images are missing or damaged.
        TrustError: they are not the images of the release.
    """
    config = files.model_copy(
        update={
            "name": manifest.dataset,
            "limit": manifest.limit,
            "val_fraction": manifest.val_fraction,
            "image_size": manifest.image_size,
        }
    )
    # No download: it needs torchvision, which does not fit a small node's caps.
    dataset: Dataset = load_dataset(config, seed=manifest.seed, download=None)
    found = dataset.train.fingerprint()
    if found != manifest.fingerprint:
        raise TrustError(
            f"the images here are not those of the release: {len(dataset.train)} "
            f"training images of {manifest.dataset} with fingerprint {found[:12]}, "
            f"expected {manifest.num_samples} with {manifest.fingerprint[:12]}; "
            "give the node the same files as the cloud"
        )
    return Images.of(dataset.train), Images.of(dataset.val)


def _job_digest(job: DistilJob, manifest: Manifest) -> str:
    """Digest all that a checkpoint depends on; a different job starts anew."""
    parts = [
        manifest.model_dump_json(),
        job.student,
        str(job.seed),
        str(job.batch_size),
        str(job.cpu_budget_s),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Progress:
    """Appends a line per epoch; the first call of a training truncates the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mode = "w"

    def __call__(self, point: EpochPoint) -> None:
        line = point.model_dump_json() + "\n"
        with storing(self._path), self._path.open(self._mode, encoding="utf-8") as file:
            file.write(line)
        self._mode = "a"


def _write_student(
    job: DistilJob,
    manifest: Manifest,
    recipe: StudentConfig,
    fitted: Fitted,
    val: Images,
    live_bytes: int,
) -> DistilResult:
    """Measure the student on the whole validation split; write it, then its result."""
    began = time.process_time()
    clean, robust, collapsed = _evaluate(fitted.model, val, job, manifest)
    evaluate_s = fitted.cpu_s.evaluate + time.process_time() - began
    card = student_card(manifest, recipe, seed=job.seed)
    fault_point("child.student.before_rename")
    digest = save_model(job.work_dir / STUDENT, fitted.model, card)
    fault_point("child.student.after_rename")
    result = DistilResult(
        student=job.student,
        architecture=recipe.model,
        num_parameters=num_parameters(fitted.model),
        method=recipe.method,
        seed=job.seed,
        batch_size=min(job.batch_size or recipe.batch_size, manifest.num_samples),
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        clean_accuracy=clean,
        robust=(robust,),
        curve=fitted.curve,
        cpu_s=fitted.cpu_s.model_copy(update={"evaluate": evaluate_s}),
        live_bytes=live_bytes,
        flags=(*fitted.flags, "collapsed") if collapsed else fitted.flags,
        weights_sha256=digest,
    )
    data = result.model_dump_json(indent=1).encode()
    write_atomic(job.work_dir / RESULT, data, point="child.outcome")
    return result


def _evaluate(
    student: nn.Module, val: Images, job: DistilJob, manifest: Manifest
) -> tuple[float, Evaluation, bool]:
    """Measure clean accuracy, PGD and collapse on all validation images."""
    x, y = val.batch(torch.arange(len(val.y)))
    classes = predict(student, x)
    attack = AttackConfig(
        steps=manifest.node_attack_steps, step_size=manifest.node_attack_step_size
    )
    robust = robust_accuracy_pgd(
        student, x, y, attack=attack, eps=manifest.eps, seed=job.seed
    )
    collapsed = is_collapsed(classes, manifest.num_classes, labels=y)
    return float((classes == y).double().mean()), robust, collapsed
