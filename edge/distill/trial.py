"""A few steps of a student's training, measured: the child process of `takt fit`.

``python -m edge.distill.trial JOB.json`` does what `edge.distill.run` does, but for the
length of it: it reads images and knowledge, trains, watches, saves a checkpoint and
judges the student, so that memory peaks where a whole training's does. Not here: the
caps and the choice (sizing.py, deploy/selection/student.py).
"""

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from common.catalog import contents_for, needs_live_teacher
from common.config import AttackConfig
from common.data.datasets import load_dataset
from common.data.views import Views
from common.durable import write_atomic
from common.errors import ConfigError
from common.models.zoo import num_macs, num_parameters
from common.release import check_views
from common.robustness.evaluate import robust_accuracy_pgd
from edge.distill.batch import Images
from edge.distill.checkpoint import FitState, save_checkpoint
from edge.distill.exit_code import exit_code_of
from edge.distill.knowledge import (
    BoundaryPoints,
    Knowledge,
    read_knowledge,
    read_manifest,
)
from edge.distill.run import own_images
from edge.distill.training import Training
from edge.jobs.job import CHECKPOINT, read_message
from edge.jobs.sizing import COST, Cost, TrialJob

_PART = 8  # of a batch: the first, quick look
_STEPS, _LEAST_S, _MOST_S = 8, 1.0, 20.0  # of the second: so many, for so long


def measure(job: TrialJob) -> Cost:
    """Train a little of the job's student.

    Raises:
        ConfigError: the method asks a live teacher, whose answers take their time
            from a network.
        TaktError: as `edge.distill.run.distil`.
    """
    if needs_live_teacher(job.recipe.method):
        raise ConfigError(
            f"method {job.recipe.method} of {job.recipe.model} asks a live teacher in "
            "each step, which a trial without a gateway cannot; give that student "
            "another method, or leave it out"
        )
    train, val, knowledge, num_classes = _given(job)
    training = Training(
        job.recipe,
        train,
        val,
        knowledge,
        num_classes=num_classes,
        eps=job.eps,
        seed=job.seed,
        batch_size=None,
        cpu_budget_s=None,
        clock=time.process_time,
        state=FitState(identity=""),
    )
    model, steps = training.learner.model, training.steps_per_epoch()
    # A whole batch takes longer than a part of one, so that one is a lower bound.
    part = max(2, training.batch_size // _PART)
    step_s = min(_timed(training, part) for _ in range(2))
    is_bound = step_s * steps * job.recipe.epochs > job.cpu_s
    if not is_bound:
        step_s = _steady(training)
        _peak(training, job, val)
    shape = (train.x.shape[1], train.x.shape[2], train.x.shape[3])
    return Cost(
        num_parameters=num_parameters(model),
        num_macs=num_macs(model, shape),
        cpu_s_per_epoch=step_s * steps,
        cpu_s=step_s * steps * job.recipe.epochs,
        is_bound=is_bound,
    )


def _given(job: TrialJob) -> tuple[Images, Images, Knowledge, int]:
    """Read what the training reads."""
    if job.release_dir is not None:
        manifest = read_manifest(job.release_dir)
        train, val = own_images(job.dataset, manifest)
        knowledge = read_knowledge(manifest, job.release_dir, job.recipe)
        return train, val, knowledge, manifest.num_classes
    dataset = load_dataset(job.dataset, seed=job.seed, download=None)
    train, val = Images.of(dataset.train), Images.of(dataset.val)
    return train, val, _stand_in(job, train, dataset.num_classes), dataset.num_classes


def _stand_in(job: TrialJob, train: Images, num_classes: int) -> Knowledge:
    """Make knowledge that costs what a teacher's does, and says nothing."""
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


def _timed(training: Training, batch_size: int) -> float:
    """Take one step; return its CPU-seconds."""
    before = training.state.distil_s
    first = (training.state.step * batch_size) % len(training.train.y)
    positions = (torch.arange(batch_size) + first) % len(training.train.y)
    training.step(positions)
    return training.state.distil_s - before


def _steady(training: Training) -> float:
    """Measure whole batches: the median, the first of them left out."""
    _timed(training, training.batch_size)
    found: list[float] = []
    while (len(found) < _STEPS or sum(found) < _LEAST_S) and sum(found) < _MOST_S:
        found.append(_timed(training, training.batch_size))
    return median(found)


def _peak(training: Training, job: TrialJob, val: Images) -> None:
    """Do once what else takes memory: watching, a checkpoint, the last judgement."""
    training.watch()
    save_checkpoint(job.work_dir / CHECKPOINT, training.tensors(), training.state)
    x, y = val.batch(torch.arange(len(val.y)))
    attack = AttackConfig(steps=1, step_size=job.eps)
    student = training.learner.student()
    robust_accuracy_pgd(student, x, y, attack=attack, eps=job.eps, seed=0)


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
