"""Read class-folder trees of image files: ``<root>/<class>/<image>``.

Classes are the sorted folder names. Images are decoded with PIL one by one, to
grey when all of them are grey, otherwise to RGB; of an animation the first frame
counts. Builds of PIL may decode a JPEG differently in the last bit: the split's
fingerprint then differs too, and a node says so. Not here: one image's file
(common/data/image_file.py), augmentation, video.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.image_file import converted, opened, unreadable
from common.data.listing import check_links, leads_nowhere, visible
from common.errors import DataError
from common.regular_file import is_folder
from common.text import counted, printable

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_REDUCED_LEAST = 16  # of the wanted size, so that resizing averages many pixels
_ANIMATED = frozenset({".gif", ".tif", ".tiff", ".webp"})
_MOST_KINDS = 4  # of passed-over files that a note lists
GREY = frozenset({"1", "L", "LA"})


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
    folders = [p for p in inside if is_folder(p)]
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
        label = class_of_folder(folder.name, names)
        if label is None:
            raise DataError(
                f"{folder} is not a class of the training images; expected one of "
                f"{', '.join(map(folder_name, names))}"
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
        labels += [label] * len(found)
    return Tree(names, tuple(paths), np.array(labels, np.int64), tuple(passed_over))


def folder_name(class_name: str) -> str:
    """Name the folder of a class: a name of one folder, in one Unicode form."""
    return unicodedata.normalize("NFC", class_name).replace("/", "_")


def class_of_folder(name: str, class_names: Sequence[str]) -> int | None:
    """Number the class that a folder is named for; None: it is none of them.

    A name as it is comes before those that only become it as a folder's.
    """
    folders = [folder_name(each) for each in class_names]
    for names, wanted in ((class_names, name), (folders, folder_name(name))):
        if wanted in names:
            return names.index(wanted)
    return None


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
    return tuple(map(printable, notes))


def describe_passed_over(tree: Tree, root: Path) -> tuple[str, ...]:
    """Count the files of a tree that are not read, by folder and suffix: one line."""
    if not tree.passed_over:
        return ()
    note = (
        f"passed over in {root}: {_count_by_kind(tree.passed_over, root)}; images are "
        f"CLASS/IMAGE, as {', '.join(sorted(SUFFIXES))}"
    )
    return (printable(note),)


def holds_classes(root: Path) -> bool:
    """Tell whether folders right below `root` hold images."""
    return any(
        is_image(path)
        for folder in visible(root)
        if is_folder(folder)
        for path in visible(folder)
    )


def describe_unused(root: Path, class_names: Sequence[str]) -> tuple[str, ...]:
    """Name the folders beside ``train`` and ``test`` that hold these classes too."""
    unused = []
    for folder in visible(root):
        if folder.name in ("train", "test") or not is_folder(folder):
            continue
        classes = [folder / c for c in class_names if is_folder(folder / c)]
        if classes:
            unused.append(f"{folder.name}/ ({len(files_below(classes))} files)")
    if not unused:
        return ()
    note = (
        f"not read in {root}: {', '.join(unused)}; images come from train/ and test/ "
        "only, validation images are cut from train/"
    )
    return (printable(note),)


def is_image(path: Path) -> bool:
    """Tell an image by its suffix; a pipe or socket of such a name is none."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        return path.is_file() or leads_nowhere(path)
    except OSError:  # what it is cannot be seen: to read it says why
        return True


def _is_animation(path: Path) -> bool:
    if path.suffix.lower() not in _ANIMATED:
        return False
    with opened(path) as image:
        return bool(getattr(image, "is_animated", False))


def files_below(paths: Iterable[Path]) -> list[Path]:
    """List the visible files among `paths` and in folders of theirs.

    A link to a folder, which may lead back up, is not followed; it counts as a file.
    """
    files: list[Path] = []
    for path in paths:
        if is_folder(path) and not path.is_symlink():
            files += files_below(visible(path))
        else:
            files.append(path)
    return files


def _count_by_kind(paths: Sequence[Path], root: Path) -> str:
    """Count files by folder and suffix, the most frequent first."""
    kinds = Counter(
        f"{_kind_of(p)} in {p.parent.relative_to(root)}/" for p in paths
    ).most_common()
    listed = [f"{count} {kind}" for kind, count in kinds[:_MOST_KINDS]]
    rest = sum(count for _, count in kinds[_MOST_KINDS:])
    return ", ".join(listed + ([f"{rest} others"] if rest else []))


def _kind_of(path: Path) -> str:
    if is_folder(path):
        return "link to a folder"
    return path.suffix or "without suffix"


def size_and_mode(path: Path) -> tuple[tuple[int, int], str]:
    """Read (width, height) and PIL's mode from an image's header.

    Raises:
        DataError: it cannot be read, or has more than 8 bits a pixel.
    """
    with opened(path) as image:
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
        with opened(path) as image:
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


def read_images(
    paths: Sequence[Path], form: Form, *, reduced: bool = False
) -> NDArray[np.uint8]:
    """Decode and resize images: uint8 (N, C, H, W).

    Args:
        paths: of the images.
        form: what they are converted to.
        reduced: decode JPEGs that are much larger than that at a half, a quarter or an
            eighth of their size, as their coefficients allow. It takes a fraction of
            time and memory, and pixels differ by rounding, so that it is not for images
            that have a fingerprint.

    Raises:
        DataError: an image cannot be decoded; names the file.
    """
    least = _REDUCED_LEAST * form.size if reduced else None
    out = np.empty((len(paths), form.channels, form.size, form.size), np.uint8)
    for index, path in enumerate(paths):
        with opened(path, least=least) as image:
            try:
                image = converted(image, form.mode)
                if image.size != (form.size, form.size):
                    image = image.resize((form.size, form.size), Image.Resampling.BOX)
                pixels = np.asarray(image, np.uint8)
            except (OSError, SyntaxError, ValueError) as e:
                raise unreadable(path, e) from e
        out[index] = pixels.reshape(form.size, form.size, -1).transpose(2, 0, 1)
    return out
