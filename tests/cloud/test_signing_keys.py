"""Keys of a role that lie elsewhere, by a URI in signers.toml."""

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from repository_site import Node, draft
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Key, Signature, Signer

from cloud.publishing.repository import ReleaseRepository
from common.errors import ConfigError, StorageError

SECRET = "correct horse"


def move_away(keys: Path, role: str, to: Path, secret: str | None = None) -> None:
    """Move a role's key, encrypted if there is a secret."""
    (path,) = keys.glob(f"{role}-*")
    data = path.read_bytes()
    if secret is not None:
        data = load_pem_private_key(data, None).private_bytes(
            Encoding.PEM,
            PrivateFormat.PKCS8,
            BestAvailableEncryption(secret.encode()),
        )
    to.write_bytes(data)
    path.unlink()


@pytest.fixture
def keys(tmp_path: Path, repository: ReleaseRepository) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def encrypted(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move the targets' key away, encrypted; return the file of its passphrase."""
    move_away(keys, "targets", tmp_path / "targets.pem", SECRET)
    uri = f"encrypted:{tmp_path}/targets.pem"
    (keys / "signers.toml").write_text(f'targets = "{uri}"')
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    monkeypatch.setenv("TAKT_TARGETS_SECRET", os.fspath(secret))
    return secret


def test_an_encrypted_key_signs_what_nodes_accept(
    repository: ReleaseRepository, encrypted: Path, knowledge: Path, node: Node
) -> None:
    assert repository.publish(draft(), knowledge).version == node.version() == 1


def test_a_key_is_named_by_a_uri_of_the_library(
    repository: ReleaseRepository,
    keys: Path,
    knowledge: Path,
    node: Node,
    tmp_path: Path,
) -> None:
    move_away(keys, "targets", tmp_path / "t.pem")
    (keys / "signers.toml").write_text(f'targets = "file2:{tmp_path}/t.pem"')
    assert repository.publish(draft(), knowledge).version == node.version() == 1


def test_a_wrong_passphrase_is_one_line(
    repository: ReleaseRepository, encrypted: Path, knowledge: Path
) -> None:
    encrypted.write_text("wrong")
    with pytest.raises(StorageError, match=r"targets key encrypted:.*does not work"):
        repository.publish(draft(), knowledge)


def test_a_passphrase_that_nobody_gave_is_asked_for_by_its_variable(
    repository: ReleaseRepository,
    encrypted: Path,
    knowledge: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TAKT_TARGETS_SECRET")
    with pytest.raises(StorageError, match="in TAKT_TARGETS_SECRET"):
        repository.publish(draft(), knowledge)


def test_a_file_of_a_passphrase_that_is_missing_is_named(
    repository: ReleaseRepository, encrypted: Path, knowledge: Path
) -> None:
    encrypted.unlink()
    with pytest.raises(StorageError, match=r"secret, named by TAKT_TARGETS_SECRET"):
        repository.publish(draft(), knowledge)


class Unplugged(Signer):
    """A device that is there when it is opened, and gone when it signs."""

    def __init__(self, key: Key) -> None:
        """Stand for a key."""
        self._key = key

    @property
    def public_key(self) -> Key:
        return self._key

    @classmethod
    def from_priv_key_uri(cls, uri: str, key: Key, secret: Any = None) -> "Unplugged":
        return cls(key)

    def sign(self, payload: bytes) -> Signature:
        raise RuntimeError("no token")


def test_a_signer_that_breaks_while_it_signs_is_one_line(
    repository: ReleaseRepository,
    keys: Path,
    knowledge: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "unplugged", Unplugged)
    (path,) = keys.glob("targets-*")
    path.unlink()
    (keys / "signers.toml").write_text('targets = "unplugged:1"')
    with pytest.raises(
        StorageError, match=r"targets key unplugged:1 does not sign: no token"
    ):
        repository.publish(draft(), knowledge)
    assert repository.versions() == {}


class NotInstalled(Unplugged):
    """A signer of the library whose own library is missing."""

    @classmethod
    def from_priv_key_uri(cls, uri: str, key: Key, secret: Any = None) -> "Unplugged":
        raise UnsupportedLibraryError("hvac required")


def test_a_library_that_is_not_installed_is_named_with_what_installs_it(
    repository: ReleaseRepository,
    keys: Path,
    knowledge: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "hv", NotInstalled)
    (path,) = keys.glob("targets-*")
    path.unlink()
    (keys / "signers.toml").write_text('targets = "hv:key/1"')
    with pytest.raises(StorageError, match=r"pip install 'securesystemslib\[vault\]'"):
        repository.publish(draft(), knowledge)


def test_a_key_elsewhere_that_is_another_one_is_refused(
    repository: ReleaseRepository, keys: Path, knowledge: Path, tmp_path: Path
) -> None:
    move_away(keys, "snapshot", tmp_path / "other.pem")
    move_away(keys, "targets", tmp_path / "t.pem")
    for scheme in ("file2", "encrypted"):
        (keys / "signers.toml").write_text(f'targets = "{scheme}:{tmp_path}/other.pem"')
        with pytest.raises(StorageError, match="targets key"):
            repository.publish(draft(), knowledge)


@pytest.mark.parametrize("uri", ["vault9:key", "hsm:2", "file2:/none"])
def test_a_signer_that_does_not_work_is_one_line(
    repository: ReleaseRepository, keys: Path, knowledge: Path, uri: str
) -> None:
    (path,) = keys.glob("targets-*")
    path.unlink()
    (keys / "signers.toml").write_text(f'targets = "{uri}"')
    with pytest.raises(StorageError, match=f"targets key {uri}") as caught:
        repository.publish(draft(), knowledge)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["mirrors = 'file2:/k'", "root = 1", "root ="])
def test_signers_that_make_no_sense_are_refused_by_name(
    repository: ReleaseRepository, keys: Path, knowledge: Path, text: str
) -> None:
    (path,) = keys.glob("targets-*")
    path.unlink()
    (keys / "signers.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"signers\.toml"):
        repository.publish(draft(), knowledge)


def test_a_rotated_key_signs_though_the_old_one_has_a_uri(
    repository: ReleaseRepository, encrypted: Path, knowledge: Path, node: Node
) -> None:
    repository.rotate("targets")
    encrypted.unlink()
    assert repository.publish(draft(), knowledge).version == node.version() == 1
