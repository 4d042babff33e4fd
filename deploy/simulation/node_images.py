"""Which images of their own the nodes of a run draw: parts, shares, and classes.

Nodes draw from what the cloud leaves out, each from a part of its own, so that no two
have the same image as long as there are enough. With `class_skew` their shares of the
classes differ as in Hsu et al. (2019, arXiv 1909.06335): each is drawn from a Dirichlet
distribution. All of it follows from the config and its seed. Not here: drawing the
images (common.data), what the config refuses (common/config/node_images.py).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from common.config import OwnImagesConfig, RunConfig
from common.config.node_images import NUM_CLASSES, num_left_out
from common.config.own_images import CameraShift
from common.data.datasets import open_left_out
from common.data.drawn_images import describe_short, draw_from, wanted_of_each
from common.data.sources import open_sources
from common.errors import DataError
from common.text import counted
from deploy.report.result import OwnImages

# The smallest class of a data set in units of the mean; others have equal classes.
_SMALLEST = {"digits": 0.96, "mnist": 0.9}
_MOST_NODES = 3  # with too few images of a class, that a line names


class Drawn(NamedTuple):
    """How many images of each class a node draws."""

    wanted: tuple[int, ...]  # by its shares of the classes
    drawn: tuple[int, ...]  # as there are


DrawnByNode = Mapping[str, Drawn]


def images_of_nodes(config: RunConfig) -> dict[str, OwnImagesConfig]:
    """Say of each node that has images of its own which they are.

    Args:
        config: of the run.

    Returns:
        The table [data] of each edge.toml, by node; a node without is left out.
    """
    tables = {
        node.name: node.data
        for node in config.nodes
        if node.data is not None and node.data.images != 0
    }
    drawing = [name for name, data in tables.items() if data.folder is None]
    if config.class_skew is not None:
        for index, name in enumerate(drawing):
            shares = class_shares(
                config.class_skew,
                seed=config.seed + index,
                classes=tables[name].classes or tuple(range(NUM_CLASSES)),
                num_classes=NUM_CLASSES,
            )
            tables[name] = tables[name].model_copy(update={"class_shares": shares})
    left = num_left_out(config)
    if left is not None:
        left = int(left * _SMALLEST.get(config.dataset.name, 1.0))
    parts = num_parts([tables[name] for name in drawing], left)
    for index, name in enumerate(drawing):
        part = {"part": (index % parts, parts)}
        tables[name] = tables[name].model_copy(update=part)
    return tables


def describe_shared_parts(config: RunConfig) -> tuple[str, ...]:
    """Say so, in one line, where several nodes draw from the same part."""
    drawn = [each for each in images_of_nodes(config).values() if each.folder is None]
    parts = {each.part for each in drawn}
    if len(parts) == len(drawn):
        return ()
    of = "the images" if len(parts) == 1 else f"{len(parts)} parts of the images"
    return (
        f"{len(drawn)} nodes draw from {of} that the cloud leaves out, so that some "
        "hold the same ones: too few are left for a part each; lower data.images, "
        f"num_nodes or dataset.limit{_or_less_skew(config)}",
    )


def check_drawn_images(config: RunConfig) -> dict[str, Drawn]:
    """Draw each node's images once, so that what cannot be had ends the run at once.

    Returns:
        How many of each class, by node; one that draws none is left out.

    Raises:
        DataError: the data set is missing, or leaves too few images; names the node.
    """
    tables = images_of_nodes(config).items()
    # A folder is read by its node, which says what is wrong with it.
    drawing = {name: data for name, data in tables if data.folder is None}
    if not drawing:
        return {}
    num_classes = len(open_sources(config.dataset, None).class_names)
    source = open_left_out(config.dataset, seed=config.seed, download=None)
    found = {}
    for name, data in drawing.items():
        try:
            own = draw_from(
                source, data, cloud_seed=config.seed, num_classes=num_classes
            )
        except DataError as e:
            raise DataError(f"node '{name}': {e}") from e
        found[name] = Drawn(own.num_wanted, own.num_drawn)
    return found


def describe_short_classes(config: RunConfig, drawn: DrawnByNode) -> tuple[str, ...]:
    """Say so, in one line, where nodes get fewer images of a class than they want.

    Args:
        config: of the run.
        drawn: as `check_drawn_images` returns it.
    """
    lines = {name: describe_short(*each) for name, each in drawn.items()}
    short = [f"{name} has {line}" for name, line in lines.items() if line]
    if not short:
        return ()
    more = len(short) - _MOST_NODES
    rest = [f"{counted(more, 'node')} more"] if more > 0 else []
    key = "class_shares" if config.class_skew is None else "class_skew"
    return (
        f"{key}: {len(short)} of {counted(len(drawn), 'node')} cannot have as many "
        "images of some classes as their shares ask for, and others stand in: "
        f"{'; '.join(short[:_MOST_NODES] + rest)}; lower data.images or "
        f"dataset.limit{_or_less_skew(config)}",
    )


def _or_less_skew(config: RunConfig) -> str:
    return "" if config.class_skew is None else ", or raise class_skew"


def class_shares(
    skew: float, *, seed: int, classes: tuple[int, ...], num_classes: int
) -> tuple[float, ...]:
    """Draw a node's shares of the classes from a symmetric Dirichlet distribution.

    Args:
        skew: the distribution's parameter, above 0; a small one gives few classes
            most images.
        seed: same seed, same shares.
        classes: that have a share; the others get 0.
        num_classes: of the data set.

    Returns:
        One share a class; they add up to 1.
    """
    random = np.random.RandomState(seed % 2**32)  # its streams are frozen
    shares = np.zeros(num_classes)
    drawn = random.dirichlet([skew] * len(classes))
    if not np.isfinite(drawn).all():  # so small a skew that every gamma was 0
        drawn = np.eye(len(classes))[random.randint(len(classes))]
    shares[list(classes)] = drawn
    return tuple(float(share) for share in shares)


def num_parts(tables: list[OwnImagesConfig], left_out: int | None) -> int:
    """Count the parts into which the images that the cloud leaves out are divided.

    One a node, or fewer where a node would not find its images of each class in so
    small a part: then some nodes share a part.

    Args:
        tables: of the nodes that draw images.
        left_out: images that the cloud leaves out, each class alike; None: not known.
    """
    if left_out is None or not tables:
        return max(len(tables), 1)
    for parts in range(len(tables), 1, -1):
        of_a_class = int(left_out / NUM_CLASSES / parts)
        if all(_most_of_a_class(data) <= of_a_class for data in tables):
            return parts
    return 1


def _most_of_a_class(data: OwnImagesConfig) -> float:
    """Count the images that a node wants of the class of which it wants most."""
    wanted = wanted_of_each(data, NUM_CLASSES)
    if wanted:
        return max(wanted)
    return (data.images or 0) / (len(set(data.classes)) or NUM_CLASSES)


def own_classes(
    data: OwnImagesConfig | None, num_classes: int, drawn: Drawn | None
) -> tuple[int, ...]:
    """List the classes that a node's drawn images are of.

    Of uneven shares those with at least as many images as even ones would give. Empty
    where the node has no image of its own, or all classes alike.

    Args:
        data: as `images_of_nodes` gives it.
        num_classes: of the data set.
        drawn: what there is of each class; None: not known yet.
    """
    if data is None or not data.images:
        return ()
    classes = tuple(sorted(set(data.classes))) or tuple(range(num_classes))
    if data.class_shares:
        if drawn is None:
            return ()
        even = sum(drawn.drawn) / len(classes)
        classes = tuple(k for k in classes if drawn.drawn[k] >= even)
    return classes if len(classes) < num_classes else ()


def shift_of(data: OwnImagesConfig | None) -> CameraShift:
    """Say what a node's camera does to its images."""
    return "none" if data is None else data.shift


def describe_images(
    data: OwnImagesConfig | None, drawn: Drawn | None
) -> OwnImages | None:
    """State a node's own images for the record; None: it has none.

    Args:
        data: as `images_of_nodes` gives it.
        drawn: what there is of each class; None: not known yet.
    """
    if data is None or data.images == 0:
        return None
    is_drawn = data.folder is None
    return OwnImages(
        images=data.images,
        classes=own_classes(data, NUM_CLASSES, drawn) or None,
        labelled=data.labelled if is_drawn else None,
        shift=None if data.shift == "none" else data.shift,
        share_images=data.share_images or None,
    )
