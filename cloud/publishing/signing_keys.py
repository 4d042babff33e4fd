"""The keys that sign releases: one a role, in a folder of their own or elsewhere.

A key's file is named after its role and key id, so that the trusted root, which
lists key ids, determines which file is current and a rotation never overwrites one.
A key that is not there is looked for where ``signers.toml`` in the folder says, a URI
a role:

    root = "encrypted:/media/stick/root.pem"    PKCS#8 with a passphrase
    targets = "file2:/media/stick/targets.pem"  as it is; or another of securesystemslib

A passphrase or PIN is read from the file that ``TAKT_ROOT_SECRET`` (or another role's)
names. Keys are made here, as files: a device that makes its own cannot take a role. See
https://github.com/secure-systems-lab/securesystemslib, "Signer".

Not here: what gets signed (`cloud.publishing.repository`), and any network identity
(`cloud.pki.authority`).
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key, Signer

from common.durable import make_folder, write_atomic
from common.errors import ConfigError, StorageError, one_line

SIGNERS = "signers.toml"
ROLES = ("root", "targets", "snapshot", "timestamp")


class RoleKeys:
    """The private keys in one folder; readable by their owner only."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; it is made with the first key."""
        self.folder = folder

    def make(self, role: str) -> CryptoSigner:
        """Make and keep a new key for a role.

        Raises:
            StorageError: the folder cannot be written.
        """
        make_folder(self.folder, mode=0o700)
        signer = CryptoSigner.generate_ed25519()
        path = self._path(role, signer.public_key.keyid)
        write_atomic(path, signer.private_bytes, mode=0o600)
        return signer

    def note_succession(self, role: str, keyids: Sequence[str]) -> None:
        """Keep which keys a root may name together: a lost one, and its successor.

        Here and not beside the root, whose folder more people may write.

        Raises:
            StorageError: the folder cannot be written.
        """
        data = "\n".join(keyids).encode()
        write_atomic(self.folder / f"{role}.succession", data, mode=0o600)

    def succession(self, role: str) -> list[str]:
        """Return the key ids of the last `note_succession` of a role, else none."""
        try:
            return (self.folder / f"{role}.succession").read_text().split()
        except (OSError, ValueError):
            return []

    def load(self, role: str, key: Key) -> Signer:
        """Return the signer of the key that the trusted root names for a role.

        Raises:
            ConfigError: ``signers.toml`` is not as it should be.
            StorageError: the key is not here, not readable or not that key.
        """
        path = self._path(role, key.keyid)
        uri = None if path.exists() else self._uris().get(role)
        try:
            if uri is None:
                return _from_file(path, key, None)
            if uri.startswith("encrypted:"):
                place = Path(urlparse(uri).path)
                return _from_file(place, key, _secret(role).encode())
            return Signer.from_priv_key_uri(uri, key, lambda _: _secret(role))
        except StorageError:
            raise
        except OSError as e:
            raise StorageError(
                f"cannot read the {role} key {uri or path}: {e.strerror or e}; "
                "releases can only be signed where the keys are"
            ) from e
        except Exception as e:  # each signer of the library has errors of its own
            raise StorageError(
                f"the {role} key {uri or path} does not work: {one_line(e)}; expected "
                f"key {key.keyid[:16]}, restore it from a backup"
            ) from e

    def _uris(self) -> dict[str, str]:
        path = self.folder / SIGNERS
        try:
            uris = tomllib.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            raise ConfigError(f"cannot read {path}: {one_line(e)}") from e
        for role, uri in uris.items():
            if role not in ROLES or not isinstance(uri, str) or ":" not in uri:
                raise ConfigError(
                    f"{path}: {role} = {uri!r}, expected one of {', '.join(ROLES)} and "
                    'a URI, for instance root = "encrypted:/media/stick/root.pem"'
                )
        return uris

    def _path(self, role: str, keyid: str) -> Path:
        return self.folder / f"{role}-{keyid[:16]}.pem"


def _from_file(path: Path, key: Key, secret: bytes | None) -> CryptoSigner:
    private_key = load_pem_private_key(path.read_bytes(), secret)
    found = CryptoSigner(private_key)
    if found.public_key.keyid != key.keyid:
        raise ValueError(f"it holds key {found.public_key.keyid[:16]}")
    return found


def _secret(role: str) -> str:
    """Read a passphrase or PIN; a final line break is none of it.

    Raises:
        StorageError: there is none.
    """
    name = f"TAKT_{role.upper()}_SECRET"
    path = os.environ.get(name)
    if not path:
        raise StorageError(
            f"the {role} key wants a passphrase or PIN; name the file that holds it in "
            f"{name}"
        )
    try:
        return Path(path).read_text().rstrip("\r\n")
    except (OSError, ValueError) as e:
        raise StorageError(f"cannot read {path}, named by {name}: {one_line(e)}") from e
