"""Signing on another machine: what goes out unsigned comes back, and is checked."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from repository_site import Node, draft, newest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from cloud.publishing.ceremony import Ceremony
from cloud.publishing.key_files import read_signer, write_private_key
from cloud.publishing.offline_signing import describe, with_signature
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.role_changes import RoleChange
from cloud.publishing.signing_keys import RoleKeys
from cloud.trail import Trail
from common.errors import ConfigError, StorageError, TrustError

SECRET = "correct horse"


@pytest.fixture
def stick(
    ceremony: Ceremony, repository: ReleaseRepository, knowledge: Path, tmp_path: Path
) -> Path:
    """Publish, then take root and targets offline; return the folder they lie in."""
    repository.publish(draft(), knowledge)
    for role in ("root", "targets"):
        ceremony.take_offline(role, tmp_path / "stick" / f"{role}.pem", SECRET)
    return tmp_path / "stick"


def signer(stick: Path, role: str) -> CryptoSigner:
    return read_signer(stick / f"{role}.pem", lambda _: SECRET)


def signed(stick: Path, role: str, data: bytes) -> bytes:
    return with_signature(data, signer(stick, role), stick.name)


def test_root_and_targets_that_went_offline_are_signed_elsewhere_and_come_back(
    ceremony: Ceremony, stick: Path, node: Node, tmp_path: Path
) -> None:
    left = {path.name.partition("-")[0] for path in (tmp_path / "keys").glob("*.pem")}
    assert left == {"snapshot", "timestamp"}
    for role in ("targets", "root"):
        data = ceremony.export(role)
        with pytest.raises(TrustError, match=f"{role} was signed by 0/1 keys"):
            ceremony.accept(data)
        assert ceremony.accept(signed(stick, role, data)).startswith(role)
        assert node.version() == 1


def test_a_key_goes_offline_whatever_editor_saved_where_the_others_lie(
    repository: ReleaseRepository, ceremony: Ceremony, tmp_path: Path
) -> None:
    noted = tmp_path / "keys" / "signers.toml"
    noted.write_text('[root]\n0123456789abcdef = "file:/old"\n', encoding="utf-8-sig")
    ceremony.take_offline("targets", tmp_path / "targets.pem", SECRET)
    assert "file:/old" in noted.read_text() and "[targets]" in noted.read_text()


def test_a_key_stays_where_it_cannot_be_noted_where_it_goes(
    repository: ReleaseRepository, ceremony: Ceremony, tmp_path: Path
) -> None:
    (tmp_path / "keys" / "signers.toml").write_text("[root\n")
    with pytest.raises(ConfigError, match=r"cannot read .*signers\.toml"):
        ceremony.take_offline("targets", tmp_path / "targets.pem", SECRET)
    assert not (tmp_path / "targets.pem").exists()


def test_snapshot_and_timestamp_are_signed_on_while_the_others_are_offline(
    repository: ReleaseRepository, stick: Path, node: Node
) -> None:
    later = datetime.now(UTC) + timedelta(days=16)
    then = ReleaseRepository(
        repository.root, repository.root.parent / "keys", clock=lambda: later
    )
    done = then.refresh()
    assert done.signed == ("timestamp", "snapshot")
    assert list(done.failures) == ["targets"]
    assert node.version() == 1


def test_a_release_is_published_by_a_targets_key_on_another_machine(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    stick: Path,
    knowledge: Path,
    node: Node,
    tmp_path: Path,
) -> None:
    file = tmp_path / "targets.json"
    made = repository.publish(draft(), knowledge, force=True, unsigned=file)
    assert (made.version, node.version()) == (2, 1)
    assert any("digits/2: manifest" in line for line in describe(file.read_bytes()))
    ceremony.accept(signed(stick, "targets", file.read_bytes()))
    assert node.version() == 2
    assert node.pull(made.shards[0].path)


def test_a_release_that_is_in_force_already_is_not_written_to_be_signed(
    repository: ReleaseRepository, stick: Path, knowledge: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has that release already, as version 1"):
        repository.publish(draft(), knowledge, unsigned=tmp_path / "targets.json")
    assert not (tmp_path / "targets.json").exists()


def test_a_release_whose_files_have_gone_is_not_brought_into_force(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    stick: Path,
    knowledge: Path,
    node: Node,
    tmp_path: Path,
) -> None:
    file = tmp_path / "targets.json"
    repository.publish(draft(), knowledge, force=True, unsigned=file)
    shutil.rmtree(repository.targets / "digits" / "2")
    with pytest.raises(StorageError, match="publish again"):
        ceremony.accept(signed(stick, "targets", file.read_bytes()))
    assert node.version() == 1


def test_a_file_of_another_version_is_refused_with_the_fix(
    ceremony: Ceremony, stick: Path
) -> None:
    first = signed(stick, "targets", ceremony.export("targets"))
    ceremony.accept(first)
    with pytest.raises(ConfigError, match=r"version 4 of targets, expected 5; export"):
        ceremony.accept(first)


def test_a_file_that_has_ended_meanwhile_is_refused_with_the_fix(
    ceremony: Ceremony, stick: Path, repository: ReleaseRepository
) -> None:
    data = signed(stick, "targets", ceremony.export("targets"))
    later = datetime.now(UTC) + timedelta(days=31)
    then = Ceremony(
        repository.root, repository.root.parent / "keys", clock=lambda: later
    )
    with pytest.raises(ConfigError, match=r"of targets ended at .*export it again"):
        then.accept(data)


def test_what_was_changed_after_it_was_signed_is_refused(
    ceremony: Ceremony, stick: Path, repository: ReleaseRepository
) -> None:
    data = signed(stick, "targets", ceremony.export("targets"))
    metadata = Metadata[Targets].from_bytes(data)
    metadata.signed.targets.clear()
    with pytest.raises(TrustError, match="signed by 0/1 keys"):
        ceremony.accept(metadata.to_bytes())
    assert repository.versions() == {"digits": 1}


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\x00", b"[1]"])
def test_what_is_no_metadata_is_one_line(ceremony: Ceremony, data: bytes) -> None:
    with pytest.raises(ConfigError, match="no root or targets metadata"):
        ceremony.accept(data)


def test_online_metadata_are_not_taken_from_elsewhere(
    ceremony: Ceremony, repository: ReleaseRepository
) -> None:
    data = (repository.root / "metadata" / "timestamp.json").read_bytes()
    with pytest.raises(ConfigError, match="'timestamp': expected one of root, targets"):
        ceremony.accept(data)
    with pytest.raises(ConfigError, match="'snapshot': expected one of root, targets"):
        ceremony.export("snapshot")


def test_another_threshold_is_decided_by_an_offline_root_step_by_step(
    ceremony: Ceremony,
    repository: ReleaseRepository,
    stick: Path,
    node: Node,
    knowledge: Path,
    tmp_path: Path,
) -> None:
    second = CryptoSigner.generate_ed25519()
    change = RoleChange("targets", add=(second.public_key,), threshold=2)
    root = signed(stick, "root", ceremony.export("root", change))
    with pytest.raises(ConfigError, match=r"refuse the present targets.*keys export"):
        ceremony.accept(root)
    targets = signed(stick, "targets", ceremony.export("targets"))
    ceremony.accept(with_signature(targets, second, "second"))
    assert node.version() == 1
    ceremony.accept(root)
    assert node.version() == 1
    file = tmp_path / "targets.json"
    repository.publish(draft(), knowledge, force=True, unsigned=file)
    one = signed(stick, "targets", file.read_bytes())
    with pytest.raises(TrustError, match="targets was signed by 1/2 keys"):
        ceremony.accept(one)
    ceremony.accept(with_signature(one, second, "second"))
    assert node.version() == 2


def test_a_root_by_keys_of_a_stranger_is_refused(
    ceremony: Ceremony, repository: ReleaseRepository, stick: Path
) -> None:
    stranger = CryptoSigner.generate_ed25519()
    change = RoleChange("root", add=(stranger.public_key,))
    data = with_signature(ceremony.export("root", change), stranger, "stranger")
    before = repository.root_json()
    with pytest.raises(TrustError, match="root was signed by 0/1 keys"):
        ceremony.accept(data)
    assert repository.root_json() == before


def test_a_private_key_is_removed_only_where_its_copy_is_safe(
    ceremony: Ceremony, tmp_path: Path
) -> None:
    (key,) = (tmp_path / "keys").glob("targets-*.pem")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        ceremony.take_offline("targets", tmp_path / "there", SECRET)
    assert key.exists()
    with pytest.raises(ConfigError, match="'timestamp': expected one of root, targets"):
        ceremony.take_offline("timestamp", tmp_path / "t.pem", SECRET)
    keyid = ceremony.take_offline("targets", tmp_path / "t.pem", SECRET)
    assert SECRET.encode() not in (tmp_path / "t.pem").read_bytes()
    assert b"ENCRYPTED PRIVATE KEY" in (tmp_path / "t.pem").read_bytes()
    assert not key.exists()
    with pytest.raises(StorageError, match=f"key {keyid[:16]} is not at"):
        ceremony.take_offline("targets", tmp_path / "u.pem", SECRET)


@pytest.mark.parametrize("passphrase", [SECRET, None])
@pytest.mark.parametrize("step", ["copy", "noted"])
@pytest.mark.parametrize("moment", ["before_rename", "after_rename"])
def test_a_key_whose_way_offline_was_cut_short_goes_there_by_repeating(
    ceremony: Ceremony,
    repository: ReleaseRepository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passphrase: str | None,
    step: str,
    moment: str,
) -> None:
    place, here = tmp_path / "stick" / "targets.pem", tmp_path / "keys"
    with monkeypatch.context() as patch:
        patch.setenv("TAKT_FAULT", f"offline.{step}.{moment}:eio")
        with pytest.raises(StorageError, match="cannot write"):
            ceremony.take_offline("targets", place, passphrase)
    assert list(here.glob("targets-*.pem"))
    keyid = ceremony.take_offline("targets", place, passphrase)
    assert not list(here.glob("targets-*.pem"))
    assert str(place) in str(RoleKeys(here).uri("targets", keyid))
    assert read_signer(place, lambda _: SECRET).public_key.keyid == keyid


@pytest.mark.parametrize("found", ["another passphrase", "in the clear", "another key"])
def test_a_file_that_is_not_the_key_under_that_passphrase_is_left_alone(
    ceremony: Ceremony, tmp_path: Path, found: str
) -> None:
    (key,) = (tmp_path / "keys").glob("targets-*.pem")
    private_key: PrivateKeyTypes = Ed25519PrivateKey.generate()
    if found != "another key":
        private_key = load_pem_private_key(key.read_bytes(), None)
    secret = {"another passphrase": "other", "in the clear": None}.get(found, SECRET)
    write_private_key(tmp_path / "t.pem", private_key, secret)
    before = (tmp_path / "t.pem").read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        ceremony.take_offline("targets", tmp_path / "t.pem", SECRET)
    assert key.exists()
    assert (tmp_path / "t.pem").read_bytes() == before


def test_a_key_is_not_taken_to_where_it_lies(
    ceremony: Ceremony, tmp_path: Path
) -> None:
    (key,) = (tmp_path / "keys").glob("targets-*.pem")
    (tmp_path / "link").symlink_to(key)
    for place in (key, tmp_path / "link"):
        with pytest.raises(ConfigError, match="is there already"):
            ceremony.take_offline("targets", place, None)
    assert key.exists()


def test_each_step_of_a_ceremony_leaves_its_entry(
    ceremony: Ceremony, stick: Path, repository: ReleaseRepository
) -> None:
    ceremony.accept(signed(stick, "targets", ceremony.export("targets")))
    trail = Trail(repository.root.parent / "trail.log")
    trail.verify()
    said = [f"{entry.action} {entry.subject}" for entry in trail.entries()]
    assert [line.split()[0] for line in said[-4:]] == [
        "offline",
        "offline",
        "export",
        "accept",
    ]
    assert said[-2:] == ["export targets 4", "accept targets 4"]


def test_a_root_that_nobodys_root_keys_signed_is_not_given_to_new_nodes(
    repository: ReleaseRepository, knowledge: Path
) -> None:
    before = repository.root_json()
    path = newest(repository.root / "metadata", "root")
    root = Metadata[Root].from_file(str(path))
    own = CryptoSigner.generate_ed25519()
    root.signed.revoke_key(root.signed.roles["root"].keyids[0], "root")
    root.signed.add_key(own.public_key, "root")
    root.signed.version += 1
    root.sign(own)
    forged = path.with_name(f"{root.signed.version}.root.json")
    forged.write_bytes(root.to_bytes())
    with pytest.raises(StorageError, match="root was signed by 0/1 keys"):
        repository.root_json()
    forged.unlink()
    assert repository.root_json() == before
    path.write_bytes(root.to_bytes())
    with pytest.raises(StorageError, match="not what was written here"):
        repository.root_json()


def test_a_repository_of_an_older_takt_is_signed_on_and_remembered(
    repository: ReleaseRepository, knowledge: Path, node: Node, tmp_path: Path
) -> None:
    remembered = tmp_path / "keys" / "root.json"
    remembered.unlink()
    repository.publish(draft(), knowledge)
    assert node.version() == 1
    assert remembered.read_bytes() == repository.root_json()


def test_a_key_more_in_the_root_of_an_older_takt_is_not_trusted(
    repository: ReleaseRepository, tmp_path: Path
) -> None:
    (tmp_path / "keys" / "root.json").unlink()
    path = newest(repository.root / "metadata", "root")
    root = Metadata[Root].from_file(str(path))
    root.signed.add_key(CryptoSigner.generate_ed25519().public_key, "targets")
    (keyid,) = root.signed.roles["root"].keyids
    root.sign(RoleKeys(tmp_path / "keys").load("root", root.signed.keys[keyid]))
    path.write_bytes(root.to_bytes())
    with pytest.raises(StorageError, match="expected one key for targets"):
        repository.root_json()


def test_only_roles_that_can_be_signed_elsewhere_are_said_to_be(
    repository: ReleaseRepository,
) -> None:
    later = datetime.now(UTC) + timedelta(days=400)
    keys = repository.root.parent / "keys"
    ends = ReleaseRepository(repository.root, keys, clock=lambda: later).near_end()
    exported = {line.split()[0] for line in ends if "takt keys export" in line}
    assert exported == {"root", "targets"} and len(ends) == 4
