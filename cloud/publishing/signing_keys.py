"""The keys that sign releases: some for each role, in a folder or elsewhere.

A key's file is named after its role and key id, so that the trusted root, which lists
key ids, determines which file is current and a rotation never overwrites one. A key
that is not there is looked for where ``signers.toml`` in the folder says, by URI
(`cloud.publishing.signers`), for a role or for each of its keys by key id:

    root = "encrypted:/media/stick/root.pem"    PKCS#8 with a passphrase
    [targets]
    0f1e2d3c4b5a6978 = "hsm:2"

A passphrase or PIN is read from the file that ``TAKT_ROOT_SECRET`` (or another role's)
names; where the keys of a role have several, ``TAKT_ROOT_SECRET_0F1E2D3C``, with the
first eight digits of the key id, comes first. Not here: what gets signed
(`cloud.publishing.repository`), which root is trusted (`trusted_root`), and any network
identity (`cloud.pki.authority`).
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomlkit
from securesystemslib.signer import CryptoSigner, Key, Signer
from tuf.api.metadata import Metadata, Root

from cloud.publishing.roles import ROLES, SHORT
from cloud.publishing.signers import add_signature, open_signer
from common.durable import make_folder, storing, write_atomic
from common.errors import ConfigError, StorageError
from common.text_file import read_text, reason_of

SIGNERS = "signers.toml"


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
        path = self.place(role, signer.public_key.keyid)
        write_atomic(path, signer.private_bytes, mode=0o600)
        return signer

    def place(self, role: str, keyid: str) -> Path:
        """Return where the file of a key lies, if it is here."""
        return self.folder / f"{role}-{keyid[:SHORT]}.pem"

    def forget(self, role: str, keyid: str) -> None:
        """Remove the file of a key that lies elsewhere by now.

        Raises:
            StorageError: it cannot be removed.
        """
        with storing(self.folder):
            self.place(role, keyid).unlink(missing_ok=True)

    def note_succession(self, role: str, keyids: Sequence[str]) -> None:
        """Keep which keys a root names together: lost ones, and their successors.

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

    def uri(self, role: str, keyid: str) -> str | None:
        """Return where a key lies: its file here, what signers.toml says, or None.

        Raises:
            ConfigError: ``signers.toml`` is not as it should be.
        """
        path = self.place(role, keyid)
        if path.exists():
            return f"file2:{path}"
        found = self._recorded().get(role)
        if not isinstance(found, dict):
            return found
        for prefix, uri in found.items():
            if keyid.startswith(prefix):
                return str(uri)
        return None

    def check_recorded(self) -> None:
        """Check that a place can be noted in ``signers.toml``.

        Raises:
            ConfigError: it is there, and not as it should be.
        """
        self._recorded()

    def record(self, role: str, keyid: str, uri: str, *, others: Sequence[str]) -> None:
        """Note in signers.toml where a key lies; what else it says stays.

        Args:
            role: of the key.
            keyid: the key.
            uri: where it lies.
            others: the role's other keys: what was noted for the role holds for those
                of them that are not here.

        Raises:
            ConfigError: ``signers.toml`` is not as it should be.
            StorageError: it cannot be written.
        """
        path = self.folder / SIGNERS
        of_role = self._recorded().get(role)
        document = tomlkit.parse(read_text(path) if path.exists() else "")
        if isinstance(of_role, str):
            del document[role]
        table = document.setdefault(role, tomlkit.table())
        for other in others:
            if isinstance(of_role, str) and not self.place(role, other).exists():
                table[other[:SHORT]] = of_role
        table[keyid[:SHORT]] = uri
        data = tomlkit.dumps(document).encode()
        write_atomic(path, data, point="offline.noted", mode=0o600)

    def load(self, role: str, key: Key) -> Signer:
        """Return the signer of a key that the trusted root names for a role.

        Raises:
            ConfigError: ``signers.toml`` is not as it should be.
            StorageError: the key is not here, not readable or not that key.
        """
        uri = self.uri(role, key.keyid)
        if uri is None:
            raise StorageError(
                f"cannot read the {role} key {key.keyid[:SHORT]}: it is not in "
                f"{self.folder}, and {SIGNERS} there names no other place; releases "
                "can only be signed where the keys are"
            )
        return open_signer(
            uri, key, lambda _: _secret(role, key.keyid), name=f"the {role} key"
        )

    def sign(self, metadata: Metadata[Any], root: Root) -> None:
        """Add signatures until a root's threshold for that role is reached.

        Newest keys first: of a key that was lost its successor is the last one.

        Raises:
            ConfigError: ``signers.toml`` is not as it should be.
            StorageError: too few of the role's keys can be used; each is named.
        """
        role = metadata.signed.type
        named = root.roles[role]
        failures: list[str] = []
        num_signed = sum(keyid in metadata.signatures for keyid in named.keyids)
        for keyid in reversed(named.keyids):
            if num_signed >= named.threshold:
                return
            if keyid in metadata.signatures:
                continue
            try:
                self._sign_with(metadata, role, root.keys[keyid])
                num_signed += 1
            except StorageError as e:
                failures.append(str(e))
        if num_signed < named.threshold:
            why = "; ".join(failures)
            if named.threshold > 1:
                why = (
                    f"{role} needs {named.threshold} signatures and has {num_signed}: "
                    f"{why}"
                )
            raise StorageError(why)

    def can_sign(self, role: str, root: Root) -> bool:
        """Tell whether a role's threshold can be reached with the keys at hand.

        Raises:
            ConfigError: ``signers.toml`` is not as it should be.
        """
        usable = 0
        for keyid in root.roles[role].keyids:
            try:
                self.load(role, root.keys[keyid])
                usable += 1
            except StorageError:
                continue
        return usable >= root.roles[role].threshold

    def _sign_with(self, metadata: Metadata[Any], role: str, key: Key) -> None:
        signer, uri = self.load(role, key), self.uri(role, key.keyid) or ""
        add_signature(metadata, signer, uri, name=f"the {role} key")

    def _recorded(self) -> dict[str, str | dict[str, str]]:
        """Read signers.toml: a URI, or URIs by key id, for some of the roles."""
        path = self.folder / SIGNERS
        try:
            found: dict[str, Any] = tomllib.loads(read_text(path))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            raise ConfigError(f"cannot read {path}: {reason_of(e)}; correct it") from e
        for role, where in found.items():
            uris = where.values() if isinstance(where, dict) else (where,)
            good = all(isinstance(uri, str) and ":" in uri for uri in uris)
            if role not in ROLES or not good:
                raise ConfigError(
                    f"{path}: {role} = {where!r}, expected one of {', '.join(ROLES)} "
                    'and a URI, for instance root = "encrypted:/media/stick/root.pem"'
                )
        return found


def _secret(role: str, keyid: str) -> str:
    """Read a passphrase or PIN; a final line break is none of it.

    Raises:
        StorageError: there is none.
    """
    of_role = f"TAKT_{role.upper()}_SECRET"
    of_key = f"{of_role}_{keyid[:8].upper()}"
    name = of_key if os.environ.get(of_key) else of_role
    path = os.environ.get(name)
    if not path:
        raise StorageError(
            f"the {role} key wants a passphrase or PIN; name the file that holds it in "
            f"{name}"
        )
    try:
        return read_text(Path(path)).rstrip("\r\n")
    except (OSError, ValueError) as e:
        raise StorageError(
            f"cannot read {path}, named by {name}: {reason_of(e)}; name the file that "
            "holds the passphrase or PIN"
        ) from e
