"""`takt init`: a commented config for one's own images, sized to what is there.

Reads the headers of the images and no pixels. Its numbers are starting points from the
shipped configs, for a machine of two cores: the passes over the images follow their
number, the images are made small enough. Not here: the keys (common.config), reading
images (common.data).
"""

import json
import math
import re
from pathlib import Path
from statistics import median
from typing import NamedTuple

from common.config import DatasetConfig
from common.data.image_folder import GREY, scan_tree, size_and_mode
from common.data.sources import open_sources
from common.durable import make_folder, write_atomic
from common.errors import ConfigError
from common.regular_file import is_folder
from common.text import counted, printable

CONFIG = "takt.toml"
_SIZES = (8, 16, 24, 28, 32, 48, 64)  # larger ones take too long on two cores
_MOST_PIXELS = 8000 * 28 * 28  # of all training images: the shipped mnist
_FEW = 2000  # images: with fewer, students see shifted views of each
_TEACHER_STEPS, _STUDENT_STEPS = 1400, 1600
_BATCHES = ((128, _FEW), (64, 400), (32, 0))  # with so many images at least


class FolderSize(NamedTuple):
    """What lies in a data folder, as far as a config depends on it."""

    classes: tuple[str, ...]
    num_images: int  # of train/
    has_test: bool
    smallest: int  # images of a class
    is_grey: bool
    side: int  # the shorter one, of most images: pixels
    is_uniform: bool  # all images are square and of one size


def write_config(folder: Path, data: Path, *, force: bool = False) -> FolderSize:
    """Write ``takt.toml`` for the images of a folder; return what was found there.

    Args:
        folder: takes the config; is made.
        data: holds train/CLASS/IMAGE and perhaps test/CLASS/IMAGE.
        force: replace a config that is there.

    Raises:
        ConfigError: there is a config already.
        DataError: the images are missing, unreadable, or lie otherwise.
        StorageError: the config cannot be written.
    """
    path = folder / CONFIG
    if path.exists() and not force:
        raise ConfigError(
            f"{path} is there already; give another folder, or --force to replace it"
        )
    size = look_at(data)
    make_folder(folder)
    write_atomic(path, config_text(data, size, path).encode())
    return size


def look_at(data: Path) -> FolderSize:
    """Count and measure the images of a folder.

    Raises:
        DataError: they are missing, unreadable, or lie otherwise.
    """
    # Checks the layout, with its own advice; any size will do.
    config = DatasetConfig(name="folder", data_dir=data, image_size=32)
    open_sources(config, None, option="--data")
    tree = scan_tree(data / "train")
    headers = [size_and_mode(path) for path in tree.paths]
    sides = [side for side, _ in headers]
    counts = [int((tree.labels == k).sum()) for k in range(len(tree.class_names))]
    return FolderSize(
        classes=tree.class_names,
        num_images=len(tree.paths),
        has_test=is_folder(data / "test"),
        smallest=min(counts),
        is_grey=all(mode in GREY for _, mode in headers),
        side=int(median(min(side) for side in sides)),
        is_uniform=len({*sides}) == 1 and sides[0][0] == sides[0][1],
    )


def describe(size: FolderSize) -> str:
    """Say in one line what was found."""
    classes = counted(len(size.classes), "class", "classes")
    kind = "grey" if size.is_grey else "colour"
    return (
        f"{size.num_images:,} {kind} images of {classes}, {size.smallest:,} of the "
        f"smallest, most of {size.side} pixels"
    )


def config_text(data: Path, size: FolderSize, path: Path) -> str:
    """Write the config of a first run: TOML with comments.

    Args:
        data: the folder of the images.
        size: what lies there.
        path: where the config will be, as it was typed.
    """
    pixels = image_size(size)
    limit = _MOST_PIXELS // pixels**2
    num_trained = min(limit, size.num_images)
    is_few = num_trained < _FEW
    batch = next(size for size, least in _BATCHES if num_trained >= least)
    steps = max(1, num_trained // batch)
    values = {
        "found": describe(size),
        "path": printable(str(path)),
        "channel": _channel(data),
        "data_dir": json.dumps(str(data.absolute()), ensure_ascii=False),
        "image_size": pixels,
        "limit": (
            f"limit = {limit} # of {size.num_images:,}: the pixels of a short training"
            if limit < size.num_images
            else f"# limit = {size.num_images} # all training images"
        ),
        "val_fraction": 0.15 if is_few else 0.1,
        "eps": 0.1 if size.is_grey else '"8/255"',
        "step": 0.025 if size.is_grey else '"2/255"',
        "half": 0.05 if size.is_grey else '"4/255"',
        "eighth": 0.0125 if size.is_grey else '"1/255"',
        "views": "num_views = 9\nshift = 1\n" if is_few else "",
        "student_views": "num_views = 9\n" if is_few else "",
        "batch": batch,
        "teacher_epochs": _epochs(_TEACHER_STEPS, steps, 20, 80),
        "student_epochs": _epochs(_STUDENT_STEPS, steps, 30, 100),
        "memory_mib": 900 if pixels <= 32 else 1500,
        "test": (
            "Figures are measured on the images of test/"
            if size.has_test
            else "There is no test/: a fifth of the images is set aside for the figures"
        ),
    }
    return _TEMPLATE.format(**values)


def image_size(size: FolderSize) -> int:
    """Choose height and width: the images' own, or the next smaller that is usual."""
    if size.is_uniform and _SIZES[0] <= size.side <= _SIZES[-1]:
        return size.side
    return max((s for s in _SIZES if s <= size.side), default=_SIZES[0])


def _epochs(wanted_steps: int, steps: int, least: int, most: int) -> int:
    return min(most, max(least, math.ceil(wanted_steps / steps)))


def _channel(data: Path) -> str:
    """Make a channel's name of the folder's."""
    name = re.sub(r"[^a-z0-9_-]+", "-", data.absolute().name.lower()).strip("-_")
    return name[:63] or "images"


_TEMPLATE = """\
# {found}.
# A first run: takt simulate --config {path}
# Every key, with its default: deploy/configs/README.md. What each student costs on a
# node: takt fit. Nothing here is more than a starting point.
channel = "{channel}" # the name under which nodes follow the releases
seed = 0

# {test}.
[dataset]
name = "folder"
data_dir = {data_dir}
image_size = {image_size} # all images are resized to it; larger costs its square
{limit}
val_fraction = {val_fraction} # of the training images: decides what is promoted

# How far each pixel may be changed, of the range from black to white: as far as people
# still see the same class.
[threat]
eps = {eps}

# Trained once, in the cloud. Its epochs are many where images are few.
[teacher]
model = "cnn_large" # or another: takt models list
objective = "trades"
beta = 6.0 # weight of robustness beside accuracy
epochs = {teacher_epochs}
batch_size = {batch}
learning_rate = 0.1
eps_warmup_epochs = 5
ema_decay = 0.99
attack = {{ steps = 7, step_size = {step} }}

# What the teacher knows of the images. With images = "same" each node holds these
# images itself; "transfer" ships some of them in the release, to all who may pull it.
[knowledge]
images = "same"
{views}attack = {{ steps = 20, step_size = {eighth} }}

# One table for each kind of student; nodes name the one that they train.
[students.tiny]
model = "cnn_tiny"
method = "takt"
epochs = {student_epochs}
batch_size = {batch}
learning_rate = 0.2
eps_warmup_epochs = 5
ema_decay = 0.99
label_weight = 0.3 # of your labels, beside the teacher's
noise = 0.5
{student_views}attack = {{ steps = 2, step_size = {half} }}

[students.small]
model = "cnn_small"
method = "takt"
epochs = {student_epochs}
batch_size = {batch}
learning_rate = 0.2
eps_warmup_epochs = 5
ema_decay = 0.99
label_weight = 0.3
noise = 0.5
{student_views}attack = {{ steps = 2, step_size = {half} }}

# The caps that a simulated node is held to: give those of your devices.
[[nodes]]
name = "sensor"
student = "tiny"
profile = {{ cpus = 0.5, memory_mib = {memory_mib}, bandwidth_kib_s = 256 }}

[[nodes]]
name = "camera"
student = "small"
profile = {{ cpus = 1.0, memory_mib = {memory_mib}, bandwidth_kib_s = 1024 }}

# How many test images AutoAttack tries: more make the figures firmer, and take longer.
[evaluation]
autoattack_images = 200
teacher_images = 100
node_attack = {{ steps = 20, step_size = {eighth} }}
"""
