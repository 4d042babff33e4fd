"""Roles that several keys sign for: m of n, a lost one, others in their place."""

from pathlib import Path

import pytest
from repository_site import Node, draft, newest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from cloud.publishing.ceremony import Ceremony
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.role_changes import RoleChange
from cloud.publishing.signing_keys import RoleKeys
from common.errors import ConfigError, StorageError, TrustError


@pytest.fixture
def keys(repository: ReleaseRepository, tmp_path: Path) -> RoleKeys:
    return RoleKeys(tmp_path / "keys")


def root_of(repository: ReleaseRepository) -> Root:
    return Metadata[Root].from_bytes(repository.root_json()).signed


def two_of_three(ceremony: Ceremony, keys: RoleKeys, role: str) -> list[str]:
    """Let two of three keys sign for a role; return their ids, the first one first."""
    new = tuple(keys.make(role).public_key for _ in range(2))
    ceremony.change(RoleChange(role, add=new, threshold=2))
    (found,) = [status for status in ceremony.roles() if status.role == role]
    assert (found.threshold, len(found.keys)) == (2, 3)
    return [keyid for keyid, _ in found.keys]


@pytest.mark.parametrize("role", ["root", "targets"])
def test_nodes_follow_to_a_threshold_of_two_of_three(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
    node: Node,
    role: str,
) -> None:
    repository.publish(draft(), knowledge)
    assert node.version() == 1
    two_of_three(ceremony, keys, role)
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2


def test_a_publish_has_the_signatures_of_as_many_keys_as_the_threshold_says(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
) -> None:
    named = two_of_three(ceremony, keys, "targets")
    repository.publish(draft(), knowledge)
    path = newest(repository.root / "metadata", "targets")
    signatures = Metadata.from_file(str(path)).signatures
    assert len(signatures) == 2
    assert set(signatures) < set(named)


@pytest.mark.parametrize("role", ["root", "targets"])
@pytest.mark.parametrize("lost", range(3))
def test_any_one_of_three_keys_may_be_lost_and_replaced(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
    node: Node,
    role: str,
    lost: int,
) -> None:
    named = two_of_three(ceremony, keys, role)
    keys.forget(role, named[lost])
    repository.publish(draft(), knowledge)
    assert node.version() == 1
    new = keys.make(role).public_key
    ceremony.change(RoleChange(role, add=(new,), remove=(named[lost],)))
    assert named[lost] not in root_of(repository).roles[role].keyids
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2


def test_a_publish_with_too_few_keys_names_the_missing_ones_and_changes_nothing(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
    node: Node,
) -> None:
    repository.publish(draft(), knowledge)
    for keyid in two_of_three(ceremony, keys, "targets")[:2]:
        keys.forget("targets", keyid)
    with pytest.raises(StorageError, match="targets needs 2 signatures and has 1: "):
        repository.publish(draft(), knowledge, force=True)
    assert node.version() == 1


def test_a_root_of_too_few_keys_changes_nothing(
    repository: ReleaseRepository, ceremony: Ceremony, keys: RoleKeys
) -> None:
    for keyid in two_of_three(ceremony, keys, "root")[1:]:
        keys.forget("root", keyid)
    before = repository.root_json()
    with pytest.raises(StorageError, match="root needs 2 signatures and has 1"):
        ceremony.change(RoleChange("root", threshold=1))
    assert repository.root_json() == before


def test_all_keys_of_targets_may_be_lost_as_long_as_root_is_there(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
    node: Node,
) -> None:
    repository.publish(draft(), knowledge)
    named = two_of_three(ceremony, keys, "targets")
    assert node.version() == 1
    for keyid in named:
        keys.forget("targets", keyid)
    new = tuple(keys.make("targets").public_key for _ in range(2))
    ceremony.change(RoleChange("targets", add=new, remove=tuple(named)))
    assert node.version() == 1
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2
    assert root_of(repository).roles["targets"].threshold == 2


def test_rotating_a_role_of_several_keys_says_how_it_is_done(
    repository: ReleaseRepository, ceremony: Ceremony, keys: RoleKeys
) -> None:
    two_of_three(ceremony, keys, "targets")
    with pytest.raises(ConfigError, match=r"3 keys; .*takt keys change targets"):
        repository.rotate("targets")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (RoleChange("mirrors"), "expected one of root"),
        (RoleChange("targets", threshold=2), "2 signatures of 1 keys"),
        (RoleChange("root", remove=("0" * 16,)), "root has no key '0000"),
        (RoleChange("root", remove=("",)), "expected eight digits"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_by_name(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    change: RoleChange,
    message: str,
) -> None:
    before = repository.root_json()
    with pytest.raises(ConfigError, match=message):
        ceremony.change(change)
    assert repository.root_json() == before


def test_a_key_that_has_a_role_is_not_added_again(
    repository: ReleaseRepository, ceremony: Ceremony
) -> None:
    root = root_of(repository)
    key = root.keys[root.roles["root"].keyids[0]]
    with pytest.raises(ConfigError, match=r"root has key .* already"):
        ceremony.change(RoleChange("root", add=(key,)))


def test_the_last_key_of_a_role_is_not_removed(
    repository: ReleaseRepository, ceremony: Ceremony
) -> None:
    (keyid,) = root_of(repository).roles["targets"].keyids
    with pytest.raises(ConfigError, match="1 signatures of 0 keys"):
        ceremony.change(RoleChange("targets", remove=(keyid[:8],)))


def test_keys_that_are_not_here_have_to_sign_before_they_alone_are_named(
    repository: ReleaseRepository, ceremony: Ceremony
) -> None:
    elsewhere = CryptoSigner.generate_ed25519().public_key
    (keyid,) = root_of(repository).roles["targets"].keyids
    before = repository.root_json()
    with pytest.raises(StorageError, match="new keys of targets are not here"):
        ceremony.change(RoleChange("targets", add=(elsewhere,), remove=(keyid,)))
    assert repository.root_json() == before


def test_each_key_of_a_role_may_lie_at_a_place_of_its_own(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
    node: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, keyid in enumerate(two_of_three(ceremony, keys, "targets")):
        secret = f"secret {number}"
        place = tmp_path / f"stick-{number}" / "targets.pem"
        ceremony.take_offline("targets", place, secret, prefix=keyid)
        (tmp_path / f"s{number}").write_text(secret)
        variable = f"TAKT_TARGETS_SECRET_{keyid[:8].upper()}"
        monkeypatch.setenv(variable, str(tmp_path / f"s{number}"))
    assert not list((tmp_path / "keys").glob("targets-*.pem"))
    repository.publish(draft(), knowledge)
    assert node.version() == 1
    (tmp_path / "stick-1" / "targets.pem").unlink()
    repository.publish(draft(), knowledge, force=True)
    assert node.version() == 2


def test_who_has_no_keys_reads_what_several_keys_have_signed(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
    tmp_path: Path,
) -> None:
    two_of_three(ceremony, keys, "targets")
    repository.publish(draft(), knowledge)
    reader = ReleaseRepository(repository.root, tmp_path / "none")
    assert reader.versions() == {"digits": 1}


def test_a_place_that_was_noted_for_a_role_is_kept_for_its_other_keys(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    tmp_path: Path,
) -> None:
    first, second, third = two_of_three(ceremony, keys, "targets")
    keys.place("targets", first).rename(tmp_path / "first.pem")
    noted = f"file2:{tmp_path}/first.pem"
    (tmp_path / "keys" / "signers.toml").write_text(f'targets = "{noted}"')
    ceremony.take_offline("targets", tmp_path / "second.pem", None, prefix=second)
    assert keys.uri("targets", first) == noted
    assert keys.uri("targets", second) == f"encrypted:{tmp_path}/second.pem"
    assert keys.uri("targets", third) == f"file2:{keys.place('targets', third)}"


def test_nodes_refuse_a_release_that_fewer_keys_signed(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    keys: RoleKeys,
    knowledge: Path,
    node: Node,
) -> None:
    repository.publish(draft(), knowledge)
    two_of_three(ceremony, keys, "targets")
    data = ceremony.export("targets")
    metadata = Metadata.from_bytes(data)
    root = root_of(repository)
    keyid = root.roles["targets"].keyids[0]
    metadata.sign(keys.load("targets", root.keys[keyid]), append=True)
    with pytest.raises(TrustError, match="targets was signed by 1/2 keys"):
        ceremony.accept(metadata.to_bytes())
    assert node.version() == 1
