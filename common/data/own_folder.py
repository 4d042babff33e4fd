"""Read a node's own images from class folders: some of the release's, and unlabelled/.

Images that cannot be read are passed over and named, since on a device a file may be
half written. Images have the size of the release's; colour is made grey, or grey
colour, as the release's are. Not here: decoding (image_folder.py), images that a
simulated node draws (drawn_images.py).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.datasets import Split
from common.data.image_folder import (
    GREY,
    SUFFIXES,
    Form,
    Tree,
    describe_passed_over,
    files_below,
    is_image,
    read_images,
    size_and_mode,
)
from common.data.listing import visible
from common.data.own_images import (
    UNLABELLED,
    Allocate,
    OwnImages,
    describe_missing_validation,
    in_ram,
    validation_rows,
)
from common.errors import DataError

UNLABELLED_FOLDER = "unlabelled"
_MOST_NAMES = 3  # of unreadable images that a note lists


@dataclass(frozen=True)
class ImageKind:
    """What a release says of its images."""

    class_names: tuple[str, ...]
    sample_shape: tuple[int, int, int]  # (C, H, W)
    resized: bool = False  # whether the cloud resizes its images

    @property
    def form(self) -> Form:
        """What every image is converted to."""
        return Form("L" if self.sample_shape[0] == 1 else "RGB", self.sample_shape[1])


def read_own_folder(
    folder: Path, kind: ImageKind, *, allocate: Allocate = in_ram
) -> OwnImages:
    """Read all images below a folder; which ones are for validation, their names say.

    Args:
        folder: holds one folder a class, and unlabelled/; some of them will do.
        kind: what the release says of images.
        allocate: makes room for the pixels.

    Raises:
        DataError: a folder is no class of the release, an image has another size, or
            none can be read.
    """
    tree = _scan(folder, kind.class_names)
    odd = _Oddities(len(tree.paths))
    rows = np.array([k for k, p in enumerate(tree.paths) if odd.fits(p, kind)], int)
    labels = tree.labels[rows]
    paths = [tree.paths[k] for k in rows]
    val = validation_rows(labels, _order_by_name(paths))
    train = np.setdiff1d(np.arange(len(paths)), val)
    pixels = allocate((len(paths), kind.form.channels, *kind.sample_shape[1:]))
    splits, first = [], 0
    for part in (train, val):
        read: list[int] = []
        for k in part:
            if odd.reads(paths[k], kind.form, pixels[first + len(read)]):
                read.append(k)
        last = first + len(read)
        splits.append(Split(pixels[first:last], labels[np.array(read, int)]))
        first = last
    if first == 0:
        raise DataError(f"none of the images in {folder} can be read: {odd.unreadable}")
    notes = (*describe_passed_over(tree, folder), *odd.notes(folder, kind.form))
    own = OwnImages(splits[0], splits[1])
    return OwnImages(own.train, own.val, (*notes, *describe_missing_validation(own)))


def _scan(root: Path, class_names: Sequence[str]) -> Tree:
    """List the images of a node's folder; those without a label have -1."""
    paths: list[Path] = []
    labels: list[int] = []
    passed_over: list[Path] = []
    for entry in visible(root):
        if not entry.is_dir():
            passed_over.append(entry)
            continue
        if entry.name != UNLABELLED_FOLDER and entry.name not in class_names:
            raise DataError(
                f"{entry} is no class of the release; expected {UNLABELLED_FOLDER} or "
                f"one of {', '.join(class_names)}; rename the folder, or move its "
                f"images to {UNLABELLED_FOLDER}/"
            )
        is_class = entry.name in class_names
        label = class_names.index(entry.name) if is_class else UNLABELLED
        inside = visible(entry)
        found = [path for path in inside if is_image(path)]
        passed_over += files_below(path for path in inside if not is_image(path))
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(
            f"{root} holds no image ({', '.join(sorted(SUFFIXES))}); expected "
            f"{root}/CLASS/IMAGE or {root}/{UNLABELLED_FOLDER}/IMAGE"
        )
    return Tree(
        tuple(class_names), tuple(paths), np.array(labels, np.int64), tuple(passed_over)
    )


def _order_by_name(paths: Sequence[Path]) -> NDArray[np.int64]:
    """Order images by a hash of folder and name.

    When images are added, most of those set aside for validation stay so.
    """
    keys = [
        hashlib.sha256(f"{p.parent.name}/{p.name}".encode()).digest() for p in paths
    ]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


class _Oddities:
    """Which images are left out or changed, and why."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._errors: list[str] = []
        self._converted = 0

    @property
    def unreadable(self) -> str:
        more = len(self._errors) - _MOST_NAMES
        rest = f"; and {more} more" if more > 0 else ""
        return "; ".join(self._errors[:_MOST_NAMES]) + rest

    def fits(self, path: Path, kind: ImageKind) -> bool:
        """Check an image by its header; False: it cannot be read.

        Raises:
            DataError: it has another size than the release's.
        """
        try:
            size, mode = size_and_mode(path)
        except DataError as e:
            self._errors.append(str(e))
            return False
        _, height, width = kind.sample_shape
        if size != (width, height) and not kind.resized:
            raise DataError(
                f"{path} has {size[0]}x{size[1]} pixels, the release's images "
                f"{width}x{height}; resize the own images to that"
            )
        self._converted += (mode in GREY) != (kind.form.mode == "L")
        return True

    def reads(self, path: Path, form: Form, place: NDArray[np.uint8]) -> bool:
        """Decode an image into its place; False: it cannot be read."""
        try:
            place[:] = read_images([path], form)[0]
        except DataError as e:
            self._errors.append(str(e))
            return False
        return True

    def notes(self, folder: Path, form: Form) -> tuple[str, ...]:
        """Say how many images were left out or changed, one line each."""
        notes = []
        if self._errors:
            notes.append(
                f"{len(self._errors)} of {self._num_images} images in {folder} are "
                f"left out: {self.unreadable}"
            )
        if self._converted:
            kinds = ("in colour", "grey") if form.mode == "L" else ("grey", "RGB")
            notes.append(
                f"{self._converted} of {self._num_images} images in {folder} are "
                f"{kinds[0]} and are made {kinds[1]}, as the release's are"
            )
        return tuple(notes)
