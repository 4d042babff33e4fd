"""Whether the images that nodes and teacher want can be had: checked in the config.

The cloud takes `dataset.limit` of the training images, nodes draw theirs from the rest.
How many the public data sets have is known, so most of what is impossible is refused
before anything is read or started. Not here: drawing the images (common.data), which
part of them is whose (deploy.simulation.node_images).
"""

from typing import TYPE_CHECKING

from common.config.own_images import OwnImagesConfig

if TYPE_CHECKING:
    from common.config.run import NodeConfig, RunConfig

NUM_CLASSES = 10  # of every public data set
NUM_TRAINING_IMAGES = {
    "digits": 1437,
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
}
# Classes are not of equal size: in MNIST the largest has 1.13 times the mean.
UNEVEN = 1.15


def check_node_images(config: "RunConfig") -> None:
    """Refuse images that no node of this run can have.

    Raises:
        ValueError: the message names node and key, the figures, and the fix.
    """
    drawing = [node for node in config.nodes if node.data and node.data.images]
    if config.class_skew is not None and not drawing:
        raise ValueError(
            "class_skew is of the images that nodes draw, and no node has "
            "data.images; give nodes.<name>.data.images, or leave class_skew out"
        )
    if drawing:
        _check_left_over(config, drawing[0].name)
    for node in drawing:
        if node.data is not None:
            _check_numbers(config, node, node.data)


def check_teacher_images(config: "RunConfig") -> None:
    """Refuse a teacher of the images that nodes do not hold, where they hold all.

    Raises:
        ValueError: the message names the keys and the fix.
    """
    if config.teacher.images != "others":
        return
    if config.dataset.limit is None:
        raise ValueError(
            "teacher.images = 'others' is of the images that dataset.limit leaves "
            "out, and there is no limit; give dataset.limit, as many as nodes hold"
        )
    if num_left_out(config) == 0:
        raise ValueError(
            f"teacher.images = 'others', but dataset.limit = {config.dataset.limit} "
            f"leaves none of the {NUM_TRAINING_IMAGES[config.dataset.name]:,} training "
            f"images of {config.dataset.name}; lower it"
        )


def num_left_out(config: "RunConfig") -> int | None:
    """Count the training images that the cloud leaves out; None: not known here."""
    total = NUM_TRAINING_IMAGES.get(config.dataset.name)
    if total is None or config.dataset.limit is None:
        return None
    return max(total - config.dataset.limit, 0)


def _check_left_over(config: "RunConfig", name: str) -> None:
    """Refuse a cloud that takes all images, or lets its teacher see the others."""
    if config.teacher.images != "same":
        is_all = config.teacher.images == "all"
        key = "teacher.all_images" if is_all else "teacher.images = 'others'"
        raise ValueError(
            f"node '{name}' has data.images, but with {key} the teacher learns from "
            "the images that nodes draw from; leave one of the two out"
        )
    if config.dataset.limit is None:
        raise ValueError(
            f"node '{name}' has data.images, but the cloud takes all images; give "
            "dataset.limit, what it leaves out is for the nodes"
        )
    total = NUM_TRAINING_IMAGES.get(config.dataset.name)
    if total is not None and config.dataset.limit >= total:
        raise ValueError(
            f"node '{name}' has data.images, but dataset.limit = "
            f"{config.dataset.limit} leaves none of the {total:,} training images of "
            f"{config.dataset.name}; lower it"
        )


def _check_numbers(
    config: "RunConfig", node: "NodeConfig", data: OwnImagesConfig
) -> None:
    """Refuse classes that are not there, and more images than there are."""
    if config.dataset.name not in NUM_TRAINING_IMAGES:
        return  # shows when the folder is read
    for k in data.classes:
        if not 0 <= k < NUM_CLASSES:
            raise ValueError(
                f"node '{node.name}' wants class {k}, but {config.dataset.name} has "
                f"classes 0 to {NUM_CLASSES - 1}"
            )
    if data.class_shares and len(data.class_shares) != NUM_CLASSES:
        raise ValueError(
            f"node '{node.name}' has {len(data.class_shares)} class_shares, expected "
            f"one for each of the {NUM_CLASSES} classes of {config.dataset.name}"
        )
    left = num_left_out(config)
    num_classes = len(set(data.classes)) or NUM_CLASSES
    uneven = UNEVEN if num_classes < NUM_CLASSES else 1.0
    there = None if left is None else int(left * num_classes / NUM_CLASSES * uneven)
    if there is not None and data.images is not None and data.images > there:
        of = f" of {num_classes} classes" if data.classes else ""
        raise ValueError(
            f"node '{node.name}' wants {data.images:,} images{of}, but of these "
            f"dataset.limit = {config.dataset.limit} leaves {'about ' if of else ''}"
            f"{int(left * num_classes / NUM_CLASSES) if left else 0:,}; lower "
            "data.images or dataset.limit"
        )
