"""Which test images a robust accuracy is of: some of each class, as a camera sees them.

A node whose camera shifts its images is measured on test images that are shifted in the
same way; the accuracy's flags say so. Not here: attacking them.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.config import DatasetConfig
from common.config.own_images import CameraShift

if TYPE_CHECKING:
    import torch

OWN_CLASSES = "own_classes"  # flag: of the images of a node's own classes alone


def shift_flags(shift: CameraShift) -> tuple[str, ...]:
    """Name the flags of an accuracy on test images that a camera has shifted."""
    return () if shift == "none" else (f"camera_{shift}",)


def stratified_positions(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose exactly `count` positions, each class at its share within one image.

    Nothing is random, and fewer are always a part of more.

    Args:
        labels: int64 (N,).
        count: at most N.

    Returns:
        Positions, ascending.
    """
    place = np.empty(len(labels))
    for k in np.unique(labels):
        own = np.flatnonzero(labels == k)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(np.argsort(place, kind="stable")[:count])


@cache
def images_to_test(
    config: str, seed: int, shift: CameraShift
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Load the test split once for each shift.

    Args:
        config: a `DatasetConfig`, as JSON.
        seed: of the data set's split.
        shift: what the camera does to the images.

    Returns:
        x float32 (N, C, H, W) in [0, 1] and y int64 (N,).

    Raises:
        DataError: the data set cannot be read.
    """
    from common.data.datasets import Split, load_dataset

    test = load_dataset(DatasetConfig.model_validate_json(config), seed=seed).test
    if shift == "none":
        return test.tensors()
    from common.data.camera import shifted

    return Split(shifted(test.images, shift), test.labels).tensors()
