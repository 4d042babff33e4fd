"""Read class-folder trees of image files: ``<root>/<class>/<image>``.

Classes are the sorted folder names. Images are decoded with PIL one by one, to
grey when all of them are grey, otherwise to RGB. They are turned as their EXIF tag
says, what is transparent becomes white, and of an animation the first frame counts.
Builds of PIL may decode a JPEG differently in the last bit: the split's fingerprint
then differs too, and a node says so. Not here: augmentation, video, images of 16-bit
grey (refused).
"""

import struct
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from common.data.listing import (
    check_links,
    describe_link,
    leads_nowhere,
    visible,
)
from common.errors import DataError, one_line
from common.regular_file import open_regular
from common.text import counted

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# PIL's names of these. Given none, it tries all that it knows by their content, and for
# PostScript starts a program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
BACKGROUND = (255, 255, 255)  # behind transparent pixels
_ANIMATED = frozenset({".gif", ".tif", ".tiff", ".webp"})
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MOST_KINDS = 4  # of passed-over files that a note lists
GREY = frozenset({"1", "L", "LA"})
_DEEP = ("I", "F")  # modes of 16 and 32 bits a pixel


@dataclass(frozen=True)
class Tree:
    """The files of one class-folder tree, in the order of class and name."""

    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]  # (N,)
    passed_over: tuple[Path, ...] = ()  # files in class folders that are not read


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
    """List the images under `root`; other files are passed over and listed too.

    Hidden ones are not. Only what lies right in a class folder is an image of it.

    Args:
        root: the folder that holds one folder per class.
        class_names: the classes to number by; None takes the folders found.

    Raises:
        DataError: no such folder, fewer than two classes, a class without images, a
            link that leads nowhere or (with `class_names`) a folder that is not one of
            them.
    """
    inside = visible(root)
    check_links(inside)
    folders = [p for p in inside if p.is_dir()]
    names = tuple(class_names or (f.name for f in folders))
    _check_names(root, names)
    if len(names) < 2:
        raise DataError(
            f"{root} has {counted(len(names), 'class folder')}, expected at least 2: "
            f"{root}/CLASS/IMAGE"
        )
    paths: list[Path] = []
    labels: list[int] = []
    passed_over: list[Path] = []
    for folder in folders:
        if folder.name not in names:
            raise DataError(
                f"{folder} is not a class of the training images; expected one of "
                f"{', '.join(names)}"
            )
        inside = visible(folder)
        found = [p for p in inside if is_image(p)]
        others = files_below(p for p in inside if not is_image(p))
        if not found:
            instead = f"but {_count_by_kind(others, root)} " if others else ""
            raise DataError(
                f"class folder {folder} holds no image {instead}"
                f"({', '.join(sorted(SUFFIXES))}); add some or remove the folder"
            )
        paths += found
        passed_over += others
        labels += [names.index(folder.name)] * len(found)
    return Tree(names, tuple(paths), np.array(labels, np.int64), tuple(passed_over))


def _check_names(root: Path, names: Sequence[str]) -> None:
    """Refuse class names that manifests cannot hold, or that look the same."""
    seen: dict[str, str] = {}
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the name of class folder {name!a} in {root} is not UTF-8; "
                "rename it, in train/ and test/ alike"
            ) from None
        if not name.isprintable():
            raise DataError(
                f"the name of class folder {name!a} in {root} has characters that "
                "cannot be shown; rename it, in train/ and test/ alike"
            )
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DataError(
                f"class folders {other!a} and {name!a} in {root} are one "
                "name in two Unicode forms; move the images into one of them"
            )


def describe_oddities(tree: Tree, root: Path) -> tuple[str, ...]:
    """Say what a user may not expect of a tree, one line each.

    Files passed over are counted by folder and suffix, animations in all.

    Raises:
        DataError: an image that may be an animation is unreadable.
    """
    notes = [*describe_passed_over(tree, root)]
    animations = [p for p in tree.paths if _is_animation(p)]
    if animations:
        images = f"of {counted(len(tree.paths), 'image')} in {root}"
        notes.append(
            f"{len(animations)} {images} with several frames or pages "
            f"({animations[0].name}): the first of each counts"
        )
    return tuple(notes)


def describe_passed_over(tree: Tree, root: Path) -> tuple[str, ...]:
    """Count the files of a tree that are not read, by folder and suffix: one line."""
    if not tree.passed_over:
        return ()
    return (
        f"passed over in {root}: {_count_by_kind(tree.passed_over, root)}; images are "
        f"CLASS/IMAGE, as {', '.join(sorted(SUFFIXES))}",
    )


def holds_classes(root: Path) -> bool:
    """Tell whether folders right below `root` hold images."""
    return any(
        is_image(path)
        for folder in visible(root)
        if folder.is_dir()
        for path in visible(folder)
    )


def describe_unused(root: Path, class_names: Sequence[str]) -> tuple[str, ...]:
    """Name the folders beside ``train`` and ``test`` that hold these classes too."""
    unused = []
    for folder in visible(root):
        if folder.name in ("train", "test") or not folder.is_dir():
            continue
        classes = [folder / c for c in class_names if (folder / c).is_dir()]
        if classes:
            unused.append(f"{folder.name}/ ({len(files_below(classes))} files)")
    if not unused:
        return ()
    return (
        f"not read in {root}: {', '.join(unused)}; images come from train/ and test/ "
        "only, validation images are cut from train/",
    )


def is_image(path: Path) -> bool:
    """Tell an image by its suffix; a pipe or socket of such a name is none."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    return path.is_file() or leads_nowhere(path)


def _is_animation(path: Path) -> bool:
    if path.suffix.lower() not in _ANIMATED:
        return False
    with _opened(path) as image:
        return bool(getattr(image, "is_animated", False))


def files_below(paths: Iterable[Path]) -> list[Path]:
    """List the visible files among `paths` and in folders of theirs."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            files += files_below(visible(path))
        elif not path.is_dir():
            files.append(path)
    return files


def _count_by_kind(paths: Sequence[Path], root: Path) -> str:
    """Count files by folder and suffix, the most frequent first."""
    kinds = Counter(
        f"{p.suffix or 'without suffix'} in {p.parent.relative_to(root)}/"
        for p in paths
    ).most_common()
    listed = [f"{count} {kind}" for kind, count in kinds[:_MOST_KINDS]]
    rest = sum(count for _, count in kinds[_MOST_KINDS:])
    return ", ".join(listed + ([f"{rest} others"] if rest else []))


def size_and_mode(path: Path) -> tuple[tuple[int, int], str]:
    """Read (width, height) and PIL's mode from an image's header.

    Raises:
        DataError: it cannot be read, or has more than 8 bits a pixel.
    """
    with _opened(path) as image:
        return image.size, image.mode


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
            grey = grey and image.mode in GREY
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
                image = _opaque(_upright(image)).convert(form.mode)
                if image.size != (form.size, form.size):
                    image = image.resize((form.size, form.size), Image.Resampling.BOX)
                pixels = np.asarray(image, np.uint8)
            except (OSError, SyntaxError, ValueError) as e:
                raise _unreadable(path, e) from e
        out[index] = pixels.reshape(form.size, form.size, -1).transpose(2, 0, 1)
    return out


def _upright(image: Image.Image) -> Image.Image:
    """Turn and mirror an image as its EXIF orientation says."""
    image.load()  # turns a TIFF and drops its tag
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, struct.error):
        return image  # damaged EXIF data beside whole pixels
    return image if turn is None else image.transpose(turn)


def _opaque(image: Image.Image) -> Image.Image:
    """Put an image with transparent pixels onto `BACKGROUND`."""
    if image.mode != "P" and not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema() == (255, 255):
        return image if image.mode != "P" else layered
    below = Image.new("RGBA", layered.size, (*BACKGROUND, 255))
    return Image.alpha_composite(below, layered)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image lazily: its header is read, its pixels are not."""
    with ExitStack() as held:
        try:
            file = held.enter_context(open_regular(path))
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = held.enter_context(Image.open(file, formats=_FORMATS))
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as e:
            raise _unreadable(path, e) from e
        if image.mode.startswith(_DEEP):
            raise DataError(
                f"{path} has more than 8 bits a pixel (mode {image.mode}); convert it "
                "to 8-bit grey or RGB"
            )
        yield image


def _unreadable(path: Path, error: Exception) -> DataError:
    if leads_nowhere(path):
        return DataError(describe_link(path))
    if path.is_file() and path.stat().st_size == 0:
        reason = "it is empty (0 bytes)"
    elif isinstance(error, UnidentifiedImageError):
        reason = "its content is no image of a known format"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = one_line(error, 120)
    return DataError(f"cannot read image {path}: {reason}; replace or remove it")
