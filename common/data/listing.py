"""Lists a folder of a user's images, and says what stands in its place.

Hidden entries and those that systems put beside images by themselves do not count. Not
here: which files are images, and which folders classes (image_folder.py).
"""

import errno
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from common.errors import DataError

# Of macOS's archives, Synology's and QNAP's thumbnails, Windows and ext4.
_SYSTEM = frozenset(
    {"__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN"}
    | {"System Volume Information", "lost+found", "Thumbs.db", "desktop.ini"}
)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z", ".rar")


def visible(folder: Path) -> list[Path]:
    """List a folder by name, without hidden entries and those of systems.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.name not in _SYSTEM
        )
    except OSError as e:
        raise _no_folder(folder, e) from e


def check_links(paths: Iterable[Path]) -> None:
    """Refuse links that lead nowhere: a class behind one would be left out in silence.

    Raises:
        DataError: one does, for instance to what is not mounted in this container.
    """
    for path in paths:
        if leads_nowhere(path):
            raise DataError(describe_link(path))


def leads_nowhere(path: Path) -> bool:
    """Tell a link whose target is missing, not mounted, or the link itself."""
    return path.is_symlink() and not path.exists()


def describe_link(path: Path) -> str:
    """Say where a link that leads nowhere should lead, and what to do."""
    return (
        f"{path} is a link to {path.readlink()}, which is not there; mount or copy "
        "what it leads to (into the container, too), or remove the link"
    )


def _no_folder(folder: Path, error: OSError) -> DataError:
    """Say what stands in the place of a folder."""
    for path in (folder, *folder.parents):
        if path.is_file():
            return DataError(_describe_file(path))
        packed = [p for s in _ARCHIVES if (p := Path(f"{path}{s}")).is_file()]
        if packed and not path.exists():
            return DataError(f"{path} is not there, but {packed[0]} is; unpack it")
    if leads_nowhere(folder):
        return DataError(describe_link(folder))
    fix = "fix its permissions"
    if error.errno == errno.ENOENT:
        fix = f"expected images as {folder}/CLASS/IMAGE"
    return DataError(f"cannot read {folder}: {error.strerror}; {fix}")


def _describe_file(path: Path) -> str:
    is_archive = path.name.lower().endswith(_ARCHIVES) or (
        zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    )
    if is_archive:
        return f"{path} is an archive; unpack it and give the folder that it becomes"
    return f"{path} is a file; give a folder with images as CLASS/IMAGE below it"
