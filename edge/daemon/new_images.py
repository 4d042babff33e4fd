"""Which of a node's own images its last distillation has not seen.

A cheap look at the folder of [data]: names, sizes and times of the image files, of
which none is opened. What a distillation began with is kept in the state folder, 8
bytes a file, so that a folder that loses old images while new ones arrive is followed
as well. The images of one that failed are kept apart: they stay new, and it is tried
again when one of them is mended or gone, or as many more have come as start one.
Not here: reading images (common.data), when to distil (edge/daemon/release_handler.py).
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config import OwnImagesConfig
from common.durable import write_atomic
from edge.state import Current, StateDir


@dataclass(frozen=True)
class Snapshot:
    """A node's own images at one moment.

    Attributes:
        table_sha256: of the table [data], hex; empty without one.
        files: a hash of each image file, sorted.
    """

    table_sha256: str
    files: NDArray[np.uint64]

    @property
    def files_sha256(self) -> str:
        """Digest the files, hex; empty for none."""
        data = self.files.tobytes()
        return hashlib.sha256(data).hexdigest() if data else ""


class NewImages:
    """The images of a node's folder, against those of its last distillation."""

    def __init__(self, config: OwnImagesConfig | None, state: StateDir) -> None:
        """Look at the folder of `config`, if it has one; nothing is read yet."""
        self._config = config
        self._seen, self._tried = state.seen_images, state.tried_images

    def look(self) -> Snapshot:
        """List the images that are there now; a folder that is away has none."""
        config = self._config
        if config is None:
            return Snapshot("", np.empty(0, np.uint64))
        table = config.model_dump_json(exclude={"retrain_after"}).encode()
        found = _hashes(config.folder) if config.folder else ()
        files = np.unique(np.fromiter(found, np.uint64))
        return Snapshot(hashlib.sha256(table).hexdigest(), files)

    def is_due(self, current: Current, *, any_new: bool) -> bool:
        """Tell whether the images ask for a distillation of a handled release.

        Args:
            current: what was handled last, and with which images.
            any_new: one image more, or less, is enough; else it takes `retrain_after`
                new ones, or of those that a distillation failed with one that is
                changed or gone. Another table [data] is enough in any case.
        """
        now = self.look()
        if now.table_sha256 != current.data_sha256:
            return True
        wanted = self._config.retrain_after if self._config else None
        if current.tried_sha256 is None:
            if any_new:
                return now.files_sha256 != current.images_sha256
            return wanted is not None and self.num_new(now, current) >= wanted
        if any_new or wanted is None:
            return any_new and now.files_sha256 != current.tried_sha256
        tried = _read(self._tried, current.tried_sha256)
        if tried is None or len(np.setdiff1d(tried, now.files)):
            return True
        return len(np.setdiff1d(now.files, tried)) >= wanted

    def num_new(self, now: Snapshot, current: Current) -> int:
        """Count files that are new or changed since the last one with a result."""
        seen = _read(self._seen, current.images_sha256)
        return len(now.files if seen is None else np.setdiff1d(now.files, seen))

    def keep(self, snapshot: Snapshot, *, has_failed: bool) -> None:
        """Note the images of a distillation, before current.json has their digest.

        Raises:
            StorageError: disk full or not writable.
        """
        path = self._tried if has_failed else self._seen
        if len(snapshot.files) or path.exists():
            write_atomic(path, snapshot.files.tobytes(), point="edge.seen")


def _read(path: Path, sha256: str) -> NDArray[np.uint64] | None:
    """Read a snapshot's files; None: a kill came before current.json named them."""
    data = b""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest() if data else ""
    return np.frombuffer(data, np.uint64) if found == sha256 else None


def _hashes(folder: Path) -> Iterator[int]:
    """Hash name, size and time of each image file in a folder's own folders."""
    from common.data.image_folder import SUFFIXES  # and with it PIL
    from common.data.listing import is_visible

    for inside in _entries(folder):
        if not is_visible(inside.name) or not _is_folder(inside):
            continue
        for entry in _entries(Path(inside.path)):
            is_named = Path(entry.name).suffix.lower() in SUFFIXES
            if not is_named or not is_visible(entry.name):
                continue
            with contextlib.suppress(OSError):  # removed in between
                status = entry.stat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                text = f"{inside.name}/{entry.name} {status.st_size} "
                key = f"{text}{status.st_mtime_ns}".encode(errors="surrogateescape")
                digest = hashlib.blake2b(key, digest_size=8).digest()
                yield int.from_bytes(digest, "little")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Tell a folder; a link that leads nowhere, or to itself, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from entries
