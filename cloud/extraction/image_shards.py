"""The shards of the images that a release ships.

Not here: which images these are (`cloud.publishing.transfer_set`), how they are packed
(common.release), what is extracted of them (`cloud.extraction.block`).
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cloud.publishing.transfer_set import released_images, released_validation
from cloud.storage import StorageDir
from common.catalog import ImageContent
from common.config import RunConfig
from common.data.datasets import Dataset, Split
from common.durable import write_atomic
from common.release import ShardInfo, encode_shard, image_arrays, samples_per_shard


def write_images(
    config: RunConfig, dataset: Dataset, storage: StorageDir
) -> list[ShardInfo]:
    """Write the shards of the images that a release ships; none where nodes have them.

    Args:
        config: of the run.
        dataset: of the config.
        storage: its folder knowledge/ takes the shards.

    Raises:
        StorageError: the disk is full.
    """
    if config.knowledge.images == "same":
        return []
    parts: dict[ImageContent, Split] = {
        "images": released_images(config, dataset),
        "val_images": released_validation(config, dataset),
    }
    infos = []
    for content, split in parts.items():
        for first, images, labels in _cut(content, split, dataset.num_classes):
            data = encode_shard(image_arrays(images, labels, dataset.num_classes))
            name = f"{content}-{first}.safetensors"
            write_atomic(storage.knowledge / name, data)
            infos.append(
                ShardInfo(
                    path=name,
                    content=content,
                    first=first,
                    num_samples=len(labels),
                    num_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )
    return infos


def _cut(
    content: ImageContent, split: Split, num_classes: int
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.int64]]]:
    """Cut a split into what fits a shard each: its first sample, images, labels."""
    _, channels, height, width = split.images.shape
    step = samples_per_shard(content, (channels, height, width), num_classes)
    for first in range(0, len(split), step):
        rows = slice(first, first + step)
        yield first, split.images[rows], split.labels[rows]
