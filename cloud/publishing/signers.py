"""From a URI to a signer: where a private key lies, and what opens it.

The schemes are those of securesystemslib (``file2``, ``hsm``, ``awskms``, ``gcpkms``,
``azurekms``, ``hv``, ``gnupg``, ``tkey``), and one of takt's own in the library's
table: ``encrypted:PATH``, a PKCS#8 file with a passphrase. See
https://github.com/secure-systems-lab/securesystemslib, "Signer". Not here: which key a
role has (`cloud.publishing.signing_keys`), making keys (`cloud.publishing.key_files`).
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    SecretsHandler,
    Signer,
    SSlibKey,
)
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from cloud.publishing.roles import SHORT
from common.errors import StorageError, one_line

PASSPHRASE = "passphrase"  # what the handler of an encrypted file is asked for
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_NOT_INSTALLED = (ImportError, UnsupportedLibraryError)
# What installs the library that a scheme needs.
_INSTALL = {
    "hsm": "pip install 'securesystemslib[hsm]'",
    "awskms": "pip install 'securesystemslib[awskms]'",
    "gcpkms": "pip install 'securesystemslib[gcpkms]'",
    "azurekms": "pip install 'securesystemslib[azurekms]'",
    "hv": "pip install 'securesystemslib[vault]'",
    "tkey": "pip install 'securesystemslib[tkey]'",
    "gnupg": "install the program gpg",
}


class EncryptedSigner(CryptoSigner):
    """A signer whose private key is a PEM file with a passphrase."""

    SCHEME = "encrypted"

    @classmethod
    def from_priv_key_uri(
        cls,
        priv_key_uri: str,
        public_key: Key,
        secrets_handler: SecretsHandler | None = None,
    ) -> "EncryptedSigner":
        """Open ``encrypted:PATH``; the handler is asked for "passphrase".

        Raises:
            OSError: the file cannot be read.
            ValueError: the passphrase is wrong, or it holds another key.
        """
        if not isinstance(public_key, SSlibKey) or secrets_handler is None:
            raise ValueError("expected a key of a file, and who knows its passphrase")
        path = Path(urlparse(priv_key_uri).path)
        return cls(read_private_key(path, secrets_handler), public_key)


SIGNER_FOR_URI_SCHEME[EncryptedSigner.SCHEME] = EncryptedSigner


def is_uri(text: str) -> bool:
    """Tell whether a text names a key by a scheme that is known here."""
    scheme, colon, _ = text.partition(":")
    return bool(colon) and scheme in SIGNER_FOR_URI_SCHEME


def read_private_key(path: Path, secret: SecretsHandler) -> PrivateKeyTypes:
    """Read a private key, PEM; `secret` is asked only where it is encrypted.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no private key, or the passphrase is wrong.
    """
    data = path.read_bytes()
    passphrase = secret(PASSPHRASE).encode() if _ENCRYPTED in data else None
    return load_pem_private_key(data, passphrase)


def open_signer(uri: str, key: Key, secret: SecretsHandler, *, name: str) -> Signer:
    """Return the signer at a URI.

    Args:
        uri: of the private key.
        key: its public part; a signer of another key is refused.
        secret: answers with a passphrase or PIN.
        name: what messages call the key, for instance "the root key".

    Raises:
        StorageError: the key is not there, is another one or does not work, or a
            library is not installed; one line.
    """
    try:
        signer = Signer.from_priv_key_uri(uri, key, secret)
        if signer.public_key.keyid != key.keyid:
            raise ValueError(f"it holds key {signer.public_key.keyid[:SHORT]}")
    except StorageError:
        raise
    except OSError as e:
        raise StorageError(
            f"cannot read {name} {uri}: {e.strerror or one_line(e)}; releases can only "
            "be signed where the keys are"
        ) from e
    except Exception as e:  # each signer of the library has errors of its own
        raise does_not_work(uri, e, name=name, wanted=key) from e
    return signer


def add_signature(
    metadata: Metadata[Any], signer: Signer, uri: str, *, name: str
) -> None:
    """Sign metadata; signatures that it has stay.

    Args:
        metadata: gets one signature more.
        signer: a key that was opened.
        uri: where it lies, for messages.
        name: what messages call the key.

    Raises:
        StorageError: the key does not sign, or a library is not installed; one line.
    """
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as e:
        cause = e.__cause__ or e
        if isinstance(cause, _NOT_INSTALLED):
            raise does_not_work(uri, cause, name=name, wanted=signer.public_key) from e
        raise StorageError(f"{name} {uri} does not sign: {one_line(cause)}") from e


def does_not_work(
    uri: str, error: BaseException, *, name: str, wanted: Key
) -> StorageError:
    """Say in one line why a key cannot be used, and what helps."""
    scheme = uri.partition(":")[0]
    if isinstance(error, _NOT_INSTALLED):
        how = _INSTALL.get(scheme, f"see {type(error).__name__}: {one_line(error)}")
        return StorageError(f"{name} {uri} needs what is not installed here: {how}")
    if scheme not in SIGNER_FOR_URI_SCHEME:
        known = ", ".join(sorted(SIGNER_FOR_URI_SCHEME))
        return StorageError(
            f"{name} {uri} does not work: '{scheme}' is no scheme of a key, expected "
            f"one of {known}"
        )
    return StorageError(
        f"{name} {uri} does not work: {one_line(error)}; expected key "
        f"{wanted.keyid[:SHORT]}, restore it from a backup"
    )
