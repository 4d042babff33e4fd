"""How a student is attacked while it trains: one function a method.

To craft is to compute an adversarial perturbation: each `craft_...` returns a delta
(N, C, H, W) against the student's current weights. None needs a teacher on the
device: the teacher's soft labels arrive in the `Batch`, and `craft_by_live_teacher`
calls a remote one.

The two `craft_warm_...` start from the delta of the sample's last epoch. That is
the idea of ATTA (Zheng et al., "Efficient Adversarial Training with Transferable
Adversarial Examples", CVPR 2020), which also moves a delta with the crop of its
image. Ours are kept as signs (fitting/) and get fresh uniform noise each time.
`craft_from_prior` is the same with values instead of signs and without noise, as in
FGSM-EP (Jia et al., ECCV 2022).

Not here: the attacks themselves (common.robustness.attacks), what is then minimised
(losses.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.models.forward import Model
from common.robustness.attacks import (
    SampleLoss,
    cross_entropy,
    pgd,
    warm_started,
    wide_noise,
)
from edge.distill.batch import Batch, Setting
from edge.distill.class_temperatures import ClassTemperatures, at_temperature


def craft_by_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase the cross-entropy from a random start (Madry et al., ICLR 2018)."""
    return _pgd(model, batch, batch.y, setting)


def craft_by_soft_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase KL(T(x) -> S(x_adv)) (Zi et al., RSLAD, ICCV 2021)."""
    return _pgd(model, batch, require_soft_labels(batch), setting)


def craft_by_class_soft_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase RSLAD's divergence, at a temperature of each class (ABSLD)."""
    temperatures = require_class_temperatures(setting).adversarial
    soft = at_temperature(require_soft_labels(batch), temperatures[batch.y])
    return _pgd(model, batch, soft, setting)


def craft_by_live_teacher(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase KL(T(x_adv) -> S(x_adv)), with the gradient through both (AdaAD)."""
    teacher = require_teacher(setting)

    def both(x_adv: Tensor) -> Tensor:
        return torch.cat([model(x_adv), teacher(x_adv) / setting.temperature], 1)

    def divergence(logits: Tensor, target: Tensor) -> Tensor:
        own, other = (F.log_softmax(part, 1) for part in logits.chunk(2, 1))
        return F.kl_div(own, other, reduction="none", log_target=True).sum(1)

    return _pgd(both, batch, batch.y, setting, divergence)


def craft_by_clean(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Increase KL(S(x) -> S(x_adv)) (Zhang et al., TRADES, ICML 2019).

    Always from a random start: at x itself the divergence has no gradient.
    """
    with torch.no_grad():
        clean = F.softmax(model(batch.x), 1)
    return _pgd(model, batch, clean, setting, from_noise=True)


def craft_warm_by_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Start from the last epoch's delta and increase the labels' cross-entropy.

    In essence ATTA (Zheng et al., CVPR 2020); see the module's docstring.
    """
    return _warm(model, batch, batch.y, setting)


def craft_warm_by_soft_labels(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Start from the shipped, later from the last epoch's delta; `mixed_labels`."""
    return _warm(model, batch, mixed_labels(batch, setting), setting)


def craft_from_prior(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Step from the last epoch's delta, as it is (FGSM-EP; Jia et al., ECCV 2022).

    The paper takes one step of eps; more, or smaller ones, are as in PGD.
    """
    return _warm(model, batch, batch.y, setting, noise=0)


def craft_from_wide_noise(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Step from wide noise (N-FGSM; de Jorge et al., NeurIPS 2022)."""
    return wide_noise(
        model,
        batch.x,
        batch.y,
        eps=setting.eps,
        step_size=setting.step_size,
        steps=setting.steps,
        generator=setting.generator,
    )


def mixed_labels(batch: Batch, setting: Setting) -> Tensor:
    """Mix the true label into the soft labels, by the recipe's weight: (N, K).

    A robust teacher is unsure even of its own training images, and a student of few
    parameters that imitates it alone is less sure still. Where a batch has a target of
    its own, it is that one's labels.
    """
    if batch.target is not None:
        return batch.target.labels
    soft = require_soft_labels(batch)
    weight = setting.recipe.label_weight
    if weight == 0:
        return soft
    return soft.mul(1 - weight).scatter_add_(
        1, batch.y[:, None], torch.full_like(soft[:, :1], weight)
    )


def require_soft_labels(batch: Batch) -> Tensor:
    """Return the soft labels; `contents_for` makes the node pull them."""
    assert batch.soft_labels is not None, "the method needs soft_labels"
    return batch.soft_labels


def require_class_temperatures(setting: Setting) -> ClassTemperatures:
    """Return the class temperatures; `Training` sets them for method absld."""
    assert setting.class_temperatures is not None, "the method needs temperatures"
    return setting.class_temperatures


def require_teacher(setting: Setting) -> Model:
    """Return the live teacher; `fit_student` refuses a method that lacks it."""
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


def _warm(
    model: Model,
    batch: Batch,
    target: Tensor,
    setting: Setting,
    *,
    noise: float | None = None,  # None: the recipe's
) -> Tensor:
    assert batch.delta is not None, "a warm start needs a delta"
    return warm_started(
        model,
        batch.x,
        batch.delta,
        eps=setting.eps,
        step_size=setting.step_size,
        steps=setting.steps,
        noise=setting.recipe.noise if noise is None else noise,
        loss=lambda logits: F.cross_entropy(logits, target, reduction="sum"),
        generator=setting.generator,
    )
