"""Attacks of norm Linf on one batch: FGSM, PGD and the warm-started attack.

Pure functions: the gradient is taken with respect to x only (parameters get no
`.grad`), the model stays in the mode it is in, and randomness comes from the generator
that is given. Not here: accuracies and AutoAttack (common.robustness.evaluate), and
what a training does with the result (cloud.training.objectives, edge.distill.methods).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.models.forward import Model

_WIDE_NOISE = 2.0  # in units of eps: k of the N-FGSM paper

SampleLoss = Callable[[Tensor, Tensor], Tensor]  # logits (N, K), y (N,) -> (N,)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Measure the cross-entropy of each sample: (N, K), (N,) -> (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def fgsm(model: Model, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    """Take one step of eps along the gradient's sign (Goodfellow et al., ICLR 2015).

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: radius, pixel scale.

    Returns:
        x_adv, same shape, within eps of x and in [0, 1].
    """
    gradient = _gradient(lambda logits: cross_entropy(logits, y).sum(), model, x)
    return (x + eps * gradient.sign()).clamp_(0, 1)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    random_start: bool,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    loss: SampleLoss = cross_entropy,
) -> Tensor:
    """Run projected gradient ascent (Madry et al., ICLR 2018).

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1].
        y: labels (N,), handed to `loss`.
        eps: radius, pixel scale.
        step_size: of each step, pixel scale.
        steps: how many; 0 returns the start.
        random_start: start uniformly in the ball rather than at x.
        restarts: independent runs; of each sample the one of the greatest loss is
            kept or, where `loss` is the labels' cross-entropy, any that is
            misclassified.
        generator: of the random starts; None is torch's own.
        loss: what is increased, one value a sample.

    Returns:
        x_adv, same shape, within eps of x and in [0, 1].
    """
    low, high = _ball(x, eps)
    by_labels = loss is cross_entropy and y.dim() == 1
    best, best_score = x, torch.full_like(x[:, 0, 0, 0], -torch.inf)
    for _ in range(restarts):
        x_adv = x
        if random_start:
            x_adv = _clip(x + _uniform(x, eps, generator), low, high)
        for _ in range(steps):
            gradient = _gradient(lambda z: loss(z, y).sum(), model, x_adv)
            x_adv = _clip(torch.add(x_adv, gradient.sign(), alpha=step_size), low, high)
        if restarts == 1:
            return x_adv
        with torch.no_grad():
            logits = model(x_adv)
            score = loss(logits, y)
            if by_labels:
                score = torch.where(logits.argmax(1) == y, score, torch.inf)
        better = score > best_score
        best = torch.where(better[:, None, None, None], x_adv, best)
        best_score = torch.where(better, score, best_score)
    return best


def warm_started(
    model: Model,
    x: Tensor,
    delta: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    noise: float,
    loss: Callable[[Tensor], Tensor],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue an earlier attack from its delta, for a few steps.

    The start is ``clip(delta + uniform noise of +-noise * eps)``: the earlier
    delta saves most of the steps, fresh noise each time keeps a small training
    set's deltas from being memorised.

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1].
        delta: (N, C, H, W), where to start: the teacher's or the last one kept.
        eps: radius, pixel scale.
        step_size: of each step, pixel scale.
        steps: how many; 0 returns the noisy start.
        noise: half-width of the uniform noise, in units of eps.
        loss: logits -> scalar that is increased.
        generator: of the noise; None is torch's own.

    Returns:
        delta, same shape, within [-eps, eps], with x + delta in [0, 1].
    """
    low, high = _ball(x, eps)
    x_adv = x + delta
    if noise > 0:
        x_adv += _uniform(x, noise * eps, generator)
    x_adv = _clip(x_adv, low, high)
    for _ in range(steps):
        gradient = _gradient(loss, model, x_adv)
        x_adv = _clip(torch.add(x_adv, gradient.sign(), alpha=step_size), low, high)
    return x_adv - x


def wide_noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Step from uniform noise of +-2 eps, bounded by [0, 1] alone (N-FGSM).

    De Jorge et al., "Make Some Noise: Reliable and Efficient Single-Step Adversarial
    Training", NeurIPS 2022: one step of eps, and the perturbation is not clipped to
    the eps ball, so that a pixel may move by 3 eps.

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: radius of which the noise is twice, pixel scale.
        step_size: of each step, pixel scale.
        steps: how many.
        generator: of the noise; None is torch's own.

    Returns:
        delta, same shape, with x + delta in [0, 1].
    """
    return warm_started(
        model,
        x,
        torch.zeros_like(x),
        eps=1.0,  # of a ball that holds all images
        step_size=step_size,
        steps=steps,
        noise=_WIDE_NOISE * eps,
        loss=lambda logits: F.cross_entropy(logits, y, reduction="sum"),
        generator=generator,
    )


def _ball(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Bound the adversarial examples of x: the eps ball within [0, 1]."""
    return (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)


def _clip(x_adv: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Project onto the ball, in place; x_adv must be a fresh tensor."""
    return torch.clamp_(x_adv, low, high)


def _uniform(x: Tensor, width: float, generator: torch.Generator | None) -> Tensor:
    """Draw uniformly from [-width, width], one value a pixel."""
    return torch.empty_like(x).uniform_(-width, width, generator=generator)


def _gradient(loss: Callable[[Tensor], Tensor], model: Model, x: Tensor) -> Tensor:
    """Differentiate ``loss(model(x))`` with respect to x alone."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(leaf)), leaf)
    return gradient
