"""A release that is put together of two: each part is signed, the whole is refused.

Mix-and-match within good signatures, as a publisher's own fault would make it. The TUF
client cannot see it: every file is what the metadata says.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_site import EdgeSite, edge_site
from tuf.api.metadata import TargetFile

from cloud.publishing.signing_keys import RoleKeys
from cloud.publishing.tuf_metadata import SignedMetadata
from common.clock import utc_now
from common.errors import TrustError
from edge.config import EdgeConfig


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EdgeSite]:
    with edge_site(tmp_path) as site:
        for seed in (1, 2):
            site.publish_noise(seed=seed, num_samples=20)
        yield site


@pytest.fixture
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


def sign_in_place_of(site: EdgeSite, path: str, other: str) -> None:
    """Sign the bytes of target `other` under the name of target `path`."""
    metadata = SignedMetadata(
        site.repository.root / "metadata", RoleKeys(site.storage.keys), clock=utc_now
    )
    state = metadata.load()
    listed = state.targets.signed.targets
    data = stored(site, other, listed[other]).read_bytes()
    listed[path] = TargetFile.from_data(path, data, ["sha256"])
    place = stored(site, path, listed[path])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    metadata.commit(state, "mixed")


def stored(site: EdgeSite, path: str, target: TargetFile) -> Path:
    """Say where a target's bytes lie."""
    folder, _, name = path.rpartition("/")
    return site.repository.targets / folder / f"{target.hashes['sha256']}.{name}"


def refusal(site: EdgeSite, node: EdgeConfig) -> str:
    """Pull the newest release, and return why it was refused."""
    with site.syncing(node) as (_, sync):
        release = sync.check()
        assert release is not None
        with pytest.raises(TrustError) as caught:
            sync.pull(release, "tiny", lambda state, progress: None)
    return str(caught.value)


def test_a_manifest_of_another_version_is_refused(
    site: EdgeSite, node: EdgeConfig
) -> None:
    sign_in_place_of(site, "digits/2/manifest.json", "digits/1/manifest.json")
    assert "says it is digits 1, expected digits 2" in refusal(site, node)


def test_a_manifest_of_another_channel_is_refused(
    site: EdgeSite, node: EdgeConfig
) -> None:
    for seed in (1, 2):
        site.publish_noise(seed=seed, num_samples=20, channel="other")
    sign_in_place_of(site, "digits/2/manifest.json", "other/2/manifest.json")
    assert "says it is other 2, expected digits 2" in refusal(site, node)


@pytest.mark.parametrize("content", ["soft_labels", "deltas"])
def test_a_shard_of_another_version_is_refused(
    site: EdgeSite, node: EdgeConfig, content: str
) -> None:
    name = f"{content}-0.safetensors"
    sign_in_place_of(site, f"digits/2/{name}", f"digits/1/{name}")
    assert f"digits/2/{name}: the manifest declares other bytes" in refusal(site, node)
