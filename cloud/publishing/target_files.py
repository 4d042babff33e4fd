"""The files of releases in the repository, each under its digest's name.

    <channel>/<version>/<sha256>.manifest.json, shards and weights there
    <channel>/<sha256>.channel.json

Not here: which files there are, which signed metadata say (`tuf_metadata`).
"""

import shutil
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets

from common.durable import make_folder, write_atomic
from common.errors import StorageError


class TargetFiles:
    """The files in one folder."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`."""
        self.folder = folder

    def add(self, targets: Targets, path: str, data: bytes, point: str) -> None:
        """Write a file under its consistent-snapshot name, and list it.

        Raises:
            StorageError: the disk refuses.
        """
        target = TargetFile.from_data(path, data, ["sha256"])
        place = self._place(target)
        make_folder(place.parent)
        write_atomic(place, data, point=point)
        targets.targets[path] = target

    def read(self, target: TargetFile, fix: str) -> bytes:
        """Read a file that metadata list: the bytes that were listed, or none.

        Args:
            target: which, with its length and digests.
            fix: what to do about a file that is missing or differs.

        Raises:
            StorageError: it cannot be read, or differs.
        """
        place = self._place(target)
        try:
            data = place.read_bytes()
            target.verify_length_and_hashes(data)
        except OSError as e:
            raise StorageError(f"cannot read {place}: {e.strerror}; {fix}") from e
        except LengthOrHashMismatchError as e:
            raise StorageError(
                f"{place} is not the file that was listed: {e}; {fix}"
            ) from e
        return data

    def check(self, targets: Targets) -> None:
        """Check that every listed file is here as it was listed.

        Raises:
            StorageError: one is missing or differs.
        """
        for target in targets.targets.values():
            self.read(target, "publish again")

    def drop(self, prefix: str) -> None:
        """Remove the folder of a release, if it is there."""
        shutil.rmtree(self.folder / prefix, ignore_errors=True)

    def drop_unlisted(self, before: Targets, after: Targets) -> None:
        """Remove the folders of releases that are listed no more."""
        for prefix in _folders(before) - _folders(after):
            self.drop(prefix)

    def _place(self, target: TargetFile) -> Path:
        folder, _, name = target.path.rpartition("/")
        return self.folder / folder / f"{target.hashes['sha256']}.{name}"


def _folders(targets: Targets) -> set[str]:
    """Name the folders of releases, <channel>/<version>."""
    return {path.rpartition("/")[0] for path in targets.targets if path.count("/") > 1}
