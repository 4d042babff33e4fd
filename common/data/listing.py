"""Lists a folder of a user's images, and says what stands in its place.

Hidden entries and those that systems put beside images by themselves do not count. Not
here: which files are images, and which folders classes (image_folder.py).
"""

import contextlib
import errno
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from common.errors import DataError
from common.regular_file import is_file, is_there

# Of macOS's archives, Synology's and QNAP's thumbnails, Windows and ext4.
_SYSTEM = frozenset(
    {"__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN"}
    | {"System Volume Information", "lost+found", "Thumbs.db", "desktop.ini"}
)
# Folders above it need x alone.
FIX_PERMISSIONS = "let this user read it (r; a folder: r and x)"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z", ".rar")


def visible(folder: Path) -> list[Path]:
    """List a folder by name, without hidden entries and those of systems.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        found = sorted(path for path in folder.iterdir() if is_visible(path.name))
        with contextlib.suppress(FileNotFoundError):  # removed in between
            for path in found[:1]:
                path.lstat()  # to list it was allowed, to look at what is in it?
        return found
    except OSError as e:
        raise _no_folder(folder, e) from e


def is_visible(name: str) -> bool:
    """Tell an entry of a user's own from hidden ones and those of systems."""
    return not name.startswith(".") and name not in _SYSTEM


def check_links(paths: Iterable[Path]) -> None:
    """Refuse links that cannot be followed: a class behind one would be left out.

    Raises:
        DataError: one leads nowhere, for instance to what is not mounted in this
            container, or to where this user may not look.
    """
    for path in paths:
        if leads_nowhere(path):
            raise DataError(describe_link(path))
        with contextlib.suppress(FileNotFoundError):  # removed in between
            try:
                path.stat()
            except PermissionError as e:
                leads = f", a link to {path.readlink()}" if path.is_symlink() else ""
                raise DataError(
                    f"cannot read {path}{leads}: {e.strerror}; {FIX_PERMISSIONS}"
                ) from e


def leads_nowhere(path: Path) -> bool:
    """Tell a link whose target is missing, not mounted, or the link itself."""
    try:
        return path.is_symlink() and not path.exists()
    except OSError:  # where it leads may not be looked at
        return False


def describe_link(path: Path) -> str:
    """Say where a link that leads nowhere should lead, and what to do."""
    return (
        f"{path} is a link to {path.readlink()}, which is not there; mount or copy "
        "what it leads to (into the container, too), or remove the link"
    )


def _no_folder(folder: Path, error: OSError) -> DataError:
    """Say what stands in the place of a folder."""
    for path in (folder, *folder.parents):
        if is_file(path):
            return DataError(_describe_file(path))
        packed = [p for s in _ARCHIVES if is_file(p := Path(f"{path}{s}"))]
        if packed and not is_there(path):
            return DataError(f"{path} is not there, but {packed[0]} is; unpack it")
    if leads_nowhere(folder):
        return DataError(describe_link(folder))
    fix = FIX_PERMISSIONS
    if error.errno == errno.ENOENT:
        fix = f"expected images as {folder}/CLASS/IMAGE"
    return DataError(f"cannot read {folder}: {error.strerror}; {fix}")


def _describe_file(path: Path) -> str:
    is_archive = path.name.lower().endswith(_ARCHIVES)
    with contextlib.suppress(OSError):  # it may not be read
        is_archive |= zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    if is_archive:
        return f"{path} is an archive; unpack it and give the folder that it becomes"
    return f"{path} is a file; give a folder with images as CLASS/IMAGE below it"
