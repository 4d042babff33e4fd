"""Metadata as a file that is signed on another machine, which needs no storage folder.

The file is TUF metadata without, or with some, signatures; each signer adds one. Not
here: making the file and taking it back (`cloud.publishing.ceremony`).
"""

from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from cloud.publishing.role_changes import check_role
from cloud.publishing.roles import OFFLINE, SHORT
from cloud.publishing.signers import add_signature
from common.errors import ConfigError, one_line
from common.release import MANIFEST


def read_metadata(data: bytes) -> Metadata[Any]:
    """Read root or targets metadata that come from elsewhere.

    Raises:
        ConfigError: it is neither.
    """
    try:
        metadata = Metadata[Any].from_bytes(data)
        check_role(metadata.signed.type, OFFLINE)
    except (RepositoryError, ConfigError) as e:
        raise ConfigError(
            f"the file holds no root or targets metadata: {one_line(e)}; make it with "
            "`takt keys export`"
        ) from e
    return metadata


def with_signature(data: bytes, signer: Signer, uri: str) -> bytes:
    """Return a file of metadata with one signature more.

    Args:
        data: the file.
        signer: of a key.
        uri: where the key lies, for messages.

    Raises:
        ConfigError: it holds no metadata.
        StorageError: the key does not sign.
    """
    metadata = read_metadata(data)
    add_signature(metadata, signer, uri, name="the key")
    return metadata.to_bytes(JSONSerializer(compact=False))


def describe(data: bytes) -> list[str]:
    """Say what a file of metadata would bring into force, for who is to sign it.

    Raises:
        ConfigError: it holds no metadata.
    """
    metadata = read_metadata(data)
    signed = metadata.signed
    by = ", ".join(keyid[:SHORT] for keyid in metadata.signatures) or "nobody"
    lines = [
        f"{signed.type} version {signed.version}, until {signed.expires:%F %R} UTC",
        f"signed by {by}",
    ]
    return lines + (
        _describe_root(signed) if isinstance(signed, Root) else _releases(signed)
    )


def _describe_root(root: Root) -> list[str]:
    return [
        f"{name}: {role.threshold} of {len(role.keyids)} keys: "
        + ", ".join(keyid[:SHORT] for keyid in role.keyids)
        for name, role in root.roles.items()
    ]


def _releases(targets: Targets) -> list[str]:
    manifests = {
        path: target.hashes.get("sha256", "")
        for path, target in targets.targets.items()
        if path.endswith(f"/{MANIFEST}")
    }
    return [
        f"{path.removesuffix(f'/{MANIFEST}')}: manifest {digest}"
        for path, digest in sorted(manifests.items())
    ]
