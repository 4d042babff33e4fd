"""How a student is attacked while it trains: what a batch is, and the deltas.

Each `craft_...` makes a delta (N, C, H, W) against the student as it is now. None
needs a teacher on the device: what the teacher had to say arrives in the `Batch`,
and the one that asks it meanwhile (`craft_by_live_teacher`) is given a way to.
Not here: the attacks themselves (common.robustness.attacks), what is then minimised
(losses.py).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import StudentConfig
from common.robustness.attacks import (
    Model,
    SampleLoss,
    cross_entropy,
    pgd,
    warm_started,
)
from edge.distill.class_temperatures import ClassTemperatures, at_temperature


class Boundary(NamedTuple):
    """Points just beyond the teacher's decision boundary (Heo et al., 2019)."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    soft_labels: Tensor  # (N, K), the teacher's there


class Batch(NamedTuple):
    """One batch and what the release says of it; None where it says nothing."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor  # (N,)
    soft_labels: Tensor | None = None  # (N, K), the teacher's on x
    delta: Tensor | None = None  # (N, C, H, W), where a warm start begins
    boundary: Boundary | None = None
    place: Tensor | None = None  # (N, H*W): of x on its canvas, see common.data.views


@dataclass(frozen=True)
class Setting:
    """What a step depends on, beside the model and the batch."""

    recipe: StudentConfig
    eps: float  # now, pixel scale; below the full one while warming up
    steps: int  # of the attack now: the recipe's, or more (safeguard.py)
    step_size: float  # of the attack now: the recipe's, in proportion to eps
    progress: float  # share of the training that is done, in [0, 1]
    temperature: float
    generator: torch.Generator | None = None
    class_temperatures: ClassTemperatures | None = None  # method absld
    teacher: Model | None = None  # method adaad: x -> logits, differentiable


def craft_by_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase the cross-entropy from a random start (Madry et al., ICLR 2018)."""
    return _pgd(model, batch, batch.y, setting)


def craft_by_soft_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase KL(T(x) -> S(x_adv)) (Zi et al., RSLAD, ICCV 2021)."""
    return _pgd(model, batch, require_soft_labels(batch), setting)


def craft_by_class_soft_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase the same, of soft labels at the temperature of each class (ABSLD)."""
    temperatures = require_class_temperatures(setting).adversarial
    soft = at_temperature(require_soft_labels(batch), temperatures[batch.y])
    return _pgd(model, batch, soft, setting)


def craft_by_live_teacher(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase KL(T(x_adv) -> S(x_adv)), with the gradient through both (AdaAD)."""
    teacher = require_teacher(setting)

    def both(x_adv: Tensor) -> Tensor:
        return torch.cat([model(x_adv), teacher(x_adv) / setting.temperature], 1)

    def apart(logits: Tensor, target: Tensor) -> Tensor:
        own, other = (F.log_softmax(part, 1) for part in logits.chunk(2, 1))
        return F.kl_div(own, other, reduction="none", log_target=True).sum(1)

    return _pgd(both, batch, batch.y, setting, apart)


def craft_by_clean(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase KL(S(x) -> S(x_adv)) (Zhang et al., TRADES, ICML 2019).

    From noise always: at x itself the divergence has no gradient.
    """
    with torch.no_grad():
        clean = F.softmax(model(batch.x), 1)
    return _pgd(model, batch, clean, setting, from_noise=True)


def craft_warm_by_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Continue from the kept delta, by the labels; no teacher."""
    return _warm(model, batch, batch.y, setting)


def craft_warm_by_soft_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Continue from the shipped, then from the kept delta, by `mixed_labels`."""
    return _warm(model, batch, mixed_labels(batch, setting), setting)


def mixed_labels(batch: Batch, setting: Setting) -> Tensor:
    """Mix the true label into the soft labels, by the recipe's weight: (N, K).

    A robust teacher is unsure of its own training images; what it lacks there a
    student of few parameters lacks twice.
    """
    soft = require_soft_labels(batch)
    weight = setting.recipe.label_weight
    if weight == 0:
        return soft
    return soft.mul(1 - weight).scatter_add_(
        1, batch.y[:, None], torch.full_like(soft[:, :1], weight)
    )


def require_soft_labels(batch: Batch) -> Tensor:
    """Return the soft labels; `contents_for` sees to it that they are there."""
    assert batch.soft_labels is not None, "the method needs soft_labels"
    return batch.soft_labels


def require_class_temperatures(setting: Setting) -> ClassTemperatures:
    """Return the class temperatures; `Training` keeps them for who adapts them."""
    assert setting.class_temperatures is not None, "the method needs temperatures"
    return setting.class_temperatures


def require_teacher(setting: Setting) -> Model:
    """Return the live teacher; `fit_student` sees to it that there is one."""
    assert setting.teacher is not None, "the method needs a live teacher"
    return setting.teacher


def _pgd(
    model: Model,
    batch: Batch,
    target: Tensor,
    setting: Setting,
    loss: SampleLoss = cross_entropy,
    *,
    from_noise: bool = False,
) -> Tensor:
    attack = setting.recipe.attack
    x_adv = pgd(
        model,
        batch.x,
        target,
        eps=setting.eps,
        step_size=setting.step_size,
        steps=setting.steps,
        random_start=attack.random_start or from_noise,
        restarts=attack.restarts,
        generator=setting.generator,
        loss=loss,
    )
    return x_adv - batch.x


def _warm(model: Model, batch: Batch, target: Tensor, setting: Setting) -> Tensor:
    assert batch.delta is not None, "a warm start needs a delta"
    return warm_started(
        model,
        batch.x,
        batch.delta,
        eps=setting.eps,
        step_size=setting.step_size,
        steps=setting.steps,
        noise=setting.recipe.noise,
        loss=lambda logits: F.cross_entropy(logits, target, reduction="sum"),
        generator=setting.generator,
    )
