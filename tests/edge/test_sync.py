"""Pulling a release: only what was signed, only once, and never half."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chaos_proxy import ChaosProxy
from clocks import ClockOfWaits
from edge_site import CHANNEL, EdgeSite, edge_site, recipe
from waiting import until

from cloud.publishing.repository import ReleaseRepository
from common.errors import ConfigError, LinkError, StorageError, TrustError
from common.release import Manifest, ShardInfo
from edge.config import EdgeConfig
from edge.releases.sync import ReleaseSync


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EdgeSite]:
    with edge_site(tmp_path) as site:
        yield site


@pytest.fixture
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


def pull(sync: ReleaseSync, student: str = "tiny") -> Path:
    release = sync.check()
    assert release is not None
    return sync.pull(release, student, lambda state, progress: None)


def stored(site: EdgeSite, shard: ShardInfo) -> Path:
    """Find a shard's file in the repository."""
    folder, _, name = shard.path.rpartition("/")
    return site.repository.targets / folder / f"{shard.sha256}.{name}"


def the_deltas(manifest: Manifest) -> ShardInfo:
    return next(s for s in manifest.shards if s.content == "deltas")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_only_the_shards_that_the_recipe_reads_are_pulled(
    site: EdgeSite, node: EdgeConfig
) -> None:
    manifest = site.publish_noise(
        students={"tiny": recipe(), "soft": recipe(method="rslad")}
    )
    with site.syncing(node) as (link, sync):
        folder = pull(sync, "soft")
        assert {p.name for p in folder.iterdir()} == {
            "manifest.json",
            "soft_labels-0.safetensors",
        }
        soft_bytes = link.pulled_bytes
        assert soft_bytes < the_deltas(manifest).num_bytes
        folder = pull(sync, "tiny")
        assert (folder / "deltas-0.safetensors").exists()


def test_nothing_is_pulled_twice(site: EdgeSite, node: EdgeConfig) -> None:
    site.publish_noise()
    with site.syncing(node) as (link, sync):
        pull(sync)
        before = link.pulled_bytes
        pull(sync)
        again = link.pulled_bytes - before
    timestamp = site.repository.root / "metadata" / "timestamp.json"
    assert again == timestamp.stat().st_size


def test_a_shard_that_two_releases_share_is_pulled_once(
    site: EdgeSite, node: EdgeConfig
) -> None:
    manifest = site.publish_noise()
    with site.syncing(node) as (link, sync):
        pull(sync)
        before = link.pulled_bytes
        assert site.publish_noise().version == manifest.version + 1
        pull(sync)
        assert link.pulled_bytes - before < 20_000


@pytest.mark.parametrize("cut_at", [3_000, 70_000, 250_000])
def test_every_verified_byte_is_pulled_once_over_a_line_that_is_cut(
    site: EdgeSite, node: EdgeConfig, cut_at: int
) -> None:
    manifest = site.publish_noise()
    used = [s for s in manifest.shards if s.content != "unread"]
    with ChaosProxy(node.gateway) as proxy:
        for _ in range(4):
            proxy.then(cut_at=cut_at)
        through = node.model_copy(update={"gateway": proxy.address})
        with site.syncing(through) as (link, sync):
            pull(sync)
            payload = link.pulled_bytes - sum(s.num_bytes for s in used)
    assert 0 < payload < 20_000  # the metadata, pointer and manifest


def test_a_pull_goes_on_where_a_killed_one_was(
    site: EdgeSite, node: EdgeConfig
) -> None:
    deltas = the_deltas(site.publish_noise())
    data = stored(site, deltas).read_bytes()
    cache = node.state_dir / "cache"
    cache.mkdir()
    (cache / f"{deltas.sha256}.part").write_bytes(data[:200_000])
    with site.syncing(node) as (link, sync):
        pull(sync, "tiny")
        assert link.pulled_bytes < deltas.num_bytes - 200_000 + 60_000


def test_a_rest_that_was_damaged_is_pulled_anew(
    site: EdgeSite, node: EdgeConfig
) -> None:
    deltas = the_deltas(site.publish_noise())
    cache = node.state_dir / "cache"
    cache.mkdir()
    (cache / f"{deltas.sha256}.part").write_bytes(bytes(200_000))
    with site.syncing(node) as (_, sync):
        folder = pull(sync)
    assert (folder / "deltas-0.safetensors").read_bytes() == stored(
        site, deltas
    ).read_bytes()


def test_bit_rot_in_the_cache_is_found_and_mended(
    site: EdgeSite, node: EdgeConfig
) -> None:
    deltas = the_deltas(site.publish_noise())
    with site.syncing(node) as (_, sync):
        pull(sync)
        flip(node.state_dir / "cache" / deltas.sha256, 12_345)
        folder = pull(sync)
    assert (folder / "deltas-0.safetensors").read_bytes() == stored(
        site, deltas
    ).read_bytes()


def test_a_flipped_byte_in_a_shard_is_refused_by_name(
    site: EdgeSite, node: EdgeConfig
) -> None:
    first = site.publish_noise()
    with site.syncing(node) as (_, sync):
        old = pull(sync)
        second = site.publish_noise(seed=1)
        flip(stored(site, the_deltas(second)), 1000)
        with pytest.raises(TrustError, match=r"deltas-0\.safetensors is not what"):
            pull(sync)
    assert (old / "manifest.json").exists() and old.name == str(first.version)
    assert not (node.state_dir / "releases" / "2" / "manifest.json").exists()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_flipped_byte_in_metadata_is_refused_by_name(
    site: EdgeSite, node: EdgeConfig, role: str
) -> None:
    site.publish_noise(num_samples=20)
    for path in (site.repository.root / "metadata").glob(f"*{role}.json"):
        # The last digit of its end, which is a digit then as well.
        flip(path, path.read_bytes().index(b'Z"') - 1)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=rf"{role}\.json"),
    ):
        sync.check()


def test_a_strangers_repository_is_refused(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    """Its root, which names the keys of all that it holds, is there as well."""
    stranger = ReleaseRepository(tmp_path / "other", tmp_path / "other-keys")
    stranger.create()
    metadata = site.repository.root / "metadata"
    shutil.copytree(stranger.root / "metadata", metadata, dirs_exist_ok=True)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=r"timestamp\.json is not to be trusted"),
    ):
        sync.check()


def test_an_older_release_served_again_is_refused(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    site.publish_noise(num_samples=20)
    old = tmp_path / "old"
    shutil.copytree(site.repository.root / "metadata", old)
    site.publish_noise(num_samples=20, seed=1)
    with site.syncing(node) as (_, sync):
        pull(sync)
        shutil.copytree(old, site.repository.root / "metadata", dirs_exist_ok=True)
        with pytest.raises(TrustError, match="rollback is refused"):
            sync.check()


def test_a_shard_longer_than_declared_is_cut(site: EdgeSite, node: EdgeConfig) -> None:
    deltas = the_deltas(site.publish_noise())
    with stored(site, deltas).open("ab") as file:
        file.write(bytes(5_000_000))
    with site.syncing(node) as (link, sync):
        with pytest.raises(TrustError, match="longer than declared"):
            pull(sync)
        assert link.pulled_bytes < 60_000


def test_a_shard_shorter_than_declared_is_refused(
    site: EdgeSite, node: EdgeConfig
) -> None:
    deltas = the_deltas(site.publish_noise())
    path = stored(site, deltas)
    path.write_bytes(path.read_bytes()[:-1])
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match="not what was signed"),
    ):
        pull(sync)


def test_metadata_without_end_is_cut(site: EdgeSite, node: EdgeConfig) -> None:
    site.publish_noise(num_samples=20)
    with (site.repository.root / "metadata" / "timestamp.json").open("ab") as file:
        file.write(b" " * 20_000_000)
    with (
        site.syncing(node) as (link, sync),
        pytest.raises(TrustError, match=r"timestamp\.json is longer"),
    ):
        sync.check()
    assert link.pulled_bytes < 100_000


def test_expired_metadata_says_how_old_it_is(site: EdgeSite, node: EdgeConfig) -> None:
    site.publish_noise(num_samples=20)
    site.stop()  # else it would sign again
    past = datetime.now(UTC) - timedelta(days=30)
    frozen = ReleaseRepository(
        site.repository.root, site.storage.keys, clock=lambda: past
    )
    frozen.refresh(force=True)
    timestamp = site.repository.root / "metadata" / "timestamp.json"
    expired = timestamp.read_bytes()
    site.start()
    # It signs again once, when it starts.
    until("a signature", lambda: timestamp.read_bytes() != expired)
    timestamp.write_bytes(expired)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=r"expired 2\d\.\d days ago"),
    ):
        sync.check()


def test_a_node_that_was_away_for_key_rotations_catches_up(
    site: EdgeSite, node: EdgeConfig
) -> None:
    for role in ("root", "targets", "timestamp", "root"):
        site.repository.rotate(role)
    manifest = site.publish_noise(num_samples=20)
    with site.syncing(node) as (_, sync):
        assert pull(sync).name == str(manifest.version)


def test_a_channel_without_a_release_is_no_error(
    site: EdgeSite, node: EdgeConfig
) -> None:
    with site.syncing(node) as (_, sync):
        assert sync.check() is None


def test_a_recipe_that_the_release_lacks_is_named(
    site: EdgeSite, node: EdgeConfig
) -> None:
    site.publish_noise(num_samples=20)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(ConfigError, match=r"no student 'huge', it has tiny"),
    ):
        pull(sync, "huge")


def test_pruning_keeps_what_the_kept_releases_need(
    site: EdgeSite, node: EdgeConfig
) -> None:
    for seed in range(3):
        site.publish_noise(num_samples=50, seed=seed)
        with site.syncing(node) as (_, sync):
            pull(sync)
    with site.syncing(node) as (link, sync):
        sync.check()
        sync.prune({2, 3})
        before = link.pulled_bytes
        pull(sync)
        assert link.pulled_bytes - before < 1_000
    releases = {p.name for p in (node.state_dir / "releases").iterdir()}
    assert releases == {"2", "3"}
    assert len(list((node.state_dir / "cache").iterdir())) < 8


def test_a_full_disk_loses_nothing(
    site: EdgeSite, node: EdgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = the_deltas(site.publish_noise())
    with site.syncing(node) as (link, sync):
        monkeypatch.setenv("TAKT_FAULT", "edge.cache.before_rename:enospc")
        with pytest.raises(StorageError, match="No space left"):
            pull(sync)
        monkeypatch.delenv("TAKT_FAULT")
        before = link.pulled_bytes
        pull(sync)
        assert link.pulled_bytes - before < deltas.num_bytes + 40_000


def test_a_verified_file_that_is_gone_again_is_one_line(
    site: EdgeSite, node: EdgeConfig
) -> None:
    site.publish_noise(num_samples=20)

    def lose(state: str, progress: float) -> None:
        if state == "verifying":
            shutil.rmtree(node.state_dir / "cache")

    with site.syncing(node) as (_, sync):
        release = sync.check()
        assert release is not None
        with pytest.raises(StorageError, match=r"cannot read .*cache"):
            sync.pull(release, "tiny", lose)


def test_what_cannot_be_removed_from_the_metadata_is_one_line(
    site: EdgeSite, node: EdgeConfig
) -> None:
    (node.state_dir / "metadata" / "tmp-folder").mkdir(parents=True)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(StorageError, match="metadata: Is a directory"),
    ):
        sync.check()


def test_a_forged_pointer_is_refused(site: EdgeSite, node: EdgeConfig) -> None:
    site.publish_noise(num_samples=20)
    (pointer,) = (site.repository.targets / CHANNEL).glob("*.channel.json")
    pointer.write_text(json.dumps({"version": 9}))
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=r"channel\.json is"),
    ):
        sync.check()


@pytest.mark.parametrize("version", [0, -1, 2**53, 2**53 + 1, 1.0, "1", None, [1]])
def test_a_signed_pointer_to_no_version_is_refused(
    site: EdgeSite, node: EdgeConfig, version: object
) -> None:
    site.publish_noise(num_samples=20)
    data = json.dumps({"version": version}).encode()
    site.sign_target(f"{CHANNEL}/channel.json", data)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=r"channel\.json: version is .* or more"),
    ):
        sync.check()


@pytest.mark.parametrize(
    "sha256", ["../identity/node.key", "/node.key", "A" * 64, "a" * 63, "a" * 64 + "\n"]
)
def test_a_signed_hash_that_is_no_digest_is_refused_and_names_no_file(
    site: EdgeSite, node: EdgeConfig, sha256: str
) -> None:
    site.publish_noise(num_samples=20)
    key = node.state_dir / "identity" / "node.key"
    before = key.read_bytes()
    site.sign_target(f"{CHANNEL}/channel.json", b'{"version": 1}', sha256=sha256)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=r"channel\.json is signed with the sha256 "),
    ):
        sync.check()
    assert key.read_bytes() == before


def test_a_repository_with_holes_is_one_line(site: EdgeSite, node: EdgeConfig) -> None:
    deltas = the_deltas(site.publish_noise())
    stored(site, deltas).unlink()
    clock = ClockOfWaits()
    waits: dict[str, Any] = {"deadline_s": 2.0, "clock": clock, "sleep": clock.sleep}
    with (
        site.syncing(node, **waits) as (_, sync),
        pytest.raises((LinkError, TrustError), match="deltas-0"),
    ):
        pull(sync)
