"""Key files: a signing key made outside of any storage folder, and its public part.

A private key is PKCS#8 in PEM, encrypted by a passphrase, readable by its owner; the
public part is a PEM of its own, which is what a repository needs to know. A public key
that a device has made is read from the same form. Not here: signing
(`cloud.publishing.offline_signing`), the keys of a storage folder (`signing_keys`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import (
    PrivateKeyTypes,
    PublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error
from securesystemslib.signer import CryptoSigner, SecretsHandler, SSlibKey

from cloud.publishing.signers import read_private_key
from common.durable import fsync_folder, make_folder, storing, write_atomic
from common.errors import ConfigError

PUBLIC_SUFFIX = ".pub"
_PUBLIC = b"-----BEGIN PUBLIC KEY-----"


@dataclass(frozen=True)
class PublicKey:
    """The public part of a key.

    Attributes:
        key: as metadata hold it.
        pem: as a file holds it.
    """

    key: SSlibKey
    pem: bytes

    @classmethod
    def of(cls, public_key: PublicKeyTypes) -> "PublicKey":
        """Take a public key of the cryptography library.

        Raises:
            ValueError: it is of a kind that cannot sign releases.
        """
        pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return cls(SSlibKey.from_crypto(public_key), pem)


def make_key_file(path: Path, passphrase: str | None) -> PublicKey:
    """Make an Ed25519 key: `path` takes the private part, `path`.pub the public one.

    Args:
        path: of the private part.
        passphrase: encrypts it; None: it is not encrypted.

    Raises:
        ConfigError: there is a file already.
        StorageError: a file cannot be written.
    """
    private_key = Ed25519PrivateKey.generate()
    made = PublicKey.of(private_key.public_key())
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    if public.exists():
        raise _is_there(public)
    write_private_key(path, private_key, passphrase)
    write_atomic(public, made.pem)
    return made


def write_private_key(
    path: Path,
    private_key: PrivateKeyTypes,
    passphrase: str | None,
    *,
    point: str | None = None,
) -> None:
    """Write a private key to a new file of its owner's alone.

    Args:
        path: of the file.
        private_key: what it takes.
        passphrase: encrypts it; None: it is not encrypted.
        point: prefix of the fault points.

    Raises:
        ConfigError: there is a file already.
        StorageError: it cannot be written.
    """
    if path.exists():
        raise _is_there(path)
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode())
    data = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    make_folder(path.parent)
    write_atomic(path, data, point=point, mode=0o600)


def holds_private_key(
    path: Path, private_key: PrivateKeyTypes, passphrase: str | None, *, besides: Path
) -> bool:
    """Tell whether a file holds this private key, safely, by this passphrase.

    Args:
        path: of the file.
        private_key: the key.
        passphrase: as for `write_private_key`.
        besides: a file of the key that does not count, by whatever name.

    Raises:
        StorageError: it cannot be said whether the file would outlast a power cut.
    """
    try:
        if path.samefile(besides):
            return False
        secret = None if passphrase is None else passphrase.encode()
        found = load_pem_private_key(path.read_bytes(), secret)
        is_same = PublicKey.of(found.public_key()) == PublicKey.of(
            private_key.public_key()
        )
    except (OSError, ValueError, TypeError, Error, UnsupportedAlgorithm):
        return False
    if is_same:
        with storing(path):
            fsync_folder(path.parent)
    return is_same


def read_public_key(path: Path, secret: SecretsHandler) -> PublicKey:
    """Read a public key from its own file, or from that of its private part.

    Args:
        path: of a PEM file.
        secret: knows the passphrase of an encrypted private part.

    Raises:
        ConfigError: it cannot be read, or holds no key that can sign releases.
    """
    with _reading(path):
        data = path.read_bytes()
        if _PUBLIC in data:
            return PublicKey.of(load_pem_public_key(data))
        return PublicKey.of(read_private_key(path, secret).public_key())


def read_signer(path: Path, secret: SecretsHandler) -> CryptoSigner:
    """Read a private key, for signing.

    Raises:
        ConfigError: it cannot be read, or holds no key that can sign releases.
    """
    with _reading(path):
        return CryptoSigner(read_private_key(path, secret))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise ConfigError(
            f"cannot read key {path}: {e.strerror or e}; name the file of a key"
        ) from e
    except (ValueError, TypeError, Error, UnsupportedAlgorithm) as e:
        raise ConfigError(  # a library's text would send the user to its own FAQ
            f"{path} holds no key that can be used; expected PEM, as `takt keys make` "
            "writes, and the right passphrase"
        ) from e


def _is_there(path: Path) -> ConfigError:
    return ConfigError(f"{path} is there already; no key is ever replaced")
