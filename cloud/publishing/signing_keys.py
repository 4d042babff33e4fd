"""The keys that sign releases: one Ed25519 key a role, in a folder of their own.

A key's file is named after its role and key id, so that the trusted root, which
lists key ids, determines which file is current and a rotation never overwrites one. Not
here: what gets signed (`cloud.publishing.repository`), and any network identity
(`cloud.pki.authority`).
"""

from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey

from common.durable import make_folder, write_atomic
from common.errors import StorageError

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

    def load(self, role: str, keyid: str) -> CryptoSigner:
        """Return the signer of the key that the trusted root names for a role.

        Raises:
            StorageError: the key is not here, not readable or not that key.
        """
        path = self._path(role, keyid)
        try:
            private_key = load_pem_private_key(path.read_bytes(), None)
            public_key = SSlibKey.from_crypto(private_key.public_key())
        except OSError as e:
            raise StorageError(
                f"cannot read the {role} key {path}: {e.strerror}; releases can only "
                "be signed where the keys are"
            ) from e
        except ValueError as e:
            raise StorageError(f"the {role} key {path} is damaged: {e}") from e
        if public_key.keyid != keyid:
            raise StorageError(
                f"{path} holds key {public_key.keyid[:16]}, expected {keyid[:16]}; "
                "restore the key from a backup"
            )
        return CryptoSigner(private_key, public_key)

    def _path(self, role: str, keyid: str) -> Path:
        return self.folder / f"{role}-{keyid[:16]}.pem"
