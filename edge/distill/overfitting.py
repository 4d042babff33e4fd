"""Tells when a training's own attack has stopped finding what a strong one finds.

Catastrophic overfitting: a student attacked in one or two steps can learn to
deceive just that attack. Within an epoch its accuracy under it nears 100 % and
under PGD 0 % (Wong et al., ICLR 2020; Andriushchenko and Flammarion, NeurIPS 2020).
Both are compared on the same training images, so that what does not generalise is
not taken for it. Training with more steps heals a student that was caught (Li et
al., "Towards Understanding Fast Adversarial Training", 2020). Not here: when this
is asked and what follows (training.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.robustness.attacks import pgd

MOST_STEPS = 8  # of the training attack; as many cannot be deceived so
_IMAGES = 64
_STEPS = 5  # of the strong attack, each of half eps
_GAP = 0.3  # five standard errors of the difference on so many images


class Attacked(NamedTuple):
    """A batch of training images as the training attacked it."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor  # (N,)
    delta: Tensor  # (N, C, H, W)
    eps: float  # of that attack, pixel scale


def has_parted(
    model: nn.Module, attacked: Attacked, *, generator: torch.Generator
) -> bool:
    """Say whether a strong attack breaks most of what the training attack left.

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
        answers = model(torch.cat([x + delta, x_adv])).argmax(1)
    held, broken = answers.chunk(2)
    by_training = float((held == y).double().mean())
    by_strong = float((broken == y).double().mean())
    return by_strong < min(by_training / 2, by_training - _GAP)
