"""Detects catastrophic overfitting: robust to the training's attack, to no other.

A student that is attacked in one or two steps can become robust to just that attack.
Within an epoch its accuracy under it nears 100 % and under PGD 0 % (Wong et al.,
ICLR 2020; Andriushchenko and Flammarion, NeurIPS 2020). Both accuracies are of the
same training images, so that a poor generalisation does not look like it. Training
with more steps brings the robustness back (Li et al., "Towards Understanding Fast
Adversarial Training", 2020). Not here: when it is checked and what follows
(training.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.robustness.attacks import pgd

MAX_STEPS = 8  # of the training attack; with as many there is no such overfitting
_IMAGES = 64
_STEPS = 5  # of the strong attack, each of half eps
_GAP = 0.3  # five standard errors of the difference on so many images


class Attacked(NamedTuple):
    """A batch of training images as the training attacked it."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor  # (N,)
    delta: Tensor  # (N, C, H, W)
    eps: float  # of that attack, pixel scale


def is_overfitted(
    model: nn.Module, attacked: Attacked, *, generator: torch.Generator
) -> bool:
    """Return whether a strong attack succeeds where the training's attack fails.

    Args:
        model: x in [0, 1] -> logits, in the mode in which it is attacked.
        attacked: the last batch; the first 64 images are used.
        generator: of the strong attack's random start.
    """
    x, y, delta = (part[:_IMAGES] for part in attacked[:3])
    x_adv = pgd(
        model,
        x,
        y,
        eps=attacked.eps,
        step_size=attacked.eps / 2,
        steps=_STEPS,
        random_start=True,
        generator=generator,
    )
    with torch.no_grad():
        classes = model(torch.cat([x + delta, x_adv])).argmax(1)
    under_training, under_strong = (
        float((part == y).double().mean()) for part in classes.chunk(2)
    )
    return under_strong < min(under_training / 2, under_training - _GAP)
