"""Read a node's own images from class folders: some of the release's, and unlabelled/.

Images that cannot be read are passed over and named, since on a device a file may be
half written. Copies of images that measure students are not trained on, whatever folder
they lie in. Images have the size of the release's; colour is made grey, or grey
colour, as the release's are. Not here: decoding (image_folder.py), images that a
simulated node draws (drawn_images.py).
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
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
    class_of_folder,
    describe_passed_over,
    files_below,
    folder_name,
    is_image,
    read_images,
    size_and_mode,
)
from common.data.listing import check_links, visible
from common.data.own_images import (
    UNLABELLED,
    Allocate,
    OwnImages,
    describe_missing_validation,
    in_ram,
    pixel_digests,
    validation_rows,
)
from common.errors import DataError
from common.regular_file import is_folder
from common.text import printable

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
    folder: Path,
    kind: ImageKind,
    *,
    allocate: Allocate = in_ram,
    never_trained_on: Collection[bytes] = (),
) -> OwnImages:
    """Read all images below a folder; which ones are for validation, their names say.

    Args:
        folder: holds one folder a class, and unlabelled/; some of them will do.
        kind: what the release says of images.
        allocate: makes room for the pixels.
        never_trained_on: digests of images that measure students, beside those that
            are set aside here.

    Raises:
        DataError: a folder is no class of the release or a link that leads nowhere, an
            image has another size, or none that can be trained on can be read.
    """
    tree = _scan(folder, kind.class_names)
    odd = _Oddities(len(tree.paths))
    rows = np.array([k for k, p in enumerate(tree.paths) if odd.fits(p, kind)], int)
    labels = tree.labels[rows]
    paths = [tree.paths[k] for k in rows]
    val = validation_rows(labels, _order_by_name(paths))
    train = np.setdiff1d(np.arange(len(paths)), val)
    pixels = allocate((len(paths), kind.form.channels, *kind.sample_shape[1:]))
    # Those set aside first, behind the others: so it is known what is a copy of one.
    behind = pixels[len(train) :]
    val = _read(paths, val, kind.form, behind, odd)
    odd.measure_students(never_trained_on)
    odd.measure_students(pixel_digests(behind[: len(val)]))
    train = _read(paths, train, kind.form, pixels, odd)
    if not len(train):
        raise DataError(odd.nothing_left(folder))
    notes = (*describe_passed_over(tree, folder), *odd.notes(folder, kind.form))
    own = OwnImages(
        Split(pixels[: len(train)], labels[train]),
        Split(behind[: len(val)], labels[val]),
    )
    return OwnImages(own.train, own.val, (*notes, *describe_missing_validation(own)))


def _read(
    paths: Sequence[Path],
    rows: NDArray[np.int64],
    form: Form,
    places: NDArray[np.uint8],
    odd: "_Oddities",
) -> NDArray[np.int64]:
    """Decode images one behind the other; return the rows of those that are used."""
    used: list[int] = []
    for k in rows:
        if odd.reads(paths[k], form, places[len(used)]):
            used.append(k)
    return np.array(used, np.int64)


def _scan(root: Path, class_names: Sequence[str]) -> Tree:
    """List the images of a node's folder; those without a label have -1."""
    paths: list[Path] = []
    labels: list[int] = []
    passed_over: list[Path] = []
    entries = visible(root)
    check_links(entries)
    for entry in entries:
        if not is_folder(entry):
            passed_over.append(entry)
            continue
        label = class_of_folder(entry.name, class_names)
        if label is None and entry.name != UNLABELLED_FOLDER:
            raise DataError(
                f"{entry} is no class of the release; expected {UNLABELLED_FOLDER} or "
                f"one of {', '.join(map(folder_name, class_names))}; rename the "
                f"folder, or move its images to {UNLABELLED_FOLDER}/"
            )
        inside = visible(entry)
        found = [path for path in inside if is_image(path)]
        passed_over += files_below(path for path in inside if not is_image(path))
        paths += found
        labels += [UNLABELLED if label is None else label] * len(found)
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
    names = [os.fsencode(f"{p.parent.name}/{p.name}") for p in paths]
    keys = [hashlib.sha256(name).digest() for name in names]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


class _Oddities:
    """Which images are left out or changed, and why."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._errors: list[str] = []
        self._converted = 0
        self._measuring: set[bytes] = set()
        self._num_copies = 0

    def measure_students(self, digests: Iterable[bytes]) -> None:
        """Leave out copies of these images from now on."""
        self._measuring.update(digests)

    @property
    def _unreadable(self) -> str:
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
        """Decode an image into its place; False: it cannot be read, or is a copy."""
        try:
            place[:] = read_images([path], form)[0]
        except DataError as e:
            self._errors.append(str(e))
            return False
        if self._measuring and pixel_digests([place])[0] in self._measuring:
            self._num_copies += 1
            return False
        return True

    def nothing_left(self, folder: Path) -> str:
        """Say why no image of a folder can be trained on."""
        if len(self._errors) == self._num_images:
            return f"none of the images in {folder} can be read: {self._unreadable}"
        unread = f", {len(self._errors)} cannot be read" if self._errors else ""
        return (
            f"no image in {folder} is left to train on: of {self._num_images}, "
            f"{self._num_copies} are copies of images that measure students{unread}; "
            "add others"
        )

    def notes(self, folder: Path, form: Form) -> tuple[str, ...]:
        """Say how many images were left out or changed, one line each."""
        notes = []
        if self._errors:
            notes.append(
                f"{len(self._errors)} of {self._num_images} images in {folder} are "
                f"left out: {self._unreadable}"
            )
        if self._num_copies:
            notes.append(
                f"{self._num_copies} of {self._num_images} images in {folder} are "
                "copies of images that measure students, and are not trained on"
            )
        if self._converted:
            kinds = ("in colour", "grey") if form.mode == "L" else ("grey", "RGB")
            notes.append(
                f"{self._converted} of {self._num_images} images in {folder} are "
                f"{kinds[0]} and are made {kinds[1]}, as the release's are"
            )
        return tuple(map(printable, notes))
