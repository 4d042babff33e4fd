"""A release repository, what is published in it, and a TUF client that pulls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import release_drafts
from release_drafts import shard_of
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from cloud.publishing.repository import ReleaseRepository
from common.release import Manifest

SHARD = b"s" * 1000
_INFO = shard_of("deltas", SHARD, num_samples=4)


class Files(FetcherInterface):
    """Fetches from the file system, as a gateway would."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield Path(url).read_bytes()
        except FileNotFoundError as e:
            raise DownloadHTTPError(url, 404) from e


class Node:
    """A TUF client with its own trusted metadata."""

    def __init__(self, folder: Path, repository: ReleaseRepository) -> None:
        """Trust what the repository's root is now."""
        self.folder = folder
        self.root = repository.root
        self.root_json = repository.root_json()
        (folder / "metadata").mkdir(parents=True)
        (folder / "targets").mkdir()

    def updater(self) -> Updater:
        """Make a client that has not looked yet."""
        return Updater(
            str(self.folder / "metadata"),
            str(self.root / "metadata"),
            str(self.folder / "targets"),
            str(self.root / "targets"),
            fetcher=Files(),
            bootstrap=self.root_json,
        )

    def pull(self, path: str) -> bytes:
        """Refresh, then fetch and verify one target."""
        updater = self.updater()
        updater.refresh()
        info = updater.get_targetinfo(path)
        assert info is not None, f"{path} is not listed"
        return Path(updater.download_target(info)).read_bytes()

    def version(self) -> int:
        """Return the version that the signed pointer names."""
        return int(json.loads(self.pull("digits/channel.json"))["version"])


def draft(channel: str = "digits", **changes: Any) -> Manifest:
    """Make a manifest of the one shard that `knowledge_in` writes."""
    return release_drafts.draft(**{"channel": channel, "shards": (_INFO,), **changes})


def knowledge_in(folder: Path) -> Path:
    """Write the one shard that a draft is of."""
    (folder / "knowledge").mkdir(parents=True)
    (folder / "knowledge" / _INFO.path).write_bytes(SHARD)
    return folder / "knowledge"


def repository_in(folder: Path) -> ReleaseRepository:
    """Make a repository and its keys."""
    repository = ReleaseRepository(folder / "repository", folder / "keys")
    repository.create()
    return repository


def only(folder: Path, pattern: str) -> Path:
    """Find the one file of a pattern below a folder."""
    (path,) = folder.rglob(pattern)
    return path


def newest(folder: Path, name: str) -> Path:
    """Find the metadata file of a role with the highest version."""
    found = folder.glob(f"*.{name}.json")
    return max(found, key=lambda path: int(path.name.partition(".")[0]))
