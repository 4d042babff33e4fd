"""Read class-folder trees of image files: ``<root>/<class>/<image>``.

Classes are the sorted folder names. Images are decoded with PIL one by one, to
grey when all of them are grey, otherwise to RGB. Builds of PIL may decode a JPEG
differently in the last bit: the split's fingerprint then differs too, and a node
says so. Not here: augmentation, video, 16-bit images (refused).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import DataError, one_line

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_GREY = frozenset({"1", "L", "LA"})
_DEEP = ("I", "F")  # modes of 16 and 32 bits a pixel


@dataclass(frozen=True)
class Tree:
    """The files of one class-folder tree, in the order of class and name."""

    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Form:
    """What every image of a data set is converted to."""

    mode: str  # PIL's: "L" or "RGB"
    size: int  # height and width

    @property
    def channels(self) -> int:
        """Count the channels: 1 or 3."""
        return len(self.mode)


def scan_tree(root: Path, class_names: Sequence[str] | None = None) -> Tree:
    """List the images under `root`; hidden and other files are passed over.

    Args:
        root: the folder that holds one folder per class.
        class_names: the classes to number by; None takes the folders found.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images
            or (with `class_names`) a folder that is not one of them.
    """
    folders = [p for p in _visible(root) if p.is_dir()]
    names = tuple(class_names or (f.name for f in folders))
    if len(names) < 2:
        raise DataError(
            f"{root} has {len(names)} class folder(s), expected at least 2: "
            f"{root}/CLASS/IMAGE"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        if folder.name not in names:
            raise DataError(
                f"{folder} is not a class of the training images; expected one of "
                f"{', '.join(names)}"
            )
        found = [p for p in _visible(folder) if p.suffix.lower() in SUFFIXES]
        if not found:
            raise DataError(
                f"class folder {folder} holds no image "
                f"({', '.join(sorted(SUFFIXES))}); add some or remove the folder"
            )
        paths += found
        labels += [names.index(folder.name)] * len(found)
    return Tree(names, tuple(paths), np.array(labels, np.int64))


def _visible(folder: Path) -> list[Path]:
    """List a folder by name, without hidden entries."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as e:
        raise DataError(
            f"cannot read {folder}: {e.strerror}; expected images as CLASS/IMAGE below "
            f"{folder.parent if folder.parent.is_dir() else folder}"
        ) from e


def common_form(paths: Sequence[Path], image_size: int | None) -> Form:
    """Find the mode and size that all of `paths` are converted to.

    Args:
        paths: image files; only their headers are read.
        image_size: height and width to resize to; None keeps the files' own.

    Raises:
        DataError: an unreadable image, or (without `image_size`) images that are
            not square or differ in size.
    """
    grey = True
    size = image_size
    for path in paths:
        with _opened(path) as image:
            grey = grey and image.mode in _GREY
            width, height = image.size
        if image_size is None:
            size = size or width
            if (width, height) != (size, size):
                raise DataError(
                    f"{path} has {width}x{height} pixels, expected {size}x{size} like "
                    "the others; set dataset.image_size to resize all of them"
                )
    assert size is not None, "no paths"
    return Form("L" if grey else "RGB", size)


def read_images(paths: Sequence[Path], form: Form) -> NDArray[np.uint8]:
    """Decode and resize images: uint8 (N, C, H, W).

    Raises:
        DataError: an image cannot be decoded; names the file.
    """
    out = np.empty((len(paths), form.channels, form.size, form.size), np.uint8)
    for index, path in enumerate(paths):
        with _opened(path) as image:
            try:
                if image.mode == "P":  # a palette may hold transparency
                    image = image.convert("RGBA")
                image = image.convert(form.mode)
                if image.size != (form.size, form.size):
                    image = image.resize((form.size, form.size), Image.Resampling.BOX)
                pixels = np.asarray(image, np.uint8)
            except (OSError, SyntaxError, ValueError) as e:
                raise _unreadable(path, e) from e
        out[index] = pixels.reshape(form.size, form.size, -1).transpose(2, 0, 1)
    return out


def _opened(path: Path) -> Image.Image:
    """Open an image lazily: its header is read, its pixels are not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as e:
        raise _unreadable(path, e) from e
    if image.mode.startswith(_DEEP):
        image.close()
        raise DataError(
            f"{path} has more than 8 bits a pixel (mode {image.mode}); convert it to "
            "8-bit grey or RGB"
        )
    return image


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = one_line(error, 120)
    return DataError(f"cannot read image {path}: {reason}; replace or remove it")
