"""ReleaseService: the repository's files, resumable, and notices of new releases.

Files are sent as they are: a node trusts the signatures in them, not this service.
Nothing outside metadata/ and targets/ can be named, links are not followed. Not here:
who may call (`cloud.gateway.authorization`), and the bandwidth cap, which the node
holds.
"""

import asyncio
import contextlib
import logging
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

from cloud.errors import BadRequestError, MissingFileError, OffsetError
from cloud.gateway.interceptor import Context
from cloud.publishing.repository import ReleaseRepository
from common.errors import StorageError, TaktError
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 64 * 1024  # half a second of the slowest default node's bandwidth
READ_BYTES = 256 * 1024  # one trip to the disk
POLL_S = 0.25
MAX_PATH = 512
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ROOTS = ("metadata", "targets")


@contextlib.contextmanager
def open_inside(root: Path, path: str) -> Iterator[tuple[int, int]]:
    """Open a repository file by its relative path; yield descriptor and bytes.

    Raises:
        BadRequestError: the path is absolute, climbs, is too long or is not made of
            plain names below metadata/ or targets/.
        MissingFileError: there is no such plain file, or a link is in the way.
    """
    parts = path.split("/")
    plain = len(path) <= MAX_PATH and all(_PART.fullmatch(part) for part in parts)
    if not plain or len(parts) < 2 or parts[0] not in _ROOTS:
        raise BadRequestError(
            f"path {path[:120]!r}: expected plain names below metadata/ or targets/, "
            "for instance metadata/timestamp.json"
        )
    with contextlib.ExitStack() as opened:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, handle)
            for part in parts:
                handle = os.open(part, flags, dir_fd=handle)
                opened.callback(os.close, handle)
            status = os.fstat(handle)
        except OSError as e:
            raise MissingFileError(
                f"the repository has no file {path!r} ({e.strerror})"
            ) from e
        if not stat.S_ISREG(status.st_mode):
            raise MissingFileError(f"the repository has no plain file {path!r}")
        yield handle, status.st_size


class VersionFeed:
    """The newest version of each channel, kept up to date for all watchers."""

    def __init__(self, repository: ReleaseRepository) -> None:
        """Watch `repository`; nothing is read before `refresh`."""
        self._repository = repository
        self._seen: tuple[int, int, int] | None = None
        self._versions: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self.closed = False

    def version(self, channel: str) -> int:
        """Return the newest version of a channel; 0: no release yet."""
        return self._versions.get(channel, 0)

    async def refresh(self) -> None:
        """Read the signed metadata if it has changed since the last time."""
        path = self._repository.root / "metadata" / "timestamp.json"
        try:
            status = path.stat()
        except FileNotFoundError:
            return
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return
        versions = await asyncio.to_thread(self._repository.versions)
        self._seen = seen
        if versions != self._versions:
            self._versions = versions
            async with self._changed:
                self._changed.notify_all()

    async def run(self) -> NoReturn:
        """Refresh four times a second, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.refresh()
            except (TaktError, OSError) as e:
                logger.error("cannot read the release repository: %s", e)
                await asyncio.sleep(10)

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

    def __init__(self, root: Path, feed: VersionFeed) -> None:
        """Serve the repository in `root`."""
        self._root = root
        self._feed = feed

    async def Fetch(
        self, request: pb.FetchRequest, context: Context
    ) -> AsyncIterator[pb.FetchResponse]:
        """Stream a file from an offset on; at least one message, maybe empty.

        A file that is replaced meanwhile is streamed to its end as it was opened.
        """
        offset = request.offset
        with open_inside(self._root, request.path) as (handle, total):
            if offset > total:
                raise OffsetError(
                    f"{request.path} has {total} bytes, asked for offset {offset}"
                )
            if offset == total:
                yield pb.FetchResponse(offset=offset, total_bytes=total)
            while offset < total:
                data = await asyncio.to_thread(
                    os.pread, handle, min(READ_BYTES, total - offset), offset
                )
                if not data:
                    raise StorageError(
                        f"{self._root / request.path} was cut to {offset} bytes while "
                        f"it was read, expected {total}"
                    )
                for start in range(0, len(data), MESSAGE_BYTES):
                    piece = data[start : start + MESSAGE_BYTES]
                    yield pb.FetchResponse(data=piece, offset=offset, total_bytes=total)
                    offset += len(piece)

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
