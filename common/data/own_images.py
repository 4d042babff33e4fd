"""A node's own images: which are trained on, which measure the student, what is odd.

Of the labelled ones a fifth of each class is set aside for validation and never trained
on, nor is a copy of one. Pixels go into memory that the caller allocates, so that many
of them need not be in RAM. Not here: class folders (own_folder.py), drawn images
(drawn_images.py), what a node does with them (edge.distill).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.datasets import Split

UNLABELLED = -1  # in the place of a label
_VAL_PART = 5  # one of so many labelled images of a class
_MOST_VAL = 200  # of a class: they are measured often, and more say hardly more
# Given (N, C, H, W), makes room for so many uint8 images.
Allocate = Callable[[tuple[int, int, int, int]], NDArray[np.uint8]]


def in_ram(shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Allocate images in RAM."""
    return np.empty(shape, np.uint8)


def pixel_digests(images: Iterable[NDArray[np.uint8]]) -> list[bytes]:
    """Digest the pixels of each image; copies of one have the same."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


@dataclass(frozen=True)
class OwnImages:
    """Images that a node has and its cloud has not; labels by the release's classes.

    Attributes:
        train: to train on; label -1 where it is not known.
        val: to measure students on, all labelled; may be empty.
        notes: what a user should know of them, one line each.
    """

    train: Split
    val: Split
    notes: tuple[str, ...] = ()

    @property
    def num_labelled(self) -> int:
        """Count the images with labels that are trained on."""
        return int((self.train.labels != UNLABELLED).sum())


def validation_rows(
    labels: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Choose the images that are set aside: a fifth of each class, rounded down.

    Classes with less than five images give none, and none more than 200.

    Args:
        labels: of all images (N,), -1 where there is none.
        order: all positions (N,); the first ones of each class are taken.

    Returns:
        Positions, ascending.
    """
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(labels[labels != UNLABELLED]):
        of_class = order[labels[order] == label]
        chosen.append(of_class[: min(len(of_class) // _VAL_PART, _MOST_VAL)])
    return np.sort(np.concatenate(chosen))


def describe_missing_validation(own: OwnImages) -> tuple[str, ...]:
    """Say so where no image, or none of some classes, measures the student."""
    known = own.train.labels[own.train.labels != UNLABELLED]
    if len(own.val) == 0:
        why = "none has a label" if not len(known) else "no class has 5 with labels"
        return (
            f"no own image is set aside for validation ({why}): the student is "
            "measured on the release's images alone",
        )
    absent = np.setdiff1d(known, own.val.labels)
    if len(absent) == 0:
        return ()
    return (
        f"own images of {len(absent)} of {len(np.unique(known))} classes have less "
        "than 5 with labels each: none of these measures the student",
    )
