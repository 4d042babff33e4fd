"""The images that a teacher trains on, and their random translations and mirrorings.

A release covers the images that nodes hold. Where those are few (`dataset.limit`), a
teacher of all images, or of all others, passes on what only many images show. Not
here: crops of other sizes, colour, mixing (the classes of small grey images do not
survive more), and the drawn views that knowledge is extracted on (common.data.views).
"""

from dataclasses import replace

import torch
from torch import Tensor

from common.config import RunConfig
from common.data.datasets import (
    Dataset,
    load_all_training_images,
    load_left_out_images,
)
from common.data.views import canvas_index, show


def for_teacher(config: RunConfig, dataset: Dataset) -> Dataset:
    """Return the data set that a run's teacher trains on.

    Args:
        config: of the run; `teacher.images` decides.
        dataset: the run's own.

    Returns:
        The same validation and test images, and no training image is one of them.

    Raises:
        DataError: the data set is missing or damaged, or has no others.
    """
    if config.teacher.images == "same":
        return dataset
    load = load_all_training_images
    if config.teacher.images == "others":
        load = load_left_out_images
    images = load(config.dataset, seed=config.seed, download=None)
    return replace(dataset, train=images)


def augmented(
    x: Tensor, *, shift: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Move each image by up to `shift` pixels and mirror half of them.

    Args:
        x: (N, C, H, W); what moves in from outside is 0, as in the usual
            pad-and-crop of CIFAR-10.
        shift: largest translation, pixels, each way; 0 moves nothing.
        flip: mirror left-right with probability a half.
        generator: on the device of x.
    """
    if not shift and not flip:
        return x
    n, _, height, width = x.shape
    rows = columns = torch.zeros(n, dtype=torch.int64, device=x.device)
    mirrored = torch.zeros(n, dtype=torch.bool, device=x.device)
    if shift:
        rows, columns = torch.randint(
            0, 2 * shift + 1, (2, n), device=x.device, generator=generator
        )
    if flip:
        mirrored = torch.rand(n, device=x.device, generator=generator) < 0.5
    index = canvas_index(
        rows, columns, mirrored, shift=shift, height=height, width=width
    )
    return show(x, index, shift)
