"""Pulling a release that ships its images, and starting weights with them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_site import CHANNEL, EdgeSite, edge_site, recipe

from common.data.datasets import Split
from common.errors import TrustError
from common.release import ShardInfo, decode_manifest, release_images
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


def test_a_release_that_ships_its_images_comes_with_them_and_with_own_weights(
    site: EdgeSite, node: EdgeConfig
) -> None:
    recipes = {"tiny": recipe(), "plain": recipe(method="pgd_at")}
    manifest = site.publish_transfer(students=recipes, weights=("tiny", "plain"))
    with site.syncing(node) as (_, sync):
        folder = pull(sync, "plain")
        assert {p.name for p in folder.iterdir()} == {
            "manifest.json",
            "images-0.safetensors",
            "val_images-0.safetensors",
            "weights-plain.safetensors",
        }
        found = decode_manifest((folder / "manifest.json").read_bytes())
        assert found == manifest

        def read(shard: ShardInfo) -> bytes:
            return (folder / Path(shard.path).name).read_bytes()

        images, labels = release_images(found, "images", read)
        assert Split(images, labels).fingerprint() == found.fingerprint
        assert len(release_images(found, "val_images", read)[1]) == found.num_val
        file = folder / "weights-plain.safetensors"
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        assert sha256 == found.weights["plain"].sha256


def test_images_that_are_not_those_declared_are_refused_and_nothing_changes(
    site: EdgeSite, node: EdgeConfig
) -> None:
    site.publish_transfer()
    with site.syncing(node) as (_, sync):
        old = pull(sync)
        site.publish_transfer(fingerprint="e" * 64)
        with pytest.raises(TrustError, match=r"fingerprint .* expected eeeeeeeeeeee"):
            pull(sync)
    assert old.exists() and not (node.state_dir / "releases" / "2").exists()


@pytest.mark.parametrize("part", ["images-0", "weights-tiny"])
def test_a_flipped_byte_in_images_or_weights_is_refused_by_name(
    site: EdgeSite, node: EdgeConfig, part: str
) -> None:
    manifest = site.publish_transfer()
    path = f"{CHANNEL}/{manifest.version}/{part}.safetensors"
    sha256 = {s.path: s.sha256 for s in manifest.shards}
    sha256 |= {w.path: w.sha256 for w in manifest.weights.values()}
    stored = site.repository.targets / CHANNEL / "1"
    file = stored / f"{sha256[path]}.{part}.safetensors"
    data = bytearray(file.read_bytes())
    data[99] ^= 1
    file.write_bytes(bytes(data))
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=rf"{part}\.safetensors is not what"),
    ):
        pull(sync)


def test_weights_other_than_the_signed_metadata_has_are_refused(
    site: EdgeSite, node: EdgeConfig
) -> None:
    manifest = site.publish_transfer()
    info = manifest.weights["tiny"].model_copy(update={"num_bytes": 17})
    forged = manifest.model_copy(update={"weights": {"tiny": info}})
    site.sign_manifest(forged)
    with (
        site.syncing(node) as (_, sync),
        pytest.raises(TrustError, match=r"weights-tiny.*declares other bytes"),
    ):
        pull(sync)


def test_pruning_keeps_images_and_weights_of_the_kept_releases(
    site: EdgeSite, node: EdgeConfig
) -> None:
    site.publish_transfer()
    with site.syncing(node) as (link, sync):
        pull(sync)
        sync.prune({1})
        before = link.pulled_bytes
        pull(sync)
        assert link.pulled_bytes - before < 1_000
