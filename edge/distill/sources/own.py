"""A node's own images for a training: read beside the release's, outside of RAM.

Pixels of both lie in one file that is mapped and has no name any more: a node of little
memory holds many images, and what a kill leaves takes no space. Not here: reading and
drawing images (common.data), what the teacher says of them (taught.py).
"""

import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import DatasetConfig, OwnImagesConfig
from common.data.drawn_images import draw_own_images
from common.data.own_folder import ImageKind, read_own_folder
from common.data.own_images import Allocate, OwnImages
from common.data.sources import NODE_OPTION
from common.durable import storing
from common.release import Manifest
from edge.distill.batch import Images
from edge.distill.sources.released import cloud_dataset

Read = Callable[[Allocate], OwnImages]


class BothImages(NamedTuple):
    """Training images of the release, then the node's own; and those set aside."""

    train: Images
    own: OwnImages  # its training images are the last ones of `train`

    @property
    def val(self) -> Images:
        """The own images that measure the student."""
        return Images.of(self.own.val)


def reader(
    config: OwnImagesConfig,
    files: DatasetConfig,
    manifest: Manifest,
    *,
    never_trained_on: Collection[bytes] = (),
) -> Read:
    """Say how a node's own images are read: from its folder, or drawn.

    Args:
        config: the table [data].
        files: where the node has the cloud's data set, if it needs it.
        manifest: of the release.
        never_trained_on: digests of the release's validation images; a folder may hold
            copies of some, and what is drawn is never one of the cloud's.
    """
    if config.folder is not None:
        folder = config.folder
        kind = ImageKind(
            manifest.class_names,
            manifest.sample_shape,
            resized=manifest.image_size is not None,
        )
        return lambda allocate: read_own_folder(
            folder, kind, allocate=allocate, never_trained_on=never_trained_on
        )
    return lambda allocate: draw_own_images(
        config,
        cloud_dataset(files, manifest),
        cloud_seed=manifest.seed,
        num_classes=manifest.num_classes,
        allocate=allocate,
        option=NODE_OPTION,
    )


def beside(released: Images, read: Read, path: Path) -> BothImages:
    """Read a node's own images, behind the release's.

    Args:
        released: the release's training images; none for a training without them.
        read: reads the own ones.
        path: of the file for the pixels; it is removed at once.

    Raises:
        DataError: as `read` says.
        StorageError: the disk is full or not writable.
    """
    first = len(released.y)
    mapped: list[NDArray[np.uint8]] = []

    def allocate(shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        mapped.append(_mapped(path, (first + shape[0], *shape[1:])))
        mapped[0][:first] = released.x.numpy()
        return mapped[0][first:]

    own = read(allocate)
    pixels = mapped[0][: first + len(own.train)]
    labels = torch.from_numpy(own.train.labels)
    train = Images(torch.from_numpy(pixels), torch.cat([released.y, labels]))
    return BothImages(train, own)


def fingerprint(own: OwnImages) -> str:
    """Hash a node's own images, those set aside included: sha256, hex."""
    parts = (own.train.fingerprint(), own.val.fingerprint())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Map a new file without a name.

    Its blocks are taken at once: on a full disk a write to a mapped hole would kill the
    process instead of raising an error.
    """
    num_bytes = max(1, int(np.prod(shape)))
    with storing(path), path.open("w+b") as file:
        path.unlink()
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        whole = np.memmap(file, np.uint8, "r+", shape=(num_bytes,))
    return np.asarray(whole)[: int(np.prod(shape))].reshape(shape)
