"""What lies in a node's folder of own images, counted for its user.

Reads the headers of images and no pixels. Not here: reading the images, and what is
refused (own_folder.py).
"""

from dataclasses import dataclass
from pathlib import Path

from common.data.image_folder import is_image, size_and_mode
from common.data.listing import check_links, visible
from common.data.own_folder import UNLABELLED_FOLDER
from common.errors import DataError
from common.regular_file import is_folder
from common.text import counted

_MOST_NAMES = 3  # of unreadable images that are named


@dataclass(frozen=True)
class FolderCounts:
    """The images below a folder, by their state.

    Attributes:
        classes: readable images of each class folder, by its name.
        unlabelled: readable images in unlabelled/.
        unreadable: images whose header cannot be read.
    """

    classes: dict[str, int]
    unlabelled: int
    unreadable: tuple[Path, ...]

    @property
    def total(self) -> int:
        """Count all images, unreadable ones too."""
        return sum(self.classes.values()) + self.unlabelled + len(self.unreadable)

    def describe(self) -> str:
        """Say it in one line."""
        labelled = sum(self.classes.values())
        parts = []
        if self.classes:
            each = ", ".join(f"{name} {n:,}" for name, n in self.classes.items())
            kinds = counted(len(self.classes), "class", "classes")
            parts.append(f"{labelled:,} of {kinds} ({each})")
        if self.unlabelled:
            parts.append(f"{self.unlabelled:,} unlabelled")
        if self.unreadable:
            names = [f"{p.parent.name}/{p.name}" for p in self.unreadable]
            more = len(names) - _MOST_NAMES
            rest = f" and {more:,} more" if more > 0 else ""
            first = ", ".join(names[:_MOST_NAMES])
            parts.append(f"{len(names):,} unreadable and left out ({first}{rest})")
        listed = f": {', '.join(parts)}" if parts else ""
        return f"{counted(self.total, 'image')}{listed}"


def count_folder(folder: Path) -> FolderCounts:
    """Count the images of a folder of class folders and unlabelled/.

    Raises:
        DataError: the folder is missing or unreadable, or holds a link that leads
            nowhere.
    """
    classes: dict[str, int] = {}
    unreadable: list[Path] = []
    entries = visible(folder)
    check_links(entries)
    for inside in entries:
        if not is_folder(inside):
            continue
        images = [path for path in visible(inside) if is_image(path)]
        bad = [path for path in images if not _has_header(path)]
        classes[inside.name] = len(images) - len(bad)
        unreadable += bad
    unlabelled = classes.pop(UNLABELLED_FOLDER, 0)
    return FolderCounts(classes, unlabelled, tuple(unreadable))


def _has_header(path: Path) -> bool:
    try:
        size_and_mode(path)
    except DataError:
        return False
    return True
