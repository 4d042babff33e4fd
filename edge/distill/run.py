"""One student from one release: the child process that runs inside the caps.

``python -m edge.distill JOB.json`` reads the job, the pulled release and the node's own
images (prepare.py), trains (fitting/), measures the student (measure.py) and writes it
and its result. Where training did the release's starting weights no good, these are the
student. Exit codes: 0 done, a TaktError's own, 4 out of memory, 143 ended by SIGTERM
(the checkpoint is safe). Not here: pulling, caps and promotion (edge.daemon).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from common.catalog import needs_live_teacher
from common.durable import storing, write_atomic
from common.errors import StorageError
from common.faults import point as fault_point
from common.models.files import load_model, save_model
from common.models.zoo import num_parameters
from common.release import Manifest, student_card
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import Fitted, fit_student
from edge.distill.knowledge import read_manifest
from edge.distill.measure import Scores, is_worse, measure
from edge.distill.prepare import Prepared, prepare
from edge.jobs.job import (
    CHECKPOINT,
    PROGRESS,
    RESULT,
    DistilJob,
    DistilResult,
    EpochPoint,
)
from edge.state import STUDENT

if TYPE_CHECKING:
    from edge.distill.teacher.live_teacher import LiveTeacher


def distil(
    job: DistilJob, *, should_stop: Callable[[], bool] = lambda: False
) -> DistilResult:
    """Train and measure the job's student; write it to the job's work folder.

    Raises:
        TrustError: the release is damaged, or is not of this node's images.
        DataError: the node's images are missing or damaged, or not of the release's
            kind.
        ConfigError: the release has no such student, or its recipe names what
            this takt does not know.
        StorageError: the work folder cannot be written.
        LinkError: the live teacher gave no answer within the deadline; the
            checkpoint, and what it answered about own images, are kept.
        IdentityError: the gateway refused the node's calls to its teacher.
        Interrupted: `should_stop` returned True.
    """
    manifest = read_manifest(job.release_dir)
    ready = prepare(job, manifest, should_stop=should_stop)
    with _live_teacher(job, ready, should_stop) as teacher:
        fitted = fit_student(
            ready.recipe,
            replace(ready.task, teacher=teacher),
            checkpoint=CheckpointFile(job.work_dir / CHECKPOINT, ready.digest),
            on_epoch=_Progress(job.work_dir / PROGRESS),
            should_stop=should_stop,
        )
    live_bytes = ready.num_bytes + (teacher.num_bytes if teacher else 0)
    began = time.process_time()
    choice = _choose(job, manifest, ready, fitted)
    evaluate_s = fitted.cpu_s.evaluate + time.process_time() - began
    return _write_student(job, manifest, ready, fitted, choice, live_bytes, evaluate_s)


@contextlib.contextmanager
def _live_teacher(
    job: DistilJob, ready: Prepared, should_stop: Callable[[], bool]
) -> "Iterator[LiveTeacher | None]":
    """Connect to the live teacher, if the method asks it in each step."""
    if job.live is None or not needs_live_teacher(ready.recipe.method):
        yield None
        return
    from edge.distill.teacher.live_teacher import live_teacher  # and with it gRPC

    with live_teacher(job.live, should_stop) as teacher:
        yield teacher


@dataclass(frozen=True)
class _Choice:
    """The student: what training made, or the starting weights."""

    model: nn.Module
    scores: Scores
    as_shipped: bool
    shipped: Scores | None  # of the starting weights
    serving: Scores | None  # of the student that serves


def _choose(
    job: DistilJob, manifest: Manifest, ready: Prepared, fitted: Fitted
) -> _Choice:
    """Measure the trained student, and those that it is to be better than."""

    def measured(model: nn.Module) -> Scores:
        val = (ready.own_val, ready.release_val)
        return measure(model, *val, manifest, seed=job.seed)

    trained, shipped, serving = measured(fitted.model), None, None
    if ready.shipped is not None:
        shipped = measured(ready.shipped)
    if job.serving is not None:
        serving = _measured_file(job.serving, manifest, measured)
    if (
        shipped is not None
        and ready.shipped is not None
        and not job.without
        and is_worse(trained, shipped, job.max_forgetting)
    ):
        return _Choice(ready.shipped, shipped, True, shipped, serving)
    return _Choice(fitted.model, trained, False, shipped, serving)


def _measured_file(
    path: Path, manifest: Manifest, measured: Callable[[nn.Module], Scores]
) -> Scores | None:
    """Measure the student in a file; None: it is of other images, or cannot be read."""
    try:
        model, card = load_model(path)
    except StorageError:
        return None
    given = (card.in_channels, card.image_size, card.class_names)
    channels, size, _ = manifest.sample_shape
    return measured(model) if given == (channels, size, manifest.class_names) else None


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
    ready: Prepared,
    fitted: Fitted,
    choice: _Choice,
    live_bytes: int,
    evaluate_s: float,
) -> DistilResult:
    """Write the student, then its result."""
    recipe, scores = ready.recipe, choice.scores
    card = student_card(manifest, recipe, seed=job.seed)
    fault_point("child.student.before_rename")
    digest = save_model(job.work_dir / STUDENT, choice.model, card)
    fault_point("child.student.after_rename")
    flags = [*fitted.flags]
    flags += ["collapsed"] * scores.collapsed + ["as_shipped"] * choice.as_shipped
    # Of the cloud's images it is what the node goes by, unless it has some of its own,
    # were it only to measure with.
    has_own = ready.num_own > 0 or len(ready.own_val.y) > 0
    differs = has_own or manifest.images == "transfer"
    release = scores.release if differs else None
    num_used = (ready.task.num_released or 0) + ready.num_own
    result = DistilResult(
        student=job.student,
        architecture=recipe.model,
        num_parameters=num_parameters(choice.model),
        method=recipe.method,
        seed=job.seed,
        batch_size=min(job.batch_size or recipe.batch_size, num_used),
        epochs=fitted.epochs,
        best_epoch=0 if choice.as_shipped else fitted.best_epoch,
        clean_accuracy=scores.main.clean_accuracy,
        robust=(scores.main.robust,),
        curve=fitted.curve,
        cpu_s=fitted.cpu_s.model_copy(update={"evaluate": evaluate_s}),
        live_bytes=live_bytes,
        flags=tuple(flags),
        own_images=ready.num_own,
        own_labelled=ready.num_labelled,
        release_clean_accuracy=release.clean_accuracy if release else None,
        release_robust=(release.robust,) if release else (),
        shipped=choice.shipped.robust_accuracies() if choice.shipped else None,
        serving=choice.serving.robust_accuracies() if choice.serving else None,
        notes=ready.notes,
        weights_sha256=digest,
    )
    data = result.model_dump_json(indent=1).encode()
    write_atomic(job.work_dir / RESULT, data, point="child.outcome")
    return result
