"""Adversarial training objectives of the teacher, and weight perturbation.

PGD-AT, TRADES, MART and N-FGSM, each as two pure steps: craft x_adv against the model
as it is now, then a scalar loss at that x_adv. The split lets AWP perturb the weights
between the two. Not here: the loop, schedules and data (teacher.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import AttackConfig, TeacherConfig
from common.models.forward import Model
from common.robustness.attacks import pgd, wide_noise

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TINY = 1e-12  # keeps a gradient of zeros from dividing by zero


@dataclass(frozen=True)
class Objective:
    """What the teacher minimises.

    Attributes:
        craft: (model, x, y, eps, attack, generator) -> x_adv.
        loss: (model, x, x_adv, y, config) -> scalar.
    """

    craft: Callable[..., Tensor]
    loss: Callable[[Model, Tensor, Tensor, Tensor, TeacherConfig], Tensor]


def craft_against_labels(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    attack: AttackConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """Maximise the cross-entropy (Madry et al., ICLR 2018): x_adv like x."""
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=attack.step_size,
        steps=attack.steps,
        random_start=attack.random_start,
        restarts=attack.restarts,
        generator=generator,
    )


def craft_against_clean(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    attack: AttackConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """Maximise KL(clean || adversarial) (Zhang et al., ICML 2019): x_adv like x.

    The start is always random: at x itself this loss has no gradient.
    """
    with torch.no_grad():
        clean = F.softmax(model(x), dim=1)
    return pgd(
        model,
        x,
        clean,
        eps=eps,
        step_size=attack.step_size,
        steps=attack.steps,
        random_start=True,
        restarts=attack.restarts,
        generator=generator,
        loss=divergence,
    )


def craft_from_wide_noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    attack: AttackConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """Step once or twice from wide noise (N-FGSM; de Jorge et al., NeurIPS 2022)."""
    return x + wide_noise(
        model,
        x,
        y,
        eps=eps,
        step_size=attack.step_size,
        steps=attack.steps,
        generator=generator,
    )


def divergence(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Measure KL(soft_labels || softmax(logits)) of each sample: (N,)."""
    return F.kl_div(F.log_softmax(logits, 1), soft_labels, reduction="none").sum(1)


def pgd_at(
    model: Model, x: Tensor, x_adv: Tensor, y: Tensor, config: TeacherConfig
) -> Tensor:
    """Train on x_adv alone (Madry et al., ICLR 2018)."""
    logits = model(x_adv)
    return F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)


def trades(
    model: Model, x: Tensor, x_adv: Tensor, y: Tensor, config: TeacherConfig
) -> Tensor:
    """Trade accuracy against smoothness: CE(x) + beta KL(x || x_adv).

    Zhang et al., ICML 2019. The gradient flows through both sides of the KL.
    """
    logits = model(x)
    natural = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
    robust = divergence(model(x_adv), F.softmax(logits, 1)).mean()
    return natural + config.beta * robust


def mart(
    model: Model, x: Tensor, x_adv: Tensor, y: Tensor, config: TeacherConfig
) -> Tensor:
    """Weigh the KL of misclassified samples up (Wang et al., ICLR 2020).

    Boosted cross-entropy at x_adv + beta KL(x || x_adv) (1 - p(y | x)).
    """
    adversarial = model(x_adv)
    clean = F.softmax(model(x), 1)
    wrong = adversarial.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    # log(1 - p) of the likeliest wrong class, exact also where p rounds to 1.
    rest = adversarial.scatter(1, wrong, -torch.inf).logsumexp(1)
    boosted = (
        F.cross_entropy(adversarial, y, label_smoothing=config.label_smoothing)
        + (adversarial.logsumexp(1) - rest).mean()
    )
    doubt = 1 - clean.gather(1, y[:, None])[:, 0]
    return boosted + config.beta * (divergence(adversarial, clean) * doubt).mean()


OBJECTIVES = {
    "pgd_at": Objective(craft_against_labels, pgd_at),
    "trades": Objective(craft_against_clean, trades),
    "mart": Objective(craft_against_labels, mart),
    "n_fgsm": Objective(craft_from_wide_noise, pgd_at),
}


@contextmanager
def frozen(weights: Sequence[Tensor]) -> Iterator[None]:
    """Let an attack differentiate with respect to x alone for the body.

    Without it torch.compile's backward pass, which is one graph, computes the gradients
    of all weights at every step of the attack, and discards them.
    """
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from moving its running statistics for the body."""
    norms = [m for m in model.modules() if isinstance(m, _NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def perturbed_weights(
    weights: Sequence[Tensor],
    loss: Callable[[], Tensor],
    gamma: float,
    average: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda gradients: (
        gradients
    ),
) -> Iterator[None]:
    """Move the weights uphill for the body: AWP (Wu et al., NeurIPS 2020).

    Args:
        weights: parameters; those of one dimension (biases) are left alone.
        loss: computes the loss at the present weights.
        gamma: length of the step relative to each weight's norm; 0 moves nothing.
        average: of gradients over all ranks, which then move alike.
    """
    if gamma == 0:
        yield
        return
    moved = [w for w in weights if w.dim() > 1]
    before = [w.detach().clone() for w in moved]
    gradients = average(torch.autograd.grad(loss(), moved, materialize_grads=True))
    with torch.no_grad():
        uphill = list(gradients)
        norms = torch._foreach_add(list(torch._foreach_norm(uphill)), _TINY)
        lengths = torch._foreach_div(list(torch._foreach_norm(moved)), list(norms))
        torch._foreach_mul_(list(lengths), gamma)
        torch._foreach_add_(moved, torch._foreach_mul(uphill, list(lengths)))
    try:
        yield
    finally:
        # Copied back, not subtracted: replicas must stay equal to the last bit.
        with torch.no_grad():
            torch._foreach_copy_(moved, before)
