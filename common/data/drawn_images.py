"""Images for a node that has none at hand: drawn from those that its cloud left out.

For simulations and comparisons: cloud and nodes then hold different images of one
public data set, and nodes of different parts share none. Not here: a device's own
folder (own_folder.py), what a camera does (camera.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config import DatasetConfig, OwnImagesConfig
from common.data.camera import shifted
from common.data.datasets import Split, open_left_out, stratified
from common.data.own_images import (
    UNLABELLED,
    Allocate,
    OwnImages,
    describe_missing_validation,
    in_ram,
    validation_rows,
)
from common.data.sources import RUN_OPTION, Source
from common.errors import DataError
from common.text import counted

_BLOCK = 4096  # images that are read at a time
_MOST_CLASSES = 3  # of which too few images are left, that a line names


@dataclass(frozen=True)
class DrawnImages(OwnImages):
    """Images that were drawn.

    Attributes:
        num_wanted: images of each class that the config asks for.
        num_drawn: of each class that there are, whether their labels are known or not.
    """

    num_wanted: tuple[int, ...] = ()
    num_drawn: tuple[int, ...] = ()


def draw_own_images(
    config: OwnImagesConfig,
    cloud: DatasetConfig,
    *,
    cloud_seed: int,
    num_classes: int,
    allocate: Allocate = in_ram,
    option: str = RUN_OPTION,
) -> DrawnImages:
    """Draw a node's images; a node draws the same ones each time.

    Args:
        config: how many, of which classes and part, how many labelled, which camera.
        cloud: the cloud's data set and limit, and where its files are on the node.
        cloud_seed: which decides the cloud's images, and here the order of the others.
        num_classes: of the data set.
        allocate: makes room for the pixels.
        option: by which a verb or a file takes the data set's folder, for the advice.

    Raises:
        DataError: the files are missing or damaged, or too few images are left.
    """
    source = open_left_out(cloud, seed=cloud_seed, download=None, option=option)
    return draw_from(
        source,
        config,
        cloud_seed=cloud_seed,
        num_classes=num_classes,
        allocate=allocate,
    )


def draw_from(
    source: Source,
    config: OwnImagesConfig,
    *,
    cloud_seed: int,
    num_classes: int,
    allocate: Allocate = in_ram,
) -> DrawnImages:
    """Draw a node's images from those that its cloud leaves out, once they are open.

    Args:
        source: of all that the cloud leaves out.
        config: as of `draw_own_images`; likewise the others.
        cloud_seed: which decides the order of the images.
        num_classes: of the data set.
        allocate: makes room for the pixels.

    Raises:
        DataError: files are damaged, or too few images are left.
    """
    chosen = _choose(source.labels, config, num_classes, cloud_seed)
    drawn = np.bincount(source.labels[chosen], minlength=num_classes).tolist()
    wanted = wanted_of_each(config, num_classes) or drawn
    labels = source.labels[chosen].copy()
    random = np.random.RandomState((cloud_seed + 2) % 2**32)
    if config.labelled < 1:
        known = np.empty(0, np.int64)
        if config.labelled > 0:
            known = stratified(labels, config.labelled, seed=cloud_seed + 3)
        labels[np.setdiff1d(np.arange(len(labels)), known)] = UNLABELLED
    val = validation_rows(labels, random.permutation(len(labels)))
    train = np.setdiff1d(np.arange(len(labels)), val)
    order = np.concatenate([train, val])
    pixels = _read(source, chosen[order], config, allocate)
    own = OwnImages(
        Split(pixels[: len(train)], labels[train]),
        Split(pixels[len(train) :], labels[val]),
    )
    notes = describe_missing_validation(own)
    if short := describe_short(wanted, drawn):
        notes = (f"class_shares: too few are left, others stand in: {short}", *notes)
    return DrawnImages(
        own.train,
        own.val,
        notes,
        num_wanted=tuple(wanted),
        num_drawn=tuple(drawn),
    )


def wanted_of_each(config: OwnImagesConfig, num_classes: int) -> list[int]:
    """Count the images of each class that `class_shares` asks for.

    Empty where it says nothing, so that each class has its share of what is left.
    """
    if not config.class_shares or not config.images:
        return []
    is_wanted = np.isin(np.arange(num_classes), config.classes or range(num_classes))
    shares = np.array(config.class_shares) * is_wanted
    wanted: list[int] = divided(
        config.images, shares, config.images * is_wanted
    ).tolist()
    return wanted


def describe_short(wanted: Sequence[int], drawn: Sequence[int]) -> str:
    """Name the classes with fewer images than are wanted; empty: there are none."""
    pairs = enumerate(zip(wanted, drawn, strict=True))
    short = [(n - m, k, m, n) for k, (n, m) in pairs if m < n]
    named = [
        f"{m} of class {k} instead of {n}"
        for _, k, m, n in sorted(short, reverse=True)[:_MOST_CLASSES]
    ]
    more = len(short) - _MOST_CLASSES
    rest = [f"fewer of {counted(more, 'class', 'classes')} more"] if more > 0 else []
    return ", ".join(named + rest)


def _choose(
    labels: NDArray[np.int64], config: OwnImagesConfig, num_classes: int, seed: int
) -> NDArray[np.int64]:
    """Choose positions of the node's part: each class by its share, ascending."""
    classes = _classes(config, num_classes)
    part, parts = config.part
    random = np.random.RandomState((seed + 1) % 2**32)
    of_class: list[NDArray[np.int64]] = []
    for k in range(num_classes):  # all of them, so that parts do not meet
        shuffled = random.permutation(np.flatnonzero(labels == k))[part::parts]
        of_class.append(shuffled if k in classes else shuffled[:0])
    there = np.array([len(positions) for positions in of_class])
    assert config.images is not None, "drawn images have a number"
    if config.images > there.sum():
        raise DataError(
            f"{config.images} own images are wanted, but of the {len(labels)} that the "
            f"cloud leaves out part {part + 1} of {parts} has {there.sum()} of these "
            f"{len(classes)} classes; lower images, or dataset.limit of the cloud"
        )
    shares = np.array(config.class_shares or there, float) * (there > 0)
    take = divided(config.images, shares, there)
    return np.sort(
        np.concatenate([rows[:n] for rows, n in zip(of_class, take, strict=True)])
    ).astype(np.int64)


def _classes(config: OwnImagesConfig, num_classes: int) -> frozenset[int]:
    classes = frozenset(config.classes or range(num_classes))
    unknown = sorted(k for k in classes if not 0 <= k < num_classes)
    if unknown:
        raise DataError(
            f"class {unknown[0]} is wanted of the own images, expected 0 to "
            f"{num_classes - 1}"
        )
    if config.class_shares and len(config.class_shares) != num_classes:
        raise DataError(
            f"class_shares has {len(config.class_shares)} numbers, expected one for "
            f"each of the {num_classes} classes"
        )
    return classes


def divided(
    num: int, shares: NDArray[np.float64], there: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Divide a number by shares, largest remainders first; none gets more than it has.

    What a class lacks, the others give by their shares.

    Args:
        num: of images; at most the sum of `there`.
        shares: of the classes (K,), any scale.
        there: images of each (K,).
    """
    take = np.zeros(len(shares), np.int64)
    while (left := num - int(take.sum())) > 0:
        open_shares = np.where(take < there, shares, 0.0)
        if open_shares.sum() == 0:  # those with a share are used up
            open_shares = (take < there).astype(float)
        exact = left * open_shares / open_shares.sum()
        more = np.floor(exact).astype(np.int64)
        rest = np.argsort(more - exact, kind="stable")[: left - int(more.sum())]
        more[rest] += 1
        take = np.minimum(take + more, there)
    return take


def _read(
    source: Source,
    positions: NDArray[np.int64],
    config: OwnImagesConfig,
    allocate: Allocate,
) -> NDArray[np.uint8]:
    """Read images block by block, as the node's camera has them."""
    first = source.read(positions[:1])
    pixels = allocate((len(positions), *first.shape[1:]))
    for start in range(0, len(positions), _BLOCK):
        block = source.read(positions[start : start + _BLOCK])
        pixels[start : start + len(block)] = shifted(block, config.shift)
    return pixels
