"""Robust accuracy at several radii, by one cheap attack: PGD of twenty steps.

A model's accuracy against eps shows more than one figure: where it starts to give way,
and that an attack of large eps breaks everything, which it does not where gradients are
masked (Carlini et al., "On Evaluating Adversarial Robustness", 2019). PGD overstates
robustness: the figure at the threat model's eps is `autoattack`'s. Not here: which
radii and images (deploy.evaluation).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.models.forward import Model
from common.records import Evaluation
from common.robustness.attacks import pgd
from common.robustness.sanity import batches, evaluating, predict

STEPS = 20
STEPS_ACROSS = 8  # a step is eps / 8: twenty reach any point of the ball
VERSION = f"{STEPS} x eps/{STEPS_ACROSS}, random start, 1 restart"
NESTED = "nested"  # flag: an image that a smaller eps broke counts as broken


def pgd_20(
    model: Model, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator
) -> Tensor:
    """Attack a batch with the PGD of this module.

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1].
        y: labels (N,).
        eps: radius, pixel scale.
        generator: of the random start, on the model's device.

    Returns:
        x_adv, same shape, within eps of x and in [0, 1].
    """
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step_size=eps / STEPS_ACROSS,
        steps=STEPS,
        random_start=True,
        generator=generator,
    )


def accuracy_at_radii(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    radii: Sequence[float],
    seed: int,
    batch_size: int = 512,
) -> tuple[Evaluation, ...]:
    """Measure the accuracy under PGD at each radius, norm Linf.

    An image that a smaller radius broke counts as broken at the larger ones, whose
    balls have the same adversarial image in them; it is not attacked again.

    Args:
        model: x in [0, 1] -> logits; attacked in eval mode, on its own device.
        x: (N, C, H, W) in [0, 1], N >= 1.
        y: labels (N,).
        radii: pixel scale, ascending; at 0 it is the clean accuracy.
        seed: of the random starts.
        batch_size: images per pass.

    Returns:
        An evaluation for each radius, flagged "nested"; they never rise.

    Raises:
        ValueError: there are no images, or the radii do not ascend.
    """
    if len(x) == 0:
        raise ValueError("accuracy_at_radii needs at least one image")
    if list(radii) != sorted(radii):
        raise ValueError(f"radii must ascend, found {list(radii)}")
    held = predict(model, x, batch_size) == y.cpu()
    found = []
    with evaluating(model) as device:
        generator = torch.Generator(device).manual_seed(seed)
        for eps in radii:
            standing = torch.nonzero(held if eps > 0 else held & False).flatten()
            for positions, y_part in batches(standing, y[standing], batch_size):
                x_part, y_part = x[positions].to(device), y_part.to(device)
                x_adv = pgd_20(model, x_part, y_part, eps=eps, generator=generator)
                held[positions] = predict(model, x_adv, batch_size) == y_part.cpu()
            found.append(
                Evaluation(
                    attack="pgd",
                    version=VERSION,
                    norm="Linf",
                    eps=eps,
                    num_images=len(x),
                    accuracy=float(held.double().mean()),
                    seed=seed,
                    flags=(NESTED,),
                )
            )
    return tuple(found)
