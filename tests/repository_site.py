"""A release repository, what is published in it, and a TUF client that pulls."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    DownloadHTTPError,
)
from tuf.ngclient import FetcherInterface, Updater

from cloud.repository import ReleaseRepository
from common.config import AttackConfig, StudentConfig
from common.knowledge import Manifest, ShardInfo, TeacherCard

SHARD = b"s" * 1000


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
    shard = ShardInfo(
        path="margins-0.safetensors",
        content="margins",
        first=0,
        num_samples=4,
        num_bytes=len(SHARD),
        sha256=hashlib.sha256(SHARD).hexdigest(),
    )
    recipe = StudentConfig(
        model="cnn_tiny", epochs=2, attack=AttackConfig(steps=2, step_size=0.1)
    )
    fields: dict[str, Any] = {
        "channel": channel,
        "version": 1,
        "dataset": "digits",
        "fingerprint": "0" * 64,
        "num_samples": 4,
        "sample_shape": (1, 8, 8),
        "class_names": ("0", "1"),
        "norm": "Linf",
        "eps": 0.15,
        "temperature": 1.0,
        "seed": 0,
        "val_fraction": 0.1,
        "limit": None,
        "image_size": None,
        "teacher": TeacherCard(
            architecture="cnn_large",
            num_parameters=1,
            weights_sha256="0" * 64,
            clean_accuracy=0.9,
            robust=(),
        ),
        "students": {"tiny": recipe},
        "node_attack_steps": 3,
        "node_attack_step_size": 0.1,
        "shards": (shard,),
    }
    return Manifest(**{**fields, **changes})


def knowledge_in(folder: Path) -> Path:
    """Write the one shard that a draft is of."""
    (folder / "knowledge").mkdir(parents=True)
    (folder / "knowledge" / "margins-0.safetensors").write_bytes(SHARD)
    return folder / "knowledge"


def repository_in(folder: Path) -> ReleaseRepository:
    """Make a repository and its keys."""
    repository = ReleaseRepository(folder / "repository", folder / "keys")
    repository.create()
    return repository
