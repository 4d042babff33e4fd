"""The teacher's answers about a node's own images: asked for once, then kept on disk.

With `share_images` a node asks the gateway's teacher for the logits of each view of
each of its images. `AnswersFile` keeps them (StateDir.answers): a further distillation,
and one that was cut off half-way, asks only for what is missing. The images themselves
are not in it, only a digest of each. All answers about the images of now are kept,
however many they are, and at most `MAX_OTHERS` others: of images that are gone but may
come back, and of other teachers. An answer takes 110 bytes of disk with ten classes,
and 2 more a class; the file does not shrink, its room is used again. Not here: which
images and views there are, the calls (edge/link/teacher_stream.py). Torch-free.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar, TypeVarTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from common.durable import storing
from common.errors import StorageError, one_line
from edge.distill.teacher.teacher_link import open_stream
from edge.jobs.job import LiveLink
from edge.link.teacher_stream import ReleasedTeacher

MAX_OTHERS = 1_000_000  # answers that the newest question did not need
_PART = 256  # images that are asked about, and whose answers are kept, at a time
_VERSION = 1  # of the tables
_TABLES = """
CREATE TABLE teachers (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, used INTEGER NOT NULL
);
CREATE TABLE answers (
    key BLOB NOT NULL UNIQUE, teacher INTEGER NOT NULL, logits BLOB NOT NULL
);
"""

_NONE = np.empty(0, np.uint64)
_LARGEST = float(np.finfo(np.float16).max)

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
Halves = NDArray[np.float16]
_Kept = dict[bytes, Halves]  # by the image's key
_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


class Answers(NamedTuple):
    """What a teacher said about images, and what it took to know it."""

    logits: Halves  # (N, K)
    num_asked: int = 0  # images that were sent to the gateway
    num_bytes: int = 0  # exchanged with it, both ways
    notes: tuple[str, ...] = ()


def teacher_answers(
    link: LiveLink,
    path: Path,
    teacher: ReleasedTeacher,
    views: Iterable[Pixels],
    should_stop: Callable[[], bool] = lambda: False,
) -> Answers:
    """Return the release's teacher's logits of images, asking for the unknown ones.

    Args:
        link: how the gateway is reached; it is left alone if all answers are known.
        path: of the file that keeps the answers (StateDir.answers).
        teacher: of the release.
        views: uint8 arrays (n, C, H, W), one after the other: for instance each view
            of all images. Only a part of one is copied at a time.
        should_stop: called while waiting; True ends the wait with `Interrupted`.

    Returns:
        The logits in the order of `views`, (N, K) with N images in all.

    Raises:
        ConfigError: the gateway has no live teacher, not the release's, or not for
            such images.
        LinkError: no answer within the deadline, or one that is not finite or of
            another number of classes. What was answered before is kept.
        IdentityError: the gateway refuses this node.
        StorageError: the file cannot be written.
        Interrupted: `should_stop` returned True. What was answered is kept.
    """
    with open_stream(link, should_stop) as stream, AnswersFile(path) as file:

        def ask(part: Pixels) -> Logits:
            return stream.logits_of_own(part, teacher)

        found = file.answers_for(views, teacher, ask)
        return found._replace(num_bytes=stream.num_bytes)


class AnswersFile:
    """A database of answers; a context manager, for one thread of one process."""

    def __init__(self, path: Path, *, max_others: int = MAX_OTHERS) -> None:
        """Prepare; the file is opened, or made, on entering.

        Args:
            path: of the file.
            max_others: of the answers that a call of `answers_for` had no use for,
                more than these are forgotten, beginning with those of the teacher
                that was not asked for the longest time.
        """
        self._path = path
        self._max_others = max_others
        self._notes: list[str] = []

    def __enter__(self) -> Self:
        """Open the file; a damaged one is set aside.

        Raises:
            StorageError: it cannot be read or written.
        """
        try:
            self._open()
        except sqlite3.DatabaseError as e:
            self._set_aside(e)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._database.close()

    def answers_for(
        self,
        views: Iterable[Pixels],
        teacher: ReleasedTeacher,
        ask: Callable[[Pixels], Logits],
    ) -> Answers:
        """Return the logits of images; `ask` for those that are not known yet.

        Args:
            views: uint8 arrays (n, C, H, W), one after the other.
            teacher: whose answers count.
            ask: (m, C, H, W) -> (m, K), at most 256 images at a time, none of them
                twice. What it raised ends the call; what it had answered is kept.

        Raises:
            StorageError: the file cannot be written.
        """
        self._guarded(self._begin, teacher.sha256)
        known = bytearray()  # grows without a second copy of it all
        in_use: list[NDArray[np.uint64]] = []
        num_asked = 0
        for part in _parts(views):
            keys = [_key(teacher.sha256, image) for image in part]
            found = self._guarded(self._read, keys, teacher.num_classes)
            # The first place of each unknown image: equal ones are asked about once.
            places: dict[bytes, int] = {}
            for place, key in enumerate(keys):
                if key not in found:
                    places.setdefault(key, place)
            if places:
                logits = ask(part[[*places.values()]]).clip(-_LARGEST, _LARGEST)
                fresh = dict(zip(places, logits.astype("<f2"), strict=True))
                self._guarded(self._keep, teacher.sha256, fresh)
                num_asked += len(fresh)
                found |= fresh
            known += b"".join(found[key].tobytes() for key in keys)
            in_use.append(np.array([_number(key) for key in keys], np.uint64))
        self._guarded(self._prune, np.unique(np.concatenate([_NONE, *in_use])))
        whole = np.frombuffer(known, "<f2").reshape(-1, teacher.num_classes)
        return Answers(whole, num_asked, notes=tuple(self._notes))

    def _guarded(
        self, step: Callable[[Unpack[_Arguments]], _T], *arguments: *_Arguments
    ) -> _T:
        """Take one step; if the file turns out to be damaged, on an empty one."""
        try:
            return step(*arguments)
        except sqlite3.OperationalError as e:
            raise _storage_error(e, self._path) from e
        except sqlite3.DatabaseError as e:
            self._set_aside(e)
            return step(*arguments)

    def _open(self) -> None:
        """Open the file; make its tables if it is new.

        Raises:
            sqlite3.DatabaseError: it is damaged, or of another program.
            StorageError: it cannot be read or written.
        """
        try:
            self._database = sqlite3.connect(self._path)
        except sqlite3.OperationalError as e:
            raise _storage_error(e, self._path) from e
        try:
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            (health,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            tables = self._database.execute("SELECT name FROM sqlite_master").fetchall()
            if health != "ok" or (tables and version != _VERSION):
                raise sqlite3.DatabaseError(
                    health if health != "ok" else "other tables"
                )
            if not tables:
                with self._database:
                    self._database.executescript(
                        f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;"
                    )
        except sqlite3.OperationalError as e:
            self._database.close()
            raise _storage_error(e, self._path) from e

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Rename a damaged file and begin an empty one.

        Raises:
            StorageError: that fails as well.
        """
        self._database.close()
        aside = self._path.with_name(f"{self._path.name}.damaged")
        with storing(self._path):
            self._path.replace(aside)
            for tail in ("-journal", "-wal", "-shm"):
                self._path.with_name(f"{self._path.name}{tail}").unlink(missing_ok=True)
        reason = one_line(error, 80)
        self._notes.append(
            f"the teacher's kept answers were damaged ({reason}) and are asked for "
            f"again; the old file is {aside}"
        )
        try:
            self._open()
        except sqlite3.DatabaseError as e:
            raise _storage_error(e, self._path) from e

    def _begin(self, teacher_sha256: str) -> None:
        """Note that a teacher's answers are the ones in use."""
        with self._database:
            self._database.execute(
                "INSERT INTO teachers (sha256, used) "
                "VALUES (?, (SELECT coalesce(max(used), 0) + 1 FROM teachers)) "
                "ON CONFLICT (sha256) DO UPDATE SET used = excluded.used",
                (teacher_sha256,),
            )

    def _read(self, keys: list[bytes], num_classes: int) -> _Kept:
        """Read what is kept; a row that is no answer is as good as none."""
        marks = ", ".join("?" * len(keys))
        rows = self._database.execute(
            f"SELECT key, logits FROM answers WHERE key IN ({marks}) "
            "AND typeof(logits) = 'blob' AND length(logits) = ?",
            (*keys, 2 * num_classes),
        )
        found = {key: np.frombuffer(logits, "<f2") for key, logits in rows}
        return {key: row for key, row in found.items() if np.isfinite(row).all()}

    def _keep(self, teacher_sha256: str, fresh: _Kept) -> None:
        """Keep answers durably: they are there after a power cut."""
        rows = [(k, row.tobytes(), teacher_sha256) for k, row in fresh.items()]
        with self._database:
            self._database.execute(
                "INSERT OR IGNORE INTO teachers (sha256, used) VALUES (?, 0)",
                (teacher_sha256,),
            )
            self._database.executemany(
                "INSERT OR REPLACE INTO answers (key, logits, teacher) "
                "SELECT ?, ?, id FROM teachers WHERE sha256 = ?",
                rows,
            )

    def _prune(self, in_use: NDArray[np.uint64]) -> None:
        """Forget what exceeds the bound: first of the teachers that were used first.

        Args:
            in_use: numbers of the keys that are kept whatever the bound, ascending.
        """
        with self._database:
            (count,) = self._database.execute("SELECT count(*) FROM answers").fetchone()
            excess = count - len(in_use) - self._max_others
            if excess <= 0:
                return
            rows = self._database.execute(
                "SELECT answers.rowid, key FROM answers "
                "JOIN teachers ON teachers.id = teacher ORDER BY used, answers.rowid"
            )
            others = (row for row, key in rows if not _is_in(_number(key), in_use))
            gone = np.fromiter(islice(others, excess), np.int64)
            self._database.executemany(
                "DELETE FROM answers WHERE rowid = ?", ((int(row),) for row in gone)
            )


def _parts(views: Iterable[Pixels]) -> Iterator[Pixels]:
    for view in views:
        for first in range(0, len(view), _PART):
            yield np.ascontiguousarray(view[first : first + _PART])


def _key(teacher_sha256: str, image: Pixels) -> bytes:
    return hashlib.sha256(bytes.fromhex(teacher_sha256) + image.tobytes()).digest()


def _number(key: bytes) -> int:
    """Shorten a key; that two have the same number keeps one answer too many."""
    return int.from_bytes(key[:8], "little")


def _is_in(number: int, ascending: NDArray[np.uint64]) -> bool:
    place = int(np.searchsorted(ascending, np.uint64(number)))
    return place < len(ascending) and int(ascending[place]) == number


def _storage_error(error: sqlite3.Error, path: Path) -> StorageError:
    return StorageError(
        f"cannot use {path}: {one_line(error, 80)}; free space, fix its "
        "permissions, or remove it (the teacher is then asked again)"
    )
