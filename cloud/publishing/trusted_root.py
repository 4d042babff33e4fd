"""Which root of the repository is trusted: the chain from the last one that takt wrote.

The metadata's folder is served to nodes, and more people may write it than the folder
of the keys. So a copy of the newest root that was written here lies beside the keys, in
``root.json``, and a root in the metadata's folder counts as nodes count it: it follows
from that copy, step by step, each signed by enough keys of the one before and of its
own. Where that copy is, a repository was in use: it is restored, never made anew. Not
here: the other roles, and signing (`cloud.publishing.tuf_metadata`).
"""

from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from cloud.publishing.roles import ROLES, TIMESTAMP_FILE
from cloud.publishing.signing_keys import RoleKeys
from common.durable import make_folder, write_atomic
from common.errors import StorageError

ANCHOR = "root.json"


class TrustedRoot:
    """The roots in a folder of metadata, as far as they can be trusted."""

    def __init__(self, folder: Path, keys: RoleKeys) -> None:
        """Use the roots in `folder`, trusted from the copy beside `keys` on."""
        self.folder = folder
        self._keys = keys
        self._anchor = keys.folder / ANCHOR

    def newest(self) -> tuple[Metadata[Root], bytes]:
        """Return the newest trusted root, and its file.

        Raises:
            RepositoryError, ValueError: a root does not follow from the one before,
                or there is none.
            StorageError: the newest one that takt wrote is missing.
            OSError: there is no root.
        """
        data = self._start()
        root = Metadata[Root].from_bytes(data)
        while True:
            path = self.folder / f"{root.signed.version + 1}.root.json"
            try:
                following = path.read_bytes()
            except FileNotFoundError:
                return root, data
            root, data = follow(root.signed, following), following

    def is_in_use(self) -> bool:
        """Tell whether there is a repository, or else one may be made.

        Raises:
            StorageError: there was one, whose roots nodes follow.
        """
        # The last file of a creation: without it no client looks.
        if (self.folder / TIMESTAMP_FILE).exists():
            return True
        if self._anchor.exists():
            raise StorageError(
                f"no {self.folder / TIMESTAMP_FILE}, but {self._anchor} is of a "
                f"repository that was in use; restore {self.folder} from a backup (no "
                "node would accept the keys of a new one)"
            )
        return False

    def trust(self, data: bytes) -> None:
        """Keep a root that was read, or written, as the one to start from.

        Nothing is kept before the first timestamp: a creation that was killed is made
        again.

        Raises:
            StorageError: the folder of the keys cannot be written.
        """
        if not (self.folder / TIMESTAMP_FILE).exists():
            return
        if not self._anchor.exists() or self._anchor.read_bytes() != data:
            make_folder(self._keys.folder, mode=0o700)
            write_atomic(self._anchor, data, mode=0o600)

    def _start(self) -> bytes:
        try:
            data = self._anchor.read_bytes()
        except OSError:
            return self._first_use()
        version = Metadata[Root].from_bytes(data).signed.version
        path = self.folder / f"{version}.root.json"
        try:
            found = path.read_bytes()
        except OSError as e:
            raise StorageError(
                f"cannot read {path}: {e.strerror}; that root was written here, "
                "restore the repository from a newer backup"
            ) from e
        if found != data:
            raise ValueError(f"{path.name} is not what was written here")
        return data

    def _first_use(self) -> bytes:
        """Return the newest root of a repository that this takt has not signed yet.

        Without the copy nothing tells a root of takt's from one that somebody else
        put there, so that only its usual form is accepted: one key for each role.
        Where no keys are nothing is signed, and the root is taken as it is.
        """
        versions = [
            int(path.name.partition(".")[0])
            for path in self.folder.glob("*.root.json")
            if path.name.partition(".")[0].isdecimal()
        ]
        data = (self.folder / f"{max(versions, default=1)}.root.json").read_bytes()
        root = Metadata[Root].from_bytes(data)
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
        for role in ROLES if self._keys.folder.exists() else ():
            keyids = root.signed.roles[role].keyids
            if len(keyids) != 1 and keyids != self._keys.succession(role):
                raise ValueError(f"expected one key for {role}")
        return data


def follow(previous: Root, data: bytes) -> Metadata[Root]:
    """Read a root that follows from the one before.

    Raises:
        RepositoryError: it is no root, or does not follow: other version, or too few
            signatures.
    """
    root = Metadata[Root].from_bytes(data)
    try:
        result = root.signed.get_root_verification_result(
            previous, root.signed_bytes, root.signatures
        )
    except ValueError as e:
        raise RepositoryError(str(e)) from e
    for part in (result.first, result.second):
        if not part:
            raise RepositoryError(
                f"root was signed by {len(part.signed)}/{part.threshold} keys"
            )
    return root
