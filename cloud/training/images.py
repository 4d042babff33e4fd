"""What a teacher learns from: the images of its release, or all that the cloud has.

A release speaks of the images that nodes hold. Where those are few (`dataset.limit`),
a teacher of all images tells a node of them what only many show (measured:
tests/bench/README.md). Not here: the training (teacher.py).
"""

from dataclasses import replace

from common.config import RunConfig
from common.data.datasets import Dataset, load_all_training_images


def for_teacher(config: RunConfig, dataset: Dataset) -> Dataset:
    """Give the data set that a run's teacher learns from.

    Args:
        config: of the run; `teacher.all_images` decides.
        dataset: the run's own.

    Returns:
        The same validation and test images, and no training image is one of them.

    Raises:
        DataError: the data set is missing or damaged.
    """
    if not config.teacher.all_images:
        return dataset
    images = load_all_training_images(config.dataset, seed=config.seed, download=None)
    return replace(dataset, train=images)
