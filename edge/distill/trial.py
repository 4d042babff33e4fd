"""A few steps of a student's training, measured: the child process of `takt fit`.

``python -m edge.distill.trial JOB.json`` does what `edge.distill.run` does, with fewer
steps: it reads images and knowledge, trains, saves a checkpoint and measures the
student, so that memory peaks where a whole training's does. Not here: the caps
(edge.jobs.sizing) and the choice (deploy.selection.student).
"""

import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch

from common.catalog import contents_for, needs_live_teacher
from common.config import AttackConfig
from common.data.datasets import load_dataset
from common.data.sources import RUN_OPTION
from common.data.views import Views
from common.durable import write_atomic
from common.errors import ConfigError
from common.models.zoo import build_model, num_macs, num_parameters
from common.release import check_views
from common.robustness.evaluate import robust_accuracy_pgd
from edge.distill.batch import Images
from edge.distill.exit_code import exit_code_of
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.training import Training
from edge.distill.knowledge import (
    BoundaryPoints,
    Knowledge,
    read_knowledge,
    read_manifest,
)
from edge.distill.sources.released import released_images
from edge.distill.task import Task
from edge.jobs.job import CHECKPOINT, read_message
from edge.jobs.sizing import COST, Cost, TrialJob

_PART = 8  # of a batch, in the first, quick measurement
_STEPS, _MIN_S, _MAX_S = 8, 1.0, 20.0  # of the second one: steps, CPU-seconds


def measure(job: TrialJob) -> Cost:
    """Train a little of the job's student.

    Raises:
        ConfigError: the method needs a live teacher, whose cost depends on the
            network.
        TaktError: as `edge.distill.run.distil`.
    """
    if needs_live_teacher(job.recipe.method):
        raise ConfigError(
            f"method {job.recipe.method} of {job.recipe.model} asks a live teacher in "
            "each step, which a trial without a gateway cannot; give that student "
            "another method, or leave it out"
        )
    training = Training(job.recipe, _task(job))
    model, steps = training.learner.model, training.steps_per_epoch()
    # A whole batch takes longer than a part of one, so that one is a lower bound.
    part = max(2, training.batch_size // _PART)
    step_s = min(_step_s(training, part) for _ in range(2))
    epochs = training.recipe.epochs  # fewer than the recipe's from starting weights
    is_bound = step_s * steps * epochs > job.cpu_s
    if not is_bound:
        step_s = _median_step_s(training)
        _reach_peak_memory(training, job)
    x = training.train.x
    shape = (x.shape[1], x.shape[2], x.shape[3])
    return Cost(
        num_parameters=num_parameters(model),
        num_macs=num_macs(model, shape),
        cpu_s_per_epoch=step_s * steps,
        cpu_s=step_s * steps * epochs,
        is_bound=is_bound,
    )


def _task(job: TrialJob) -> Task:
    """Read what the training reads."""
    if job.release_dir is not None:
        manifest = read_manifest(job.release_dir)
        files = job.release_dir
        train, val = released_images(job.dataset, manifest, files, option=RUN_OPTION)
        knowledge = read_knowledge(manifest, job.release_dir, job.recipe)
        num_classes = manifest.num_classes
        has_weights = any(manifest.students[n] == job.recipe for n in manifest.weights)
    else:
        dataset = load_dataset(job.dataset, seed=job.seed, download=None)
        train, val = Images.of(dataset.train), Images.of(dataset.val)
        given = job.knowledge
        if given is not None and given.images == "transfer":  # nodes get a part of them
            train = Images(train.x[: given.num_images], train.y[: given.num_images])
        num_classes = dataset.num_classes
        has_weights = given is not None and given.weights
        knowledge = _placeholder(job, train, num_classes)
    start = None
    if has_weights:  # any will do: what they cost is the same
        channels, size = train.x.shape[1:3]
        start = build_model(
            job.recipe.model,
            in_channels=channels,
            image_size=size,
            num_classes=num_classes,
        ).state_dict()
    return Task(
        train=train,
        val=val,
        knowledge=knowledge,
        num_classes=num_classes,
        eps=job.eps,
        seed=job.seed,
        start=start,
    )


def _placeholder(job: TrialJob, train: Images, num_classes: int) -> Knowledge:
    """Make empty knowledge that costs the time and memory of a teacher's."""
    recipe = job.recipe
    contents = contents_for(recipe.method, recipe.boundary_weight)
    num, shape = len(train.y), tuple(train.x.shape[1:])
    soft, views = torch.full((num, num_classes), 1 / num_classes), None
    if recipe.num_views > 1:
        assert job.knowledge is not None, "views are those of a [knowledge]"
        check_views(recipe, job.knowledge)
        views = Views.draw(
            num,
            recipe.num_views,
            shift=job.knowledge.shift,
            flip=job.knowledge.flip,
            seed=job.seed,
        )
    signs = np.zeros((num, -(-int(np.prod(shape)) // 8)), np.uint8)
    points = None
    if "boundary_points" in contents:
        delta = np.zeros((num, *shape), np.int8)
        points = BoundaryPoints(delta, np.ones(num, np.float16), soft)
    if views is not None:
        soft = soft[:, None].repeat(1, recipe.num_views, 1)
    return Knowledge(
        soft_labels=soft if "soft_labels" in contents else None,
        delta_signs=signs if "deltas" in contents else None,
        boundary=points,
        views=views,
    )


def _step_s(training: Training, batch_size: int) -> float:
    """Take one step; return its CPU-seconds."""
    before = training.state.distil_s
    first = (training.state.step * batch_size) % len(training.train.y)
    positions = (torch.arange(batch_size) + first) % len(training.train.y)
    training.step(positions)
    return training.state.distil_s - before


def _median_step_s(training: Training) -> float:
    """Measure whole batches: the median, the first of them left out."""
    _step_s(training, training.batch_size)
    found: list[float] = []
    while (len(found) < _STEPS or sum(found) < _MIN_S) and sum(found) < _MAX_S:
        found.append(_step_s(training, training.batch_size))
    return median(found)


def _reach_peak_memory(training: Training, job: TrialJob) -> None:
    """Do once what else takes memory: measuring the student and a checkpoint."""
    training.validate()
    file = CheckpointFile(job.work_dir / CHECKPOINT)
    file.save(training.tensors(), training.state)
    val = training.task.val
    attack = AttackConfig(steps=1, step_size=job.eps)
    student = training.learner.student()
    robust_accuracy_pgd(student, val.x, val.y, attack=attack, eps=job.eps, seed=0)


def main(argv: list[str]) -> int:
    """Run one trial; the exit code says how it ended, as that of `edge.distill`."""

    def run() -> None:
        job = read_message(Path(argv[0]), TrialJob)
        torch.set_num_threads(job.threads)
        cost = measure(job)
        write_atomic(job.work_dir / COST, cost.model_dump_json().encode())

    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
