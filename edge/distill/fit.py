"""Train one student to its end: resume, run, choose the weights.

`fit_student` is the whole of stage 2 as a function: a recipe, images and
knowledge in, a student out. Not here: the steps (training.py), release and
result files (run.py), caps.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.catalog import needs_live_teacher
from common.config import StudentConfig
from common.errors import ConfigError
from common.models.forward import Model
from edge.distill.batch import Images
from edge.distill.checkpoint import FitState, load_checkpoint, save_checkpoint
from edge.distill.knowledge import Knowledge
from edge.distill.training import Training
from edge.jobs.job import CpuSeconds, CurvePoint


@dataclass(frozen=True)
class Fitted:
    """A trained student and the story of its training."""

    model: nn.Module  # in eval mode
    epochs: int
    best_epoch: int  # whose weights the model has
    curve: tuple[CurvePoint, ...]
    cpu_s: CpuSeconds
    flags: tuple[str, ...]
    clock: Callable[[], float]  # that `cpu_s` was measured with


def fit_student(
    recipe: StudentConfig,
    train: Images,
    val: Images,
    knowledge: Knowledge,
    *,
    num_classes: int,
    eps: float,
    seed: int,
    batch_size: int | None = None,
    cpu_budget_s: float | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
    safeguard: bool = True,
    teacher: Model | None = None,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.process_time,
    on_epoch: Callable[[CurvePoint], None] = lambda point: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train a student.

    Args:
        recipe: model, method, attack and schedules.
        train: the images that the knowledge speaks of, in its order.
        val: images to watch the training by.
        knowledge: what the release says; empty for methods without a teacher.
        num_classes: number of logits.
        eps: radius of the threat model, pixel scale.
        seed: of weights, order and noise.
        batch_size: None takes the recipe's.
        cpu_budget_s: train until so many CPU-seconds are used (attacks included,
            watching not); None trains the recipe's epochs.
        checkpoint: file to resume from and save to; None keeps nothing.
        identity: what the checkpoint must be of.
        safeguard: against catastrophic overfitting; without it for comparisons only.
        teacher: the live one, x -> logits, differentiable; for a method that asks it.
        device: that computes and keeps images, soft labels and deltas; None: the CPU.
            Method absld knows no other.
        clock: CPU-seconds of this process.
        on_epoch: told of each epoch; again of earlier ones after resuming.
        should_stop: asked before each step.

    Raises:
        ConfigError: the recipe names an unknown model, method or schedule, or a
            method that needs the live teacher, and there is none.
        StorageError: the checkpoint cannot be written.
        Interrupted: `should_stop` said so; the last checkpoint stays.
    """
    if needs_live_teacher(recipe.method) and teacher is None:
        raise ConfigError(
            f"method {recipe.method} needs the live teacher of a gateway, and there is "
            "none here; run it on a node, or choose a method that goes without"
        )
    saved = load_checkpoint(checkpoint, identity) if checkpoint else None
    training = Training(
        recipe,
        train,
        val,
        knowledge,
        num_classes=num_classes,
        eps=eps,
        seed=seed,
        batch_size=batch_size,
        cpu_budget_s=cpu_budget_s,
        clock=clock,
        state=saved[1] if saved else FitState(identity=identity),
        safeguard=safeguard,
        teacher=teacher,
        device=device,
    )
    if saved:
        try:
            training.resume(saved[0])
        except (KeyError, RuntimeError):  # of a takt whose students had other parts
            training.state = FitState(identity=identity)
            training.begin()
    for point in training.state.curve:
        on_epoch(point)
    while training.progress() < 1:
        on_epoch(training.epoch(should_stop))
        if training.at_milestone and checkpoint:
            save_checkpoint(checkpoint, training.tensors(), training.state)
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
        clock=training.clock,
    )
