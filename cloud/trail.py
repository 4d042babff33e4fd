"""The trail: an append-only, hash-chained log of what was done with trust.

One line an act (publish, rotate, sign, allow, enrol, renew, revoke): the SHA-256 of the
rest of the line, a space, and an entry in JSON that holds the same digest of the line
before. Changing, removing, inserting or reordering lines therefore breaks the chain at
the first line that is concerned. It does not protect from somebody who may write the
file: the whole chain can be made again, and lines cut off at its end leave a shorter
chain that is whole. Only a head digest that was kept elsewhere shows either.

An act's entry is durable before the act: a kill leaves an entry too many at most, and
an act whose entry cannot be written does not take place. Not here: the acts.
"""

import contextlib
import hashlib
import json
import logging
import os
import pwd
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloud.storage import StorageDir
from common import faults
from common.clock import Clock, utc_now
from common.durable import fsync_folder, locked, make_folder, storing
from common.errors import StorageError

logger = logging.getLogger(__name__)

START = "0" * 64  # stands for the digest of the line before the first
MAX_LINE_BYTES = 4096
_MAX_TEXT = 200  # characters of a name in an entry


class Entry(BaseModel):
    """One act.

    Attributes:
        number: of the line, from 1 on.
        time: UTC.
        who: user@host, or the node that called.
        action: what was done: publish, rotate, sign, allow, ...
        subject: with whom or what: a node, a role, a channel and its version.
        digest: SHA-256 in hex of what was made; "": nothing was.
        previous: digest of the line before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    time: datetime
    who: str
    action: str
    subject: str
    digest: str
    previous: str


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many entries it has, and the digest of the last."""

    number: int = 0
    digest: str = START


class Trail:
    """The log in one file; any number of processes may add to it."""

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        """Use the file at `path`; the first entry makes it."""
        self.path = path
        self._clock = clock

    def record(
        self, action: str, subject: str, *, digest: str = "", who: str | None = None
    ) -> None:
        """Add an entry, durably, before the act that it names.

        What a kill left of a last line is cut off first, and an entry says so.

        Args:
            action: what is done.
            subject: with whom or what.
            digest: SHA-256 in hex of what was made.
            who: does it; None: the user of this process.

        Raises:
            StorageError: the file cannot be written, or its last line is damaged.
        """
        make_folder(self.path.parent, mode=0o700)
        with locked(self.path.with_name(f".{self.path.name}.lock")):
            with storing(self.path):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                handle = os.open(self.path, flags, 0o600)
            with storing(self.path), contextlib.ExitStack() as stack:
                stack.callback(os.close, handle)
                end, torn = _tail(handle)
                head = self._head(handle, end)
                if torn:
                    logger.warning(
                        "%s: line %d was torn by a kill; its %d bytes are cut off",
                        self.path,
                        head.number + 1,
                        len(torn),
                    )
                    os.ftruncate(handle, end)
                    found = hashlib.sha256(torn).hexdigest()
                    line, head = self._line(head, "mend", "a torn line", found, who)
                    end = _append(handle, end, line)
                line, _ = self._line(head, action, subject, digest, who)
                _append(handle, end, line)
                fsync_folder(self.path.parent)

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first, once the chain was found whole.

        Raises:
            StorageError: see `verify`.
        """
        return [entry for entry, _ in self._checked()]

    def verify(self, *, expected_head: str | None = None) -> Head:
        """Check the chain from its first line to its last.

        Args:
            expected_head: a head digest that was kept elsewhere; the chain must have
                it at its end, or have grown from it.

        Raises:
            StorageError: the file cannot be read, a line does not follow from the one
                before (the first such line is named), or the chain has no line with
                the expected digest.
        """
        head, seen = Head(), expected_head in (None, START)
        for entry, digest in self._checked():
            head = Head(entry.number, digest)
            seen = seen or digest == expected_head
        if not seen:
            raise StorageError(
                f"{self.path} has no entry with the expected head "
                f"{str(expected_head)[:12]}, its own is {head.digest[:12]} after "
                f"{head.number} entries: lines were cut off, or the chain was made "
                "again; compare it with a backup"
            )
        return head

    def _checked(self) -> Iterator[tuple[Entry, str]]:
        """Yield each entry and its line's digest while the chain is whole."""
        with _reading(self.path):
            data = self.path.read_bytes() if self.path.exists() else b""
        lines = data.split(b"\n")
        torn = lines.pop()
        previous = START
        for number, line in enumerate(lines, 1):
            entry = _parse(line)
            if entry is None:
                raise self._broken(number, "its digest is not that of its text")
            if entry.number != number or entry.previous != previous:
                raise self._broken(number, f"it does not follow line {number - 1}")
            previous = line[:64].decode()
            yield entry, previous
        if torn:
            raise self._broken(
                len(lines) + 1,
                f"a kill left {len(torn)} bytes of it; the next entry mends that",
            )

    def _broken(self, number: int, why: str) -> StorageError:
        return StorageError(f"{self.path}: line {number} is broken: {why}")

    def _head(self, handle: int, end: int) -> Head:
        """Read the last whole line.

        Raises:
            StorageError: it is damaged.
        """
        if end == 0:
            return Head()
        start = max(0, end - MAX_LINE_BYTES)
        line = os.pread(handle, end - 1 - start, start).rpartition(b"\n")[2]
        entry = _parse(line)
        if entry is None:
            raise StorageError(
                f"the last line of {self.path} is damaged; keep the file elsewhere as "
                "evidence and remove it here: a new trail begins with the next act"
            )
        return Head(entry.number, line[:64].decode())

    def _line(
        self, head: Head, action: str, subject: str, digest: str, who: str | None
    ) -> tuple[bytes, Head]:
        """Make the line that follows a head; return it and the new head."""
        entry = Entry(
            number=head.number + 1,
            time=self._clock(),
            who=(who or operator())[:_MAX_TEXT],
            action=action,
            subject=subject[:_MAX_TEXT],
            digest=digest,
            previous=head.digest,
        )
        text = json.dumps(entry.model_dump(mode="json")).encode()  # ASCII
        found = hashlib.sha256(text).hexdigest()
        return f"{found} ".encode() + text + b"\n", Head(entry.number, found)


def trail_beside(folder: Path, *, clock: Clock = utc_now) -> Trail:
    """Open the trail of the storage folder that a folder lies in."""
    return Trail(StorageDir(folder.absolute().parent).trail, clock=clock)


def operator() -> str:
    """Name who runs this process: user@host."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)  # a container's user may have no name
    return f"{name}@{socket.gethostname()}"


def _tail(handle: int) -> tuple[int, bytes]:
    """Return where the last whole line ends, and what follows it."""
    size = os.fstat(handle).st_size
    start = max(0, size - MAX_LINE_BYTES)
    data = os.pread(handle, size - start, start)
    whole = data.rfind(b"\n") + 1
    if whole == 0:
        # No line is as long as that: the file is none of takt's, unless it is short.
        return (0, data) if start == 0 else (size, b"")
    return start + whole, data[whole:]


def _append(handle: int, end: int, line: bytes) -> int:
    """Write a line at the end, durably; return the new end.

    A disk that refuses leaves the file as it was.
    """
    faults.point("trail.before_write")
    try:
        rest, at = line, end
        while rest:
            written = os.pwrite(handle, rest, at)
            rest, at = rest[written:], at + written
        faults.point("trail.written")
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, end)
        raise
    faults.point("trail.synced")
    return at


def _parse(line: bytes) -> Entry | None:
    """Read a line whose digest is that of its text; None: it is damaged."""
    found, _, text = line.partition(b" ")
    if found != hashlib.sha256(text).hexdigest().encode():
        return None
    try:
        return Entry.model_validate_json(text)
    except ValidationError:
        return None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise StorageError(
            f"cannot read {path}: {e.strerror or e}; fix its permissions"
        ) from e
