"""Verified repository files, kept by digest; nothing verified is pulled twice.

A file is pulled into ``<sha256>.part``, resumed there after any cut or kill, checked
against its signed length and hashes, synced and renamed to ``<sha256>``. A file that
is there already is checked again before use, so bit-rot causes one more
pull. Not here: where the signed lengths come from (edge/releases/sync.py).
"""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from common import faults
from common.durable import fsync_folder, storage_error, storing
from common.errors import TrustError, one_line
from edge.link.client import Link

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Cache:
    """Files by digest, filled over a link."""

    def __init__(self, folder: Path, link: Link) -> None:
        """Use an existing folder."""
        self._folder = folder
        self._link = link

    def get(
        self,
        target: TargetFile,
        *,
        on_bytes: Callable[[int], None] = lambda num_bytes: None,
    ) -> Path:
        """Return a verified copy of a target, pulling what is missing of it.

        Args:
            target: with the signed length and hashes.
            on_bytes: called with the size of each piece, cached ones included.

        Raises:
            TrustError: what came is not what was signed, or longer; or it is signed
                without a sha256, or with one that is none.
            LinkError: the gateway could not be reached within the deadline.
            StorageError: the disk is full or broken; what was pulled is kept.
        """
        digest = _digest_of(target)
        path = self._folder / digest
        with storing(path):
            if path.exists():
                if _mismatch(target, path) is None:
                    on_bytes(target.length)
                    return path
                path.unlink()  # bit-rot
        part = self._folder / f"{digest}.part"
        for last in (False, True):
            self._pull(target, digest, part, on_bytes)
            problem = _mismatch(target, part)
            if problem is None:
                break
            with storing(part):
                part.unlink()
            if last:
                raise TrustError(
                    f"{target.path} is not what was signed ({problem}), also when "
                    "pulled again; the release is refused"
                )
        with storing(path):
            _sync_file(part)
            faults.point("edge.cache.before_rename")
            part.replace(path)
            fsync_folder(self._folder)
            faults.point("edge.cache.after_rename")
        return path

    def prune(self, keep: set[str]) -> None:
        """Remove everything but the digests in `keep` and their partial files."""
        with contextlib.suppress(OSError):
            for entry in self._folder.iterdir():
                if entry.name.removesuffix(".part") not in keep:
                    entry.unlink(missing_ok=True)

    def _pull(
        self,
        target: TargetFile,
        digest: str,
        part: Path,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Complete `part`, from the length it has."""
        folder, _, name = target.path.rpartition("/")
        remote = f"targets/{folder}/{digest}.{name}"
        # Unbuffered: after a kill or a full disk the length is what was written.
        with storing(part), part.open("ab", buffering=0) as file:
            if file.tell() > target.length:
                file.truncate(0)
                file.seek(0)
            offset = file.tell()
            on_bytes(offset)
            if offset == target.length:
                return
            for chunk in self._link.fetch(
                remote, offset=offset, max_bytes=target.length
            ):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
                faults.point("edge.part.written")
                on_bytes(len(chunk))


def _digest_of(target: TargetFile) -> str:
    """Return the signed sha256, which names files: nothing but a digest may."""
    digest = target.hashes.get("sha256")
    if digest is None:
        raise TrustError(f"{target.path} is signed without a sha256; refused")
    if not _DIGEST.fullmatch(digest):
        raise TrustError(
            f"{target.path} is signed with the sha256 {digest[:80]!r}, expected 64 "
            "digits of 0-9 and a-f; refused"
        )
    return digest


def _mismatch(target: TargetFile, path: Path) -> str | None:
    """Describe how a file differs from what was signed; None when it does not."""
    try:
        with path.open("rb") as file:
            target.verify_length_and_hashes(file)
    except LengthOrHashMismatchError as e:
        return one_line(e, 1000)
    except OSError as e:
        raise storage_error(e, path) from e
    return None


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
