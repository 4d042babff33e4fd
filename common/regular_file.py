"""Files that others wrote: looked at, and opened if they are ordinary ones.

What may not be looked at counts as not there: reading it says why. A pipe would keep
the reader waiting and a device may act when it is opened; a link that somebody else can
lay leads wherever the reader may read. Not here: what is in the files, files of takt's
own (common.durable).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # of a pipe: without waiting


def is_there(path: Path) -> bool:
    """Tell whether there is anything."""
    return _find(path) is not None


def is_folder(path: Path) -> bool:
    """Tell a folder, or a link to one."""
    found = _find(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_file(path: Path) -> bool:
    """Tell an ordinary file, or a link to one."""
    found = _find(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def _find(path: Path) -> os.stat_result | None:
    # pathlib's is_dir() and is_file() raise where a folder above may not be searched.
    try:
        return path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in it
        return None


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; a link of the reader's own is followed.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, a socket or a device.
    """
    _check_kind(path.stat(), path)  # before it is opened: a device may act on that
    with _as_file(os.open(path, _READ), path) as file:
        yield file


@contextmanager
def open_below(root: Path, *names: str, most: int) -> Iterator[BinaryIO]:
    """Open `root`/names[0]/names[1]/... for reading, without following a link.

    Args:
        root: a folder that the reader trusts to be where it says.
        names: of the folders below it, and of the file.
        most: bytes that the file may have.

    Raises:
        OSError: it cannot be opened, is larger, is no ordinary file, or a name
            is a link or leads out of its folder.
    """
    path = root.joinpath(*names)
    with _folder_below(root, *names[:-1]) as folder:
        found = os.stat(_plain(names[-1]), dir_fd=folder, follow_symlinks=False)
        _check_kind(found, path)
        handle = os.open(names[-1], _READ | os.O_NOFOLLOW, dir_fd=folder)
    with _as_file(handle, path) as file:
        size = os.fstat(handle).st_size
        if size > most:
            reason = f"it has {size} bytes, expected {most} at most"
            raise OSError(errno.EFBIG, reason, str(path))
        yield file


@contextmanager
def _folder_below(root: Path, *names: str) -> Iterator[int]:
    """Open a folder, each name in the folder before it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    handle = os.open(root, flags)
    try:
        for name in names:
            below = os.open(_plain(name), flags | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "no name of a file in a folder", name)
    return name


@contextmanager
def _as_file(handle: int, path: Path) -> Iterator[BinaryIO]:
    with os.fdopen(handle, "rb") as file:
        _check_kind(os.fstat(handle), path)  # of what was opened indeed
        yield file


def _check_kind(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "it is a link", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", str(path))
