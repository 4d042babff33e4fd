"""Points just beyond the teacher's decision boundary, one for each sample.

The search of boundary supporting samples (Heo, Lee, Yun, Choi: Knowledge
Distillation with Adversarial Samples Supporting Decision Boundary, AAAI 2019),
in the exact form of its authors' code. It uses the teacher alone, so its results
can be shipped. Not here: which samples a student makes use of (edge.distill.methods).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.models.forward import Model

_TINY = 1e-4  # so that a step at the boundary itself is not zero


def boundary_points(
    model: Model,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Move each sample towards another class until the teacher's answer changes.

    A step is ``step_size * (f_b - f_k + 1e-4)`` along the normalised gradient of
    ``f_k - f_b``, with b the class of x and k the target: long where the gap of the
    logits is wide. A sample stops as soon as its class is no longer b, so it lies
    just over the boundary.

    Args:
        model: the teacher, x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1].
        steps: at most.
        step_size: per unit of logit gap, L2, pixel scale.
        generator: draws the targets, in proportion to the teacher's probability of
            the classes other than b.

    Returns:
        x_boundary like x, in [0, 1]; target classes (N,).
    """
    with torch.no_grad():
        logits = model(x)
    base = logits.argmax(1)
    others = F.softmax(logits, 1).scatter(1, base[:, None], 0.0) + 1e-12
    others = others.scatter(1, base[:, None], 0.0)
    target = torch.multinomial(others, 1, generator=generator)[:, 0]
    moved = x
    for _ in range(steps):
        with torch.enable_grad():
            leaf = moved.detach().requires_grad_()
            logits = model(leaf)
            gap = (logits.gather(1, base[:, None]) - logits.gather(1, target[:, None]))[
                :, 0
            ]
            (gradient,) = torch.autograd.grad(-gap.sum(), leaf)
        walking = logits.argmax(1) == base
        if not walking.any():
            break
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        length = walking * step_size * (gap.detach() + _TINY) / norm
        moved = (moved + length[:, None, None, None] * gradient).clamp(0, 1)
    return moved, target
