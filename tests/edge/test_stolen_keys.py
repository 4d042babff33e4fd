"""What a thief of signing keys can do to a node, and how the project recovers.

The thief is taken to run the gateway, too: the node gets what the thief puts there.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from edge_site import EdgeSite, edge_site
from repository_site import newest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from cloud.publishing.ceremony import Ceremony
from cloud.publishing.role_changes import RoleChange
from cloud.publishing.signing_keys import RoleKeys
from common.errors import StorageError, TrustError
from common.release import decode_manifest, encode_manifest
from edge.config import EdgeConfig

ONLINE = ("timestamp", "snapshot")
FAR = 1_000_000  # versions; nodes accept no lower ones afterwards


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EdgeSite]:
    with edge_site(tmp_path) as site:
        site.publish_noise(num_samples=20)
        yield site


@pytest.fixture
def node(site: EdgeSite) -> EdgeConfig:
    config = site.join("sensor")
    assert version_at(site, config) == 1
    return config


def version_at(site: EdgeSite, node: EdgeConfig) -> int:
    """Let the node look; return the release that it trusts."""
    with site.syncing(node) as (_, sync):
        release = sync.check()
        assert release is not None
        return release.version


class Thief:
    """Has copies of some roles' keys, and keys of its own for the others."""

    def __init__(self, site: EdgeSite, *roles: str) -> None:
        """Copy the keys of `roles`."""
        self._repository = site.repository.root
        self._metadata = self._repository / "metadata"
        self.signers = {
            r: CryptoSigner.generate_ed25519() for r in (*ONLINE, "targets")
        }
        for role in roles:
            (pem,) = site.storage.keys.glob(f"{role}-*")
            private_key = load_pem_private_key(pem.read_bytes(), None)
            self.signers[role] = CryptoSigner(private_key)

    def publish(self, channel: str) -> None:
        """Make release 2 of release 1 and sign it with what there is."""
        path = newest(self._metadata, "targets")
        targets = Metadata[Targets].from_file(str(path))
        (old,) = (self._repository / "targets" / channel / "1").glob("*manifest.json")
        manifest = decode_manifest(old.read_bytes())
        data = encode_manifest(manifest.model_copy(update={"version": 2}))
        self._add(targets, f"{channel}/2/manifest.json", data)
        self._add(targets, f"{channel}/channel.json", b'{"version": 2}')
        targets.signed.version += 1
        targets.sign(self.signers["targets"])
        self.present(targets=targets)

    def present(
        self, *, targets: Metadata[Targets] | None = None, jump: int = 1
    ) -> None:
        """Sign a snapshot and a timestamp, of other targets if they are given."""
        path = newest(self._metadata, "snapshot")
        snapshot = Metadata[Snapshot].from_file(str(path))
        path = self._metadata / "timestamp.json"
        timestamp = Metadata[Timestamp].from_file(str(path))
        if targets is not None:
            data = targets.to_bytes()
            version = targets.signed.version
            (self._metadata / f"{version}.targets.json").write_bytes(data)
            meta = MetaFile.from_data(version, data, ["sha256"])
            snapshot.signed.meta["targets.json"] = meta
        snapshot.signed.version += jump
        snapshot.sign(self.signers["snapshot"])
        data = snapshot.to_bytes()
        version = snapshot.signed.version
        (self._metadata / f"{version}.snapshot.json").write_bytes(data)
        timestamp.signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
        timestamp.signed.version += jump
        timestamp.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(
            days=1
        )
        timestamp.sign(self.signers["timestamp"])
        path.write_bytes(timestamp.to_bytes())

    def name_own_keys(self) -> None:
        """Write a next root, signed by the stolen root key, with own keys in it."""
        path = newest(self._metadata, "root")
        root = Metadata[Root].from_file(str(path))
        for role in (*ONLINE, "targets"):
            root.signed.revoke_key(root.signed.roles[role].keyids[0], role)
            root.signed.add_key(self.signers[role].public_key, role)
        root.signed.version += 1
        root.sign(self.signers["root"])
        path.with_name(f"{root.signed.version}.root.json").write_bytes(root.to_bytes())

    def _add(self, targets: Metadata[Targets], path: str, data: bytes) -> None:
        target = TargetFile.from_data(path, data, ["sha256"])
        targets.signed.targets[path] = target
        folder, _, name = path.rpartition("/")
        place = self._repository / "targets" / folder
        place.mkdir(exist_ok=True)
        (place / f"{target.hashes['sha256']}.{name}").write_bytes(data)


@pytest.mark.parametrize(
    "stolen",
    [
        ("timestamp",),
        ("snapshot",),
        ("timestamp", "snapshot"),
        ("targets",),
        ("targets", "timestamp"),
    ],
    ids=" and ".join,
)
def test_a_thief_without_all_three_keys_publishes_nothing(
    site: EdgeSite, node: EdgeConfig, stolen: tuple[str, ...]
) -> None:
    Thief(site, *stolen).publish("digits")
    with pytest.raises(TrustError, match="refused, the present student stays"):
        version_at(site, node)


def test_a_thief_of_targets_snapshot_and_timestamp_publishes(
    site: EdgeSite, node: EdgeConfig
) -> None:
    Thief(site, "targets", *ONLINE).publish("digits")
    assert version_at(site, node) == 2


def test_a_gateway_with_all_keys_does_not_sign_what_a_thief_put_there(
    site: EdgeSite, node: EdgeConfig
) -> None:
    Thief(site, *ONLINE).publish("digits")
    for sign in (
        lambda: site.repository.refresh(force=True),
        lambda: site.repository.rotate("targets"),
        lambda: site.publish_noise(num_samples=20),
    ):
        with pytest.raises(StorageError, match=r"targets was signed by 0/1 keys"):
            sign()
    with pytest.raises(TrustError):
        version_at(site, node)


def test_a_thief_of_root_publishes_with_keys_of_his_own(
    site: EdgeSite, node: EdgeConfig
) -> None:
    thief = Thief(site, "root")
    thief.name_own_keys()
    thief.publish("digits")
    assert version_at(site, node) == 2


def test_a_thief_of_root_does_not_reach_nodes_that_followed_its_rotation(
    site: EdgeSite, node: EdgeConfig
) -> None:
    thief = Thief(site, "root")
    site.repository.rotate("root")
    assert version_at(site, node) == 1
    thief.name_own_keys()
    thief.publish("digits")
    with pytest.raises(TrustError, match="root was signed by 0/1 keys"):
        version_at(site, node)


def with_two_of_two(site: EdgeSite, role: str) -> tuple[CryptoSigner, CryptoSigner]:
    """Let two keys sign for a role, both of them; return the old and the new one."""
    keys = RoleKeys(site.storage.keys)
    (pem,) = site.storage.keys.glob(f"{role}-*")
    new = keys.make(role)
    ceremony = Ceremony(site.repository.root, site.storage.keys)
    ceremony.change(RoleChange(role, add=(new.public_key,), threshold=2))
    return CryptoSigner(load_pem_private_key(pem.read_bytes(), None)), new


@pytest.mark.parametrize("stolen", [0, 1], ids=["the old one", "the new one"])
def test_a_thief_of_one_of_two_targets_keys_publishes_nothing(
    site: EdgeSite, node: EdgeConfig, stolen: int
) -> None:
    thief = Thief(site, *ONLINE)
    thief.signers["targets"] = with_two_of_two(site, "targets")[stolen]
    assert version_at(site, node) == 1
    thief.publish("digits")
    with pytest.raises(TrustError, match="targets was signed by 1/2 keys"):
        version_at(site, node)


@pytest.mark.parametrize("stolen", [0, 1], ids=["the old one", "the new one"])
def test_a_thief_of_one_of_two_root_keys_names_no_others(
    site: EdgeSite, node: EdgeConfig, stolen: int
) -> None:
    thief = Thief(site)
    thief.signers["root"] = with_two_of_two(site, "root")[stolen]
    assert version_at(site, node) == 1
    thief.name_own_keys()
    thief.publish("digits")
    with pytest.raises(TrustError, match="root was signed by 1/2 keys"):
        version_at(site, node)


def test_the_online_keys_are_rotated_while_targets_is_offline(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    thief = Thief(site, *ONLINE)
    ceremony = Ceremony(site.repository.root, site.storage.keys)
    ceremony.take_offline("targets", tmp_path / "stick" / "targets.pem", "secret")
    for role in ONLINE:
        site.repository.rotate(role)
    assert version_at(site, node) == 1
    thief.present()
    with pytest.raises(TrustError, match="timestamp was signed by 0/1 keys"):
        version_at(site, node)


@pytest.mark.parametrize("place", [0, 1], ids=["before ours", "after ours"])
def test_a_gateway_signs_nothing_under_a_root_with_a_thiefs_key_in_it(
    site: EdgeSite, place: int
) -> None:
    thief = Thief(site, *ONLINE)
    path = newest(site.repository.root / "metadata", "root")
    root = Metadata[Root].from_file(str(path))
    root.signed.add_key(thief.signers["targets"].public_key, "targets")
    named = root.signed.roles["targets"].keyids
    named.insert(place, named.pop())
    root.signed.version += 1
    own = CryptoSigner.generate_ed25519()
    root.signed.revoke_key(root.signed.roles["root"].keyids[0], "root")
    root.signed.add_key(own.public_key, "root")
    root.sign(own)
    path.with_name(f"{root.signed.version}.root.json").write_bytes(root.to_bytes())
    thief.publish("digits")
    with pytest.raises(StorageError, match="root was signed by 0/1 keys"):
        site.publish_noise(num_samples=20)


def test_after_a_theft_of_the_online_keys_nodes_follow_to_new_ones(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    metadata = site.repository.root / "metadata"
    shutil.copytree(metadata, tmp_path / "backup")
    thief = Thief(site, *ONLINE)
    thief.present(jump=FAR)  # true content; later versions are lower than these
    assert version_at(site, node) == 1
    shutil.rmtree(metadata)
    shutil.copytree(tmp_path / "backup", metadata)
    with pytest.raises(TrustError, match="older than what this node has seen"):
        version_at(site, node)
    for role in ONLINE:
        site.repository.rotate(role)
    site.publish_noise(num_samples=20)
    assert version_at(site, node) == 2
    thief.present()
    with pytest.raises(TrustError, match="timestamp was signed by 0/1 keys"):
        version_at(site, node)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_a_key_that_went_with_its_machine_gets_a_successor(
    site: EdgeSite, node: EdgeConfig, role: str
) -> None:
    (key,) = site.storage.keys.glob(f"{role}-*")
    key.unlink()
    site.repository.rotate(role)
    site.publish_noise(num_samples=20)
    assert version_at(site, node) == 2
