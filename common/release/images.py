"""The images that a release ships: read back shard by shard, and held to the manifest.

`release_images` is the way to all of them, `each_image_shard` to one shard at a time,
for a process that has no memory for more. Not here: a shard's bytes (shards.py), its
pixels (pixels.py), which images are shipped (cloud.extraction).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalog import ImageContent
from common.data.fingerprint import Fingerprint
from common.errors import TrustError
from common.release.manifest import Manifest, ShardInfo
from common.release.shards import Arrays, decode_shard, label_type

ReadShard = Callable[[ShardInfo], bytes]


def image_arrays(
    images: NDArray[np.uint8], labels: NDArray[np.integer[Any]], num_classes: int
) -> Arrays:
    """Make the tensors of an image shard: uint8 (n, C, H, W), and labels (n,)."""
    return {"images": images, "labels": labels.astype(label_type(num_classes))}


def each_image_shard(
    manifest: Manifest, content: ImageContent, read: ReadShard
) -> Iterator[tuple[ShardInfo, Arrays]]:
    """Decode the shards of shipped images, in the order of the samples.

    Args:
        manifest: of the release.
        content: images, or the validation images.
        read: returns the bytes of a shard.

    Yields:
        Each shard's description, and its `images`, uint8 (n, C, H, W), and `labels`
        (n,).

    Raises:
        TrustError: a shard is not what was declared; at the end: all together are not
            the images of the release's fingerprint.
    """
    shards = manifest.shards_for(frozenset([content]))
    found = Fingerprint((manifest.num_samples, *manifest.sample_shape))
    for info in sorted(shards, key=lambda shard: shard.first):
        arrays = decode_shard(read(info), info, manifest)
        found.add(arrays["images"], arrays["labels"])
        yield info, arrays
    if content == "images" and found.hexdigest() != manifest.fingerprint:
        raise TrustError(
            f"the images of release {manifest.channel} {manifest.version} have "
            f"fingerprint {found.hexdigest()[:12]}, expected "
            f"{manifest.fingerprint[:12]}; publish it again"
        )


def release_images(
    manifest: Manifest, content: ImageContent, read: ReadShard
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decode all images of one kind that a release ships.

    Args:
        manifest: of the release.
        content: images, or the validation images; none where it ships none.
        read: returns the bytes of a shard.

    Returns:
        Images, uint8 (N, C, H, W), and labels (N,): sample i is sample i of the
        release's knowledge.

    Raises:
        TrustError: as `each_image_shard`.
    """
    transfer = manifest.images == "transfer"
    total = manifest.num_samples if content == "images" else manifest.num_val
    total = total if transfer else 0
    images = np.empty((total, *manifest.sample_shape), np.uint8)
    labels = np.empty(total, np.int64)
    if total:
        for info, arrays in each_image_shard(manifest, content, read):
            rows = slice(info.first, info.first + info.num_samples)
            images[rows], labels[rows] = arrays["images"], arrays["labels"]
    return images, labels
