"""A few attacked images of a model, as pictures with its answers.

The first attacked test image of each class is taken, whatever came of it, so that
nobody chose what is shown. Where AutoAttack changed no answer, it gives the image back;
the picture is then of the strongest attempt of a PGD. Not here: AutoAttack, the file
that keeps samples (deploy/report/details.py).
"""

import base64
import io
import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.report.details import MOST_PIXELS, Answer, Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_SAMPLES = 10


class AttackedImages(NamedTuple):
    """Images of a test split that AutoAttack was run on; all on the CPU."""

    positions: NDArray[np.int64]  # (N,), in the split
    x: "Tensor"  # (N, C, H, W) in [0, 1]
    y: "Tensor"  # (N,)
    x_adv: "Tensor"  # (N, C, H, W); x where nothing broke it


def sample_positions(
    positions: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Choose the first image of each class, of at most `MOST_SAMPLES` classes.

    Args:
        positions: (N,) of the images that are attacked, ascending.
        labels: (N,) of these images.

    Returns:
        Positions in the order of their classes; of many classes some, evenly spread.
    """
    classes, first = np.unique(labels, return_index=True)
    spread = np.linspace(0, len(classes) - 1, min(len(classes), MOST_SAMPLES))
    chosen: NDArray[np.int64] = positions[first[spread.round().astype(int)]]
    return chosen


def take_samples(
    model: "nn.Module", images: AttackedImages, *, eps: float, seed: int
) -> tuple[tuple[Sample, ...], "Tensor"]:
    """Picture attacked images.

    Args:
        model: x in [0, 1] -> logits; in eval mode, on the CPU.
        images: all of them are taken.
        eps: radius of the attack, pixel scale.
        seed: of PGD's random start.

    Returns:
        The samples, and their x_adv (N, C, H, W).
    """
    import torch

    from common.robustness.radii import pgd_20

    before = answers_to(model, images.x)
    wrong = torch.tensor([answer.label for answer in before]) != images.y
    broken = (images.x_adv != images.x).flatten(1).any(1)
    withstood = ~wrong & ~broken
    x_adv = images.x_adv.clone()
    if bool(withstood.any()):
        generator = torch.Generator().manual_seed(seed)
        x, y = images.x[withstood], images.y[withstood]
        x_adv[withstood] = pgd_20(model, x, y, eps=eps, generator=generator)
    after = answers_to(model, x_adv)
    delta = (x_adv - images.x) / eps
    samples = tuple(
        Sample(
            position=int(images.positions[i]),
            label=int(images.y[i]),
            x=as_png(images.x[i]),
            x_adv=as_png(x_adv[i]),
            delta=as_png((delta[i] + 1) / 2),
            attack=_attack_of(bool(wrong[i]), bool(broken[i])),
            clean=before[i],
            attacked=after[i],
        )
        for i in range(len(images.y))
    )
    return samples, x_adv


def answers_to(model: "nn.Module", x: "Tensor") -> tuple[Answer, ...]:
    """Give a model's answer to each image of x (N, C, H, W), on the CPU."""
    import torch

    with torch.no_grad():
        probabilities = model(x).softmax(1).nan_to_num(0.0)
    confidences, labels = probabilities.max(1)
    return tuple(
        Answer(label=int(label), confidence=min(1.0, float(confidence)))
        for label, confidence in zip(labels, confidences, strict=True)
    )


def every_pixel(image_size: int) -> int:
    """Say how many pixels apart those are that a picture shows."""
    return math.ceil(image_size / MOST_PIXELS)


def as_png(image: "Tensor") -> str:
    """Encode an image (C, H, W) in [0, 1] as a PNG file in base64.

    One of three channels is in colour; of others the first channel is taken.
    """
    from PIL import Image

    every = every_pixel(image.shape[-1])
    pixels = to_bytes(image[:, ::every, ::every])
    out = io.BytesIO()
    shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    Image.fromarray(np.ascontiguousarray(shown)).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def to_bytes(x: "Tensor") -> NDArray[np.uint8]:
    """Round pixels in [0, 1] to 8 bits."""
    rounded: NDArray[np.uint8] = (x * 255).round().byte().numpy()
    return rounded


def _attack_of(wrong: bool, broken: bool) -> Literal["autoattack", "pgd", "none"]:
    if wrong:
        return "none"
    return "autoattack" if broken else "pgd"
