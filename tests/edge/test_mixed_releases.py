"""Mix-and-match: signed files of different releases are not taken for one release."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_site import EdgeSite, edge_site

from common.errors import TrustError
from common.release import Manifest
from edge.config import EdgeConfig


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EdgeSite]:
    with edge_site(tmp_path) as site:
        yield site


@pytest.fixture
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


def refused(site: EdgeSite, node: EdgeConfig, words: str) -> None:
    with site.syncing(node) as (_, sync):
        release = sync.check()
        assert release is not None
        with pytest.raises(TrustError, match=words):
            sync.pull(release, "tiny", lambda state, progress: None)
    releases = node.state_dir / "releases"
    assert not list(releases.glob("*/manifest.json"))


def other_shards(manifest: Manifest, **changes: object) -> Manifest:
    shards = tuple(s.model_copy(update=changes) for s in manifest.shards)
    return manifest.model_copy(update={"shards": shards})


@pytest.mark.parametrize("digit", ["0", "f"])
def test_a_manifest_that_declares_other_bytes_than_the_metadata_is_refused(
    site: EdgeSite, node: EdgeConfig, digit: str
) -> None:
    manifest = site.publish_noise(num_samples=20)
    site.sign_manifest(other_shards(manifest, sha256=64 * digit))
    refused(site, node, "declares other bytes than the signed metadata")


def test_a_manifest_that_declares_another_length_than_the_metadata_is_refused(
    site: EdgeSite, node: EdgeConfig
) -> None:
    manifest = site.publish_noise(num_samples=20)
    site.sign_manifest(other_shards(manifest, num_bytes=manifest.shards[0].num_bytes))
    refused(site, node, "declares other bytes than the signed metadata")


def test_a_manifest_under_another_version_is_refused(
    site: EdgeSite, node: EdgeConfig
) -> None:
    older = site.publish_noise(num_samples=20)
    newer = site.publish_noise(num_samples=20, seed=1)
    site.sign_manifest(older, path=f"digits/{newer.version}/manifest.json")
    refused(site, node, r"digits/2/manifest\.json says it is digits 1")


def test_a_manifest_of_another_channel_is_refused(
    site: EdgeSite, node: EdgeConfig
) -> None:
    site.publish_noise(num_samples=20)
    other = site.publish_noise(num_samples=20, channel="other")
    site.sign_manifest(other, path="digits/1/manifest.json")
    refused(site, node, r"digits/1/manifest\.json says it is other 1")
