"""Files that are old or new after a kill or a power cut, never half; and file locks.

`write_atomic` is the one way in which takt replaces a file that another process,
or its own next start, will read. The temp file's name is fixed, so that kills
leave at most one behind: one writer a path at a time, which `locked` can hold.
`make_folder` and `storing` raise one `StorageError` for what a disk refuses. Not here:
appending to logs, and the layout of folders.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from common import faults
from common.errors import Interrupted, StorageError

_ADVICE = {
    errno.ENOENT: "make its folder, or choose another one",
    errno.ENOTDIR: "a file stands where a folder is expected; choose another path",
    errno.EEXIST: "a file stands where a folder is expected; choose another path",
    errno.EISDIR: "a folder has that name; give the name of a file",
}
_POLL_S = 0.01  # between two attempts to take a lock that another process holds


def write_atomic(
    path: Path, data: bytes, *, point: str | None = None, mode: int = 0o644
) -> None:
    """Replace a file in one step: temp file, fsync, rename, fsync of the folder.

    Args:
        path: the file; its folder must exist.
        data: the new content.
        point: prefix of the fault points ``<point>.half_written``,
            ``<point>.before_rename`` and ``<point>.after_rename``; None has none.
        mode: permissions of the new file (0o600 for keys).

    Raises:
        StorageError: disk full, permission denied, folder missing or broken disk;
            the old file is as it was.
    """
    part = path.with_name(f".{path.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(part, flags, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            half = len(data) // 2
            file.write(data[:half])
            if point:
                file.flush()
                faults.point(f"{point}.half_written")
            file.write(data[half:])
            file.flush()
            if point:
                faults.point(f"{point}.before_rename")
            os.fsync(handle)
        part.replace(path)
        fsync_folder(path.parent)
        if point:
            faults.point(f"{point}.after_rename")
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise storage_error(e, path) from e


def fsync_folder(folder: Path) -> None:
    """Make renames and unlinks inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path, *, mode: int = 0o777) -> Path:
    """Make a folder and those above it, unless it is there, and return it.

    Args:
        path: the folder.
        mode: its permissions, less the umask (0o700 for keys); folders above it,
            and one that exists, are left to themselves.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as e:
        raise StorageError(
            f"cannot make folder {path}: {e.strerror or e}; {_advice(e)}"
        ) from e
    return path


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an `OSError` about `path` into a `StorageError`."""
    try:
        yield
    except OSError as e:
        raise storage_error(e, path) from e


def storage_error(error: OSError, path: Path) -> StorageError:
    """Say what a full, broken or forbidden disk means for `path`."""
    return StorageError(
        f"cannot write {path}: {error.strerror or error}; {_advice(error)}"
    )


def require_place(path: Path) -> None:
    """Refuse a file that could not be written, before the work that ends in it.

    Raises:
        StorageError: its name is a folder's, or what is above it is no folder that may
            be written to.
    """
    above = path.absolute().parent
    while not os.path.lexists(above):
        above = above.parent
    found = 0
    if path.is_dir():
        found = errno.EISDIR
    elif not above.is_dir():
        found = errno.ENOTDIR
    elif not os.access(above, os.W_OK | os.X_OK):
        found = errno.EACCES
    if found:
        raise storage_error(OSError(found, os.strerror(found)), path)


def _advice(error: OSError) -> str:
    """Say what to do about an error of the disk."""
    return _ADVICE.get(
        error.errno or 0,
        "free space, fix the permissions of that folder, or choose another one",
    )


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    busy: Callable[[str], str] | None = None,
    wait_s: float = 0.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel drops it when one dies.

    The lock file stays. Its mode is 0600: other users cannot open it, so they cannot
    hold the lock and stop takt, as they could with a file that they may read.

    Args:
        path: the lock file; its folder must exist.
        busy: makes the error's message from the holder's process id where another
            process holds the lock; None: wait for it.
        wait_s: with `busy`: seconds to wait for it before that.
        should_stop: looked at while this waits without `busy`; True ends that.

    Raises:
        Interrupted: `should_stop` returned True; the lock is not held.
        StorageError: the lock file cannot be made or opened, or another process
            holds it and `busy` is given.
    """
    import filelock  # here: few of those who write files need it

    # A file system without flock is an error: the library's substitute, a marker file,
    # would stay behind when a process is killed.
    lock = filelock.FileLock(
        path, mode=0o600, poll_interval=_POLL_S, fallback_to_soft=False
    )
    try:
        path.parent.stat()  # filelock would make the folder
        if busy is None:
            lock.acquire(timeout=-1, cancel_check=should_stop)
        else:
            lock.acquire(timeout=wait_s)
    except filelock.Timeout as e:
        if busy is None:
            raise Interrupted(f"stopped while waiting for {path}") from e
        raise StorageError(busy(_read_holder(path))) from e
    except OSError as e:
        raise _lock_error(e, path) from e
    try:
        _prepare_lock_file(path, note_holder=busy is not None)
        yield
    finally:
        lock.release()


def _prepare_lock_file(path: Path, *, note_holder: bool) -> None:
    try:
        path.chmod(0o600)  # a file that was there keeps its mode otherwise
        if note_holder:
            path.write_text(str(os.getpid()))
    except OSError as e:
        raise _lock_error(e, path) from e


def _lock_error(error: OSError, path: Path) -> StorageError:
    return StorageError(
        f"cannot lock {path}: {error.strerror or error}; fix the permissions of its "
        "folder"
    )


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:32].strip() or "unknown"
    except OSError:
        return "unknown"
