"""Counts of correct answers on the validation images, between two epochs.

For ranking epochs only: few images, and the training's own attack where that is not one
of very few steps. What is published is measured by common.robustness.evaluate.
"""

import torch
from torch import Tensor, nn

from common.config import AttackConfig
from common.robustness.attacks import pgd

# Enough to rank epochs (1 standard error: 1.5 points); the rest would cost time.
VALIDATION_IMAGES = 1024
_BATCH = 256
_FEW_STEPS = 4  # a teacher may overfit to an attack of so many


def ranking_attack(attack: AttackConfig, eps: float) -> AttackConfig:
    """Choose the attack by which epochs are ranked.

    Against attacks of few steps a training may overfit so far that PGD breaks all of
    its images (Wong et al., ICLR 2020); these epochs must not be the best.

    Args:
        attack: of the training.
        eps: radius, pixel scale.
    """
    if attack.steps > _FEW_STEPS:
        return attack
    return AttackConfig(steps=10, step_size=eps / 4)


def count_correct(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    attack: AttackConfig,
    generator: torch.Generator,
) -> Tensor:
    """Count clean and robust answers, and images: float32 (3,).

    Args:
        model: in eval mode, on the device of x.
        x: (N, C, H, W) in [0, 1]; N may be 0.
        y: labels (N,).
        eps: radius, pixel scale.
        attack: PGD's steps and step size.
        generator: of its random starts, on the device of x.
    """
    counts = torch.zeros(3, device=x.device)
    for part, labels in zip(
        torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True
    ):
        if not len(part):
            continue
        x_adv = pgd(
            model,
            part,
            labels,
            eps=eps,
            step_size=attack.step_size,
            steps=attack.steps,
            random_start=attack.random_start,
            generator=generator,
        )
        with torch.no_grad():
            clean = (model(part).argmax(1) == labels).sum()
            robust = (model(x_adv).argmax(1) == labels).sum()
        counts += torch.stack([clean, robust, clean.new_tensor(len(labels))])
    return counts
