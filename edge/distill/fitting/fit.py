"""Train one student to its end: resume, run, choose the weights.

`fit_student` is the whole of stage 2 as a function: a recipe and a task in, a student
out. Not here: the steps (training.py), release and result files
(edge.distill.run), caps.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from common.catalog import needs_live_teacher
from common.config import StudentConfig
from common.errors import ConfigError
from common.records import CpuSeconds
from edge.distill.fitting.checkpoint import CheckpointFile, FitState
from edge.distill.fitting.training import Training
from edge.distill.task import Task
from edge.jobs.job import EpochPoint


@dataclass(frozen=True)
class Fitted:
    """A trained student and how its training went."""

    model: nn.Module  # in eval mode
    epochs: int
    best_epoch: int  # whose weights the model has
    curve: tuple[EpochPoint, ...]
    cpu_s: CpuSeconds
    flags: tuple[str, ...]


def fit_student(
    recipe: StudentConfig,
    task: Task,
    *,
    checkpoint: CheckpointFile | None = None,
    clock: Callable[[], float] = time.process_time,
    on_epoch: Callable[[EpochPoint], None] = lambda point: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train a student.

    Args:
        recipe: model, method, attack and schedules.
        task: data, threat model, seed and limits.
        checkpoint: to resume from and save to; None keeps nothing.
        clock: CPU-seconds of this process.
        on_epoch: called after each epoch; after resuming, with the earlier ones first.
        should_stop: called before each step; True ends the training.

    Raises:
        ConfigError: the recipe names an unknown model, method or schedule, or a
            method that needs the live teacher, and there is none.
        StorageError: the checkpoint cannot be written.
        Interrupted: `should_stop` returned True; the last checkpoint stays.
    """
    if needs_live_teacher(recipe.method) and task.teacher is None:
        raise ConfigError(
            f"method {recipe.method} needs the live teacher of a gateway, and there is "
            "none here; run it on a node, or choose a method that goes without"
        )
    saved = checkpoint.load() if checkpoint else None
    training = Training(recipe, task, clock=clock, state=saved[1] if saved else None)
    if saved:
        try:
            training.resume(saved[0])
        except (KeyError, RuntimeError):  # of a takt whose students had other parts
            training.state = FitState()
            training.begin()
    for point in training.state.curve:
        on_epoch(point)
    while training.progress() < 1:
        on_epoch(training.epoch(should_stop))
        if training.at_milestone and checkpoint:
            checkpoint.save(training.tensors(), training.state)
    return _finish(training)


def _finish(training: Training) -> Fitted:
    """Choose the weights: the last, or the best ones of a milestone.

    The last are better unless the training went wrong late (robust overfitting, a
    collapse), which shows as a loss that validation images do not explain by
    chance; the best of sixteen noisy measurements is often only the luckiest.
    """
    state = training.state
    chance = math.sqrt(0.25 / max(1, len(training.val.y)))  # a standard error
    take_last = state.last_robust >= state.best_robust - 2 * chance
    return Fitted(
        model=training.learner.student(None if take_last else training.best),
        epochs=state.epoch,
        best_epoch=state.epoch if take_last else state.best_epoch,
        curve=tuple(state.curve),
        cpu_s=CpuSeconds(
            distil=state.distil_s, attack=state.attack_s, evaluate=state.evaluate_s
        ),
        flags=tuple(
            flag
            for flag, is_up in (
                ("retried", state.attempt > 0),
                ("more_steps", state.doublings > 0),
            )
            if is_up
        ),
    )
