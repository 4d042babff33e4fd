"""The images that a release ships: its transfer set, and those to measure students on.

A pure function of data set, config and seed: training and validation images of the
cloud, each class at its own share. (Random images of each class; "easy" ones and
k-center selections made worse students.) Every step that works on the release's samples
asks here. Not here: what is extracted of them, and their shards (cloud.extraction).
"""

from common.config import RunConfig
from common.data.datasets import Dataset, Split, stratified


def released_images(config: RunConfig, dataset: Dataset) -> Split:
    """Return the images that sample i of a release stands for.

    Args:
        config: `knowledge.images` and `num_images` decide, and the seed.
        dataset: of the config.

    Returns:
        The cloud's whole training split where nodes hold the same; else at most
        `num_images` of it, in its order.
    """
    if config.knowledge.images == "same":
        return dataset.train
    return _some(dataset.train, config.knowledge.num_images, config.seed + 2)


def released_validation(config: RunConfig, dataset: Dataset) -> Split:
    """Return the images on which what comes of a release is measured.

    Nobody trains on them.

    Returns:
        The validation split where nodes hold the same; else at most
        `num_val_images` of it, in its order.
    """
    if config.knowledge.images == "same":
        return dataset.val
    return _some(dataset.val, config.knowledge.num_val_images, config.seed + 3)


def _some(split: Split, most: int, seed: int) -> Split:
    """Choose so many images of a split, each class at its own share."""
    if most >= len(split):
        return split
    chosen = stratified(split.labels, most / len(split), seed=seed)
    return Split(split.images[chosen], split.labels[chosen])
