"""Other keys of snapshot and timestamp, while root signs on another machine."""

from pathlib import Path

import pytest
from repository_site import Node, draft, newest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root

from cloud.publishing.ceremony import Ceremony
from cloud.publishing.key_files import read_signer
from cloud.publishing.offline_signing import with_signature
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.role_changes import RoleChange
from cloud.publishing.signing_keys import RoleKeys
from common.errors import ConfigError, StorageError

SECRET = "correct horse"


@pytest.fixture
def root_key(
    ceremony: Ceremony, repository: ReleaseRepository, knowledge: Path, tmp_path: Path
) -> CryptoSigner:
    """Publish, take the key of root to a stick, and return it."""
    repository.publish(draft(), knowledge)
    ceremony.take_offline("root", tmp_path / "stick" / "root.pem", SECRET)
    return read_signer(tmp_path / "stick" / "root.pem", lambda _: SECRET)


def signed(key: CryptoSigner, data: bytes) -> bytes:
    return with_signature(data, key, "the stick")


def root_of(repository: ReleaseRepository) -> Root:
    return Metadata[Root].from_bytes(repository.root_json()).signed


def online(repository: ReleaseRepository, role: str) -> Path:
    folder = repository.root / "metadata"
    return folder / "timestamp.json" if role == "timestamp" else newest(folder, role)


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_stolen_online_key_is_replaced_while_root_is_offline(
    ceremony: Ceremony,
    repository: ReleaseRepository,
    root_key: CryptoSigner,
    node: Node,
    tmp_path: Path,
    role: str,
) -> None:
    keys, root = RoleKeys(tmp_path / "keys"), root_of(repository)
    (old,) = root.roles[role].keyids
    thief = keys.load(role, root.keys[old])
    change = RoleChange(role, add=(keys.make(role).public_key,), remove=(old,))
    ceremony.accept(signed(root_key, ceremony.export("root", change)))
    keys.forget(role, old)
    repository.refresh(force=True)
    assert node.version() == 1
    forged = Metadata.from_file(str(online(repository, role)))
    forged.sign(thief)
    trusted = Metadata[Root].from_file(str(node.folder / "metadata" / "root.json"))
    with pytest.raises(UnsignedMetadataError, match=f"{role} was signed by 0/1 keys"):
        trusted.signed.verify_delegate(role, forged.signed_bytes, forged.signatures)


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_lost_online_key_is_replaced_in_two_steps_while_root_is_offline(
    ceremony: Ceremony,
    repository: ReleaseRepository,
    root_key: CryptoSigner,
    node: Node,
    tmp_path: Path,
    role: str,
) -> None:
    keys = RoleKeys(tmp_path / "keys")
    (old,) = root_of(repository).roles[role].keyids
    keys.forget(role, old)
    new = keys.make(role).public_key
    at_once = RoleChange(role, add=(new,), remove=(old,))
    with pytest.raises(ConfigError, match=rf"keys change {role} --add.*without --rem"):
        ceremony.accept(signed(root_key, ceremony.export("root", at_once)))
    assert node.version() == 1
    for change in (RoleChange(role, add=(new,)), RoleChange(role, remove=(old,))):
        ceremony.accept(signed(root_key, ceremony.export("root", change)))
        assert node.version() == 1
    assert root_of(repository).roles[role].keyids == [new.keyid]


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
@pytest.mark.parametrize("is_root_here", [True, False])
def test_an_online_role_whose_new_key_is_not_here_says_where_to_put_it(
    ceremony: Ceremony,
    repository: ReleaseRepository,
    root_key: CryptoSigner,
    role: str,
    is_root_here: bool,
) -> None:
    (old,) = root_of(repository).roles[role].keyids
    new = CryptoSigner.generate_ed25519().public_key
    change = RoleChange(role, add=(new,), remove=(old,))
    data = signed(root_key, ceremony.export("root", change))
    with pytest.raises((ConfigError, StorageError), match=r"signers\.toml") as caught:
        if is_root_here:
            ceremony.change(change)
        else:
            ceremony.accept(data)
    assert "keys export" not in str(caught.value)


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_kill_before_the_root_of_another_online_key_is_made_good_by_repeating(
    ceremony: Ceremony,
    repository: ReleaseRepository,
    root_key: CryptoSigner,
    node: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    (old,) = root_of(repository).roles[role].keyids
    new = RoleKeys(tmp_path / "keys").make(role).public_key
    change = RoleChange(role, add=(new,), remove=(old,))
    data = signed(root_key, ceremony.export("root", change))
    with monkeypatch.context() as patch:
        patch.setenv("TAKT_FAULT", "accept.root.before_rename:eio")
        with pytest.raises(StorageError, match="cannot write"):
            ceremony.accept(data)
    assert node.version() == 1
    ceremony.accept(data)
    assert node.version() == 1
    assert root_of(repository).roles[role].keyids == [new.keyid]
