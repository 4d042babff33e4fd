"""Clean and robust accuracy of a model, each with what gives it meaning.

The one place to import evaluations from: PGD here, AutoAttack from
`autoattack.py`, predictions and sanity checks from `sanity.py`. A robust accuracy
is always an `Evaluation`: attack, version, norm, eps, number of images, seed and
flags. Not here: training, and deciding whether a student is good enough.
"""

import torch
from torch import Tensor, nn

from common.config import AttackConfig
from common.records import Evaluation
from common.robustness.attacks import pgd
from common.robustness.autoattack import autoattack, autoattack_each
from common.robustness.sanity import (
    batches,
    evaluating,
    gradient_flags,
    is_collapsed,
    predict,
    scaled,
)

__all__ = [
    "autoattack",
    "autoattack_each",
    "clean_accuracy",
    "is_collapsed",
    "predict",
    "robust_accuracy_pgd",
]


def clean_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 512
) -> float:
    """Measure the fraction of images that are classified correctly.

    Args:
        model: x in [0, 1] -> logits; evaluated in eval mode.
        x: (N, C, H, W) in [0, 1], or uint8 pixels; N >= 1.
        y: labels (N,).
        batch_size: images per forward pass.
    """
    return float((predict(model, x, batch_size) == y.cpu()).double().mean())


def robust_accuracy_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: AttackConfig,
    eps: float,
    seed: int,
    batch_size: int = 512,
) -> Evaluation:
    """Measure the accuracy under PGD (Madry et al., ICLR 2018), norm Linf.

    Only images that are classified correctly are attacked. PGD overstates
    robustness: quote the accuracy of `autoattack`.

    Args:
        model: x in [0, 1] -> logits; attacked in eval mode, on its own device.
        x: (N, C, H, W) in [0, 1], or uint8 pixels, which are scaled a batch at a time;
            N >= 1.
        y: labels (N,).
        attack: steps, step size, restarts.
        eps: radius, pixel scale.
        seed: of the random starts.
        batch_size: images per pass.

    Raises:
        ValueError: there are no images.
    """
    if len(x) == 0:
        raise ValueError("robust_accuracy_pgd needs at least one image")
    flags, fgsm_accuracy = gradient_flags(model, x, y, eps=eps, batch_size=batch_size)
    correct = torch.nonzero(predict(model, x, batch_size) == y.cpu()).flatten()
    num_robust = 0
    with evaluating(model) as device:
        generator = torch.Generator(device).manual_seed(seed)
        for positions, target in batches(correct, y[correct.to(y.device)], batch_size):
            x_adv = pgd(
                model,
                scaled(x[positions]).to(device),
                target.to(device),
                eps=eps,
                step_size=attack.step_size,
                steps=attack.steps,
                random_start=attack.random_start,
                restarts=attack.restarts,
                generator=generator,
            )
            robust = predict(model, x_adv, batch_size) == target.cpu()
            num_robust += int(robust.sum())
    accuracy = num_robust / len(x)
    # Two points and three images: beyond what random starts explain.
    if accuracy - fgsm_accuracy > max(0.02, 3 / len(x)):
        flags.add("fgsm_below_pgd")
    start = "random start" if attack.random_start else "no random start"
    return Evaluation(
        attack="pgd",
        version=f"{attack.steps} x {attack.step_size:.4g}, {start}, "
        f"{attack.restarts} restart{'s' if attack.restarts > 1 else ''}",
        norm="Linf",
        eps=eps,
        num_images=len(x),
        accuracy=accuracy,
        seed=seed,
        flags=tuple(sorted(flags)),
    )
