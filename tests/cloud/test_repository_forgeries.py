"""Files that are not what was signed: a TUF client refuses them."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from repository_site import (
    SHARD,
    Node,
    draft,
    newest,
    only,
)
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)

from cloud.publishing.repository import ReleaseRepository
from common.errors import StorageError


def test_a_flipped_byte_in_a_shard_is_refused(
    repository: ReleaseRepository, knowledge: Path, node: Node
) -> None:
    manifest = repository.publish(draft(), knowledge)
    shard = only(repository.root / "targets", "*.deltas-0.safetensors")
    shard.write_bytes(b"t" + SHARD[1:])
    with pytest.raises(LengthOrHashMismatchError):
        node.pull(manifest.shards[0].path)


def test_a_shard_longer_than_declared_is_cut_off(
    repository: ReleaseRepository, knowledge: Path, node: Node
) -> None:
    manifest = repository.publish(draft(), knowledge)
    shard = only(repository.root / "targets", "*.deltas-0.safetensors")
    shard.write_bytes(SHARD + b"x")
    with pytest.raises(DownloadLengthMismatchError):
        node.pull(manifest.shards[0].path)


@pytest.mark.parametrize("name", ["targets", "snapshot", "timestamp"])
def test_a_flipped_byte_in_metadata_is_refused(
    repository: ReleaseRepository, knowledge: Path, node: Node, name: str
) -> None:
    repository.publish(draft(), knowledge)
    folder = repository.root / "metadata"
    path = folder / "timestamp.json" if name == "timestamp" else newest(folder, name)
    data = path.read_bytes()
    at = data.index(b'"version": ') + len(b'"version": ')
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(RepositoryError):
        node.version()


def test_an_older_repository_served_again_is_refused(
    repository: ReleaseRepository, knowledge: Path, node: Node, tmp_path: Path
) -> None:
    repository.publish(draft(), knowledge)
    shutil.copytree(repository.root, tmp_path / "old")
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2
    shutil.rmtree(repository.root)
    shutil.copytree(tmp_path / "old", repository.root)
    with pytest.raises(BadVersionNumberError):
        node.version()


def test_targets_of_another_time_are_refused(
    repository: ReleaseRepository, knowledge: Path, node: Node
) -> None:
    repository.publish(draft(), knowledge)
    old = newest(repository.root / "metadata", "targets").read_bytes()
    repository.publish(draft(), knowledge, force=True)
    newest(repository.root / "metadata", "targets").write_bytes(old)
    with pytest.raises(RepositoryError):
        node.version()


def test_metadata_of_a_stranger_is_refused(
    repository: ReleaseRepository, knowledge: Path, node: Node, tmp_path: Path
) -> None:
    stranger = ReleaseRepository(tmp_path / "other", tmp_path / "other-keys")
    stranger.create()
    stranger.publish(draft(), knowledge)
    node.root = stranger.root
    with pytest.raises((RepositoryError, DownloadError)):
        node.version()


def test_stale_signatures_are_refused_until_they_are_refreshed(
    tmp_path: Path, knowledge: Path
) -> None:
    now = datetime.now(UTC)
    past = ReleaseRepository(
        tmp_path / "r", tmp_path / "k", clock=lambda: now - timedelta(days=2)
    )
    past.create()
    past.publish(draft(), knowledge)
    node = Node(tmp_path / "node", past)
    with pytest.raises(ExpiredMetadataError):
        node.version()
    present = ReleaseRepository(tmp_path / "r", tmp_path / "k")
    assert present.refresh().signed
    assert node.version() == 1


@pytest.mark.parametrize("role", ["targets", "snapshot"])
def test_older_metadata_under_a_newer_name_is_never_signed_again(
    repository: ReleaseRepository, knowledge: Path, role: str
) -> None:
    repository.publish(draft(), knowledge)
    folder = repository.root / "metadata"
    old = newest(folder, role).read_bytes()
    repository.publish(draft(), knowledge, force=True)
    newest(folder, role).write_bytes(old)
    with pytest.raises(StorageError, match="is damaged"):
        repository.publish(draft(), knowledge, force=True)
