"""ReleaseService: the repository's files, resumable, and notices of new releases.

Files are sent as they are: a node trusts the signatures in them, not this service.
Nothing outside metadata/ and targets/ can be named, links are not followed. Not here:
who may call (`cloud.gateway.authorization`), and the bandwidth cap, which the node
holds.
"""

import asyncio
import contextlib
import errno
import logging
import math
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

from cloud.errors import BadRequestError, MissingFileError, OffsetError
from cloud.gateway.peers import Context
from cloud.gateway.traffic import Traffic
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.roles import TIMESTAMP_FILE
from common.errors import StorageError, TaktError
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc

logger = logging.getLogger(__name__)

# Of a file in one message: the least suits a slow line, which loses at most one by a
# cut; a node with a fast one asks for more, which costs both sides less.
MESSAGE_BYTES, MAX_MESSAGE_BYTES = 64 * 1024, 1024 * 1024
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux has it
POLL_S = 0.25
RETRY_S = 10.0  # until what could not be read is read again
MAX_PATH = 512
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ROOTS = ("metadata", "targets")
# No such file; all else may pass, and a node is told to try again.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextlib.contextmanager
def open_inside(
    root: Path, path: str, *, opening: Callable[..., int] = os.open
) -> Iterator[tuple[int, int]]:
    """Open a repository file by its relative path; yield descriptor and bytes.

    Args:
        root: of the repository.
        path: relative, with "/" between its parts.
        opening: as `os.open`.

    Raises:
        BadRequestError: the path is absolute, climbs, is too long or is not made of
            plain names below metadata/ or targets/.
        MissingFileError: there is no such plain file, or a link is in the way.
        StorageError: the disk refuses, or no more files may be opened.
    """
    parts = path.split("/")
    plain = len(path) <= MAX_PATH and all(_PART.fullmatch(part) for part in parts)
    if not plain or len(parts) < 2 or parts[0] not in _ROOTS:
        raise BadRequestError(
            f"path {path[:120]!r}: expected plain names below metadata/ or targets/, "
            "for instance metadata/timestamp.json"
        )
    try:
        folder = opening(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise _refused(root, e) from e
    try:
        handle = _descend(folder, parts, opening)
    except OSError as e:
        if e.errno not in _ABSENT:
            raise _refused(root / path, e) from e
        raise MissingFileError(
            f"the repository has no file {path!r} ({e.strerror})"
        ) from e
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise MissingFileError(f"the repository has no plain file {path!r}")
        yield handle, status.st_size
    finally:
        os.close(handle)


def _descend(handle: int, parts: list[str], opening: Callable[..., int]) -> int:
    """Open what lies below an open folder, part by part; the folders are closed."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for part in parts:
        try:
            child = opening(part, flags, dir_fd=handle)
        finally:
            os.close(handle)
        handle = child
    return handle


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot read {path}: {error.strerror}; fix the disk, the permissions or how "
        "many files may be open"
    )


def _read_cached(handle: int, length: int, offset: int) -> bytes | None:
    """Read bytes that are in memory, maybe fewer; None where the disk is needed.

    A trip to a thread costs a fifth of what sending 256 KiB does.
    """
    if not _NOWAIT:
        return None
    buffer = bytearray(length)
    try:
        found = os.preadv(handle, [buffer], offset, _NOWAIT)
    except OSError:  # not in memory, or the filesystem cannot tell
        return None
    return bytes(memoryview(buffer)[:found])


class VersionFeed:
    """The newest version of each channel, kept up to date for all watchers.

    A channel whose pointer is damaged keeps the version that it had.
    """

    def __init__(
        self, repository: ReleaseRepository, *, retry_s: float = RETRY_S
    ) -> None:
        """Watch `repository`; nothing is read before `refresh`.

        Args:
            repository: that is watched.
            retry_s: until a damaged channel is read again, if nothing is signed
                before.
        """
        self._repository = repository
        self._retry_s = retry_s
        self._damaged: dict[str, str] = {}  # channels, each with the reason
        self._again_s = math.inf  # of the loop's clock
        self._seen: tuple[int, int, int] | None = None
        self._versions: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self.closed = False

    def version(self, channel: str) -> int:
        """Return the newest version of a channel; 0: no release yet."""
        return self._versions.get(channel, 0)

    async def refresh(self) -> None:
        """Read the signed metadata if it has changed since the last time.

        Raises:
            OSError: the repository's folder cannot be read.
            StorageError: the metadata are damaged.
        """
        path = self._repository.root / "metadata" / TIMESTAMP_FILE
        try:
            status = path.stat()
        except FileNotFoundError:
            return
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        now_s = asyncio.get_running_loop().time()
        if seen == self._seen and now_s < self._again_s:
            return
        read = self._repository.readable_versions
        versions, damaged = await asyncio.to_thread(read)
        self._seen = seen
        self._again_s = now_s + self._retry_s if damaged else math.inf
        self._note({channel: str(error) for channel, error in damaged.items()})
        for channel in damaged.keys() & self._versions.keys():
            versions[channel] = self._versions[channel]
        if versions != self._versions:
            self._versions = versions
            async with self._changed:
                self._changed.notify_all()

    def _note(self, damaged: dict[str, str]) -> None:
        """Log what has become of each channel, once."""
        for channel, reason in damaged.items():
            if reason != self._damaged.get(channel):
                logger.error("channel '%s' has no new releases: %s", channel, reason)
        for channel in self._damaged.keys() - damaged.keys():
            logger.info("channel '%s' can be read again", channel)
        self._damaged = damaged

    async def run(self) -> NoReturn:
        """Refresh four times a second, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.refresh()
            except (TaktError, OSError) as e:
                logger.error("cannot read the release repository: %s", e)
                await asyncio.sleep(RETRY_S)

    async def wait_for_other(self, channel: str, version: int) -> int | None:
        """Wait until a channel's version is another one; None: the feed was closed."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.closed or self.version(channel) != version
            )
        return None if self.closed else self.version(channel)

    async def close(self) -> None:
        """End the wait of every watcher."""
        self.closed = True
        async with self._changed:
            self._changed.notify_all()


class ReleaseServicer(takt_pb2_grpc.ReleaseServiceServicer):
    """Serve the files of a repository and the versions of a feed."""

    def __init__(self, root: Path, feed: VersionFeed, traffic: Traffic) -> None:
        """Serve the repository in `root`; count the bytes in `traffic`."""
        self._root = root
        self._traffic = traffic
        self._feed = feed

    async def Fetch(
        self, request: pb.FetchRequest, context: Context
    ) -> AsyncIterator[pb.FetchResponse]:
        """Stream a file from an offset on; at least one message, maybe empty.

        A file that is replaced meanwhile is streamed to its end as it was opened.
        """
        offset = request.offset
        size = min(max(request.message_bytes, MESSAGE_BYTES), MAX_MESSAGE_BYTES)
        with open_inside(self._root, request.path) as (handle, total):
            if offset > total:
                raise OffsetError(
                    f"{request.path} has {total} bytes, asked for offset {offset}"
                )
            if offset == total:
                yield pb.FetchResponse(offset=offset, total_bytes=total)
            while offset < total:
                length = min(size, total - offset)
                data = _read_cached(handle, length, offset)
                if data is None:  # a thread waits for the disk, not the loop
                    data = await asyncio.to_thread(os.pread, handle, length, offset)
                if not data:
                    raise StorageError(
                        f"{self._root / request.path} was cut to {offset} bytes while "
                        f"it was read, expected {total}"
                    )
                yield pb.FetchResponse(data=data, offset=offset, total_bytes=total)
                offset += len(data)
                self._traffic.sent_bytes += len(data)

    async def Watch(
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        """Send each version other than the known one, until the gateway stops."""
        known = request.known_version
        if not _PART.fullmatch(request.channel) or len(request.channel) > 63:
            raise BadRequestError(f"channel {request.channel[:80]!r} is not a name")
        while True:
            version = await self._feed.wait_for_other(request.channel, known)
            if version is None:
                return
            known = version
            yield pb.WatchResponse(channel=request.channel, version=version)
