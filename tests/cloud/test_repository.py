"""The release repository, as python-tuf's own client finds it."""

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from repository_site import (
    SHARD,
    Node,
    draft,
    newest,
)

from cloud.publishing.repository import KEEP_RELEASES, ReleaseRepository
from cloud.publishing.tuf_metadata import KEEP_VERSIONS
from common.errors import ConfigError, StorageError, TrustError
from common.release import Manifest


def test_a_node_pulls_what_was_published(
    repository: ReleaseRepository, knowledge: Path, node: Node
) -> None:
    manifest = repository.publish(draft(), knowledge)
    assert node.version() == manifest.version == 1
    assert node.pull(manifest.shards[0].path) == SHARD
    assert Manifest.model_validate_json(node.pull("digits/1/manifest.json")) == manifest


def test_versions_of_a_channel_go_up_by_one(
    repository: ReleaseRepository, knowledge: Path, node: Node
) -> None:
    for expected in (1, 2, 3):
        repository.publish(draft(), knowledge, force=True)
        assert node.version() == expected


def test_channels_count_for_themselves(
    repository: ReleaseRepository, knowledge: Path
) -> None:
    repository.publish(draft("digits"), knowledge)
    repository.publish(draft("digits"), knowledge, force=True)
    repository.publish(draft("mnist"), knowledge)
    assert repository.versions() == {"digits": 2, "mnist": 1}


def test_publishing_the_same_again_changes_nothing(
    repository: ReleaseRepository, knowledge: Path
) -> None:
    first = repository.publish(draft(), knowledge)
    before = sorted(p.name for p in repository.root.rglob("*"))
    assert repository.publish(draft(), knowledge) == first
    assert sorted(p.name for p in repository.root.rglob("*")) == before


def test_a_changed_recipe_is_a_new_version(
    repository: ReleaseRepository, knowledge: Path
) -> None:
    repository.publish(draft(), knowledge)
    assert repository.publish(draft(eps=0.2), knowledge).version == 2


def test_an_old_release_stays_pullable(
    repository: ReleaseRepository, knowledge: Path, node: Node
) -> None:
    first = repository.publish(draft(), knowledge)
    repository.publish(draft(), knowledge, force=True)
    assert node.pull(first.shards[0].path) == SHARD
    assert repository.manifest("digits", 1) == first


def test_old_releases_and_metadata_do_not_pile_up(
    repository: ReleaseRepository, knowledge: Path, node: Node
) -> None:
    for _ in range(KEEP_RELEASES + 2):
        repository.publish(draft(), knowledge, force=True)
    for _ in range(KEEP_VERSIONS):
        repository.publish(draft("mnist"), knowledge, force=True)
    releases = (repository.root / "targets" / "digits").glob("*/")
    assert {int(p.name) for p in releases if p.is_dir()} == set(
        range(3, KEEP_RELEASES + 3)
    )
    assert len(list((repository.root / "metadata").glob("*.targets.json"))) == (
        KEEP_VERSIONS
    )
    assert node.version() == KEEP_RELEASES + 2
    with pytest.raises(ConfigError, match="has no release 1"):
        repository.manifest("digits", 1)


def test_everything_is_signed_again_before_it_expires(
    tmp_path: Path, knowledge: Path
) -> None:
    now = datetime.now(UTC)
    past = ReleaseRepository(
        tmp_path / "r", tmp_path / "k", clock=lambda: now - timedelta(days=300)
    )
    past.create()
    past.publish(draft(), knowledge)
    node = Node(tmp_path / "node", past)
    done = ReleaseRepository(tmp_path / "r", tmp_path / "k").refresh()
    assert set(done.signed) == {"timestamp", "snapshot", "targets", "root"}
    future = json.loads(ReleaseRepository(tmp_path / "r", tmp_path / "k").root_json())
    assert future["signed"]["expires"] > f"{now + timedelta(days=300):%Y-%m-%d}"
    assert node.version() == 1


def test_fresh_signatures_are_left_alone(repository: ReleaseRepository) -> None:
    assert repository.refresh().signed == ()
    assert repository.refresh(force=True).signed == ("timestamp",)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_a_node_that_slept_through_three_rotations_catches_up(
    repository: ReleaseRepository, knowledge: Path, node: Node, role: str
) -> None:
    repository.publish(draft(), knowledge)
    assert node.version() == 1
    for _ in range(3):
        repository.rotate(role)
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2


def test_an_unknown_role_is_named(repository: ReleaseRepository) -> None:
    with pytest.raises(ConfigError, match="'mirrors': expected one of root"):
        repository.rotate("mirrors")


def test_two_publishers_at_once_get_versions_of_their_own(
    repository: ReleaseRepository, knowledge: Path, tmp_path: Path, node: Node
) -> None:
    versions: list[int] = []

    def publish() -> None:
        mine = ReleaseRepository(tmp_path / "repository", tmp_path / "keys")
        versions.append(mine.publish(draft(), knowledge, force=True).version)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == [1, 2, 3, 4]
    assert node.version() == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"t" + SHARD[1:], "digest 380a"),
        (b"v" + SHARD[1:], "digest d32e"),
        (SHARD[:-1], "999 bytes"),
    ],
    ids=["missing", "of a smaller digest", "of a larger digest", "cut"],
)
def test_a_shard_that_is_not_what_was_extracted_is_not_signed(
    repository: ReleaseRepository,
    knowledge: Path,
    content: bytes | None,
    message: str,
) -> None:
    path = knowledge / "deltas-0.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StorageError, match=f"{message}.*extract the knowledge again"):
        repository.publish(draft(), knowledge)
    assert repository.versions() == {}


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/b", ".hidden", "a\0b", ""])
def test_a_shard_name_that_leaves_the_folder_is_refused(
    repository: ReleaseRepository, knowledge: Path, path: str
) -> None:
    shard = draft().shards[0].model_copy(update={"path": path})
    with pytest.raises(StorageError, match="expected a plain file name"):
        repository.publish(draft(shards=(shard,)), knowledge)


def test_a_manifest_with_holes_is_never_signed(
    repository: ReleaseRepository, knowledge: Path
) -> None:
    with pytest.raises(TrustError, match="hold 4 samples, expected 5"):
        repository.publish(draft(num_samples=5), knowledge)
    assert repository.versions() == {}


@pytest.mark.parametrize("channel", ["", "../x", "A", "a/b", "a" * 64])
def test_what_is_no_channel_is_refused(
    repository: ReleaseRepository, knowledge: Path, channel: str
) -> None:
    with pytest.raises(ConfigError, match="channel"):
        repository.publish(draft(channel), knowledge)


def test_the_copy_of_the_root_beside_the_keys_is_the_newest_one(
    repository: ReleaseRepository, tmp_path: Path
) -> None:
    for _ in range(6):  # whichever way the bytes of one differ from those of the next
        repository.rotate("timestamp")
        copy = tmp_path / "keys" / "root.json"
        assert copy.read_bytes() == repository.root_json()


def test_signing_keys_are_for_their_owner_only(
    repository: ReleaseRepository, tmp_path: Path
) -> None:
    keys = list((tmp_path / "keys").iterdir())
    assert len([key for key in keys if key.suffix == ".pem"]) == 4
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert not list(repository.root.rglob("*.pem"))


def test_reading_needs_no_keys_and_publishing_says_so(
    repository: ReleaseRepository, knowledge: Path, tmp_path: Path
) -> None:
    repository.publish(draft(), knowledge)
    reader = ReleaseRepository(tmp_path / "repository", tmp_path / "none")
    assert reader.versions() == {"digits": 1}
    with pytest.raises(StorageError, match="where the keys are"):
        reader.publish(draft(), knowledge, force=True)


def test_damaged_metadata_is_one_line(repository: ReleaseRepository) -> None:
    newest(repository.root / "metadata", "snapshot").write_bytes(b"{")
    with pytest.raises(StorageError, match=r"is damaged.*from a backup"):
        repository.versions()


def test_no_repository_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*timestamp\.json"):
        ReleaseRepository(tmp_path / "r", tmp_path / "k").versions()
