"""What is done with the keys of a repository: whose they are, how many have to sign.

Rotating a key, other keys and thresholds, signing on another machine, taking a key out
of the storage folder. Each leaves entries in the trail. Not here: the signed metadata
itself (`cloud.publishing.tuf_metadata`), key files (`key_files`), signing without a
storage folder (`offline_signing`).
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from cloud.publishing.key_files import holds_private_key, write_private_key
from cloud.publishing.offline_signing import read_metadata
from cloud.publishing.role_changes import (
    RoleChange,
    accepts,
    changed,
    check_role,
    find_key,
    joined,
)
from cloud.publishing.roles import OFFLINE, ONLINE, ROLES, SHORT
from cloud.publishing.signers import EncryptedSigner, read_private_key
from cloud.publishing.signing_keys import SIGNERS, RoleKeys
from cloud.publishing.target_files import TargetFiles
from cloud.publishing.trusted_root import follow
from cloud.publishing.tuf_metadata import SignedMetadata, State
from cloud.trail import Trail, trail_beside
from common.clock import Clock, utc_now
from common.durable import locked
from common.errors import ConfigError, StorageError, TrustError


@dataclass(frozen=True)
class RoleStatus:
    """What a role is signed by.

    Attributes:
        role: its name.
        threshold: how many keys have to sign.
        keys: key id and place of each: a URI; None: nothing is known of it here.
        version: of its metadata.
        expires: of its metadata, UTC.
    """

    role: str
    threshold: int
    keys: tuple[tuple[str, str | None], ...]
    version: int
    expires: datetime


class Ceremony:
    """Changes of keys in one repository; one writer at a time."""

    def __init__(
        self,
        root: Path,
        keys: Path,
        *,
        clock: Clock = utc_now,
        trail: Trail | None = None,
    ) -> None:
        """Use the repository in `root` and the keys in folder `keys`.

        Args:
            root: of the repository.
            keys: the folder of the keys.
            clock: the wall clock, UTC.
            trail: takes what is done; None: that of the storage folder around.
        """
        self._lock = root / ".lock"
        self._keys = RoleKeys(keys)
        self._metadata = SignedMetadata(root / "metadata", self._keys, clock=clock)
        self._files = TargetFiles(root / "targets")
        self._trail = trail or trail_beside(root, clock=clock)
        self._clock = clock

    def roles(self) -> list[RoleStatus]:
        """Say of each role what it is signed by.

        Raises:
            ConfigError: ``signers.toml`` is not as it should be.
            StorageError: there is no repository, or it is damaged.
        """
        state = self._metadata.load()
        found = []
        for name in ROLES:
            role = state.root.signed.roles[name]
            signed = getattr(state, name).signed
            keys = tuple((k, self._keys.uri(name, k)) for k in role.keyids)
            found.append(
                RoleStatus(name, role.threshold, keys, signed.version, signed.expires)
            )
        return found

    def rotate(self, role: str) -> None:
        """Give a role a new key in the place of its one; clients follow.

        A rotation that was killed is done by calling this again.

        Raises:
            ConfigError: there is no such role, or it has several keys.
            StorageError: there is no repository, a key is missing, the disk is full.
        """
        check_role(role)
        with locked(self._lock):
            root = self._metadata.load().root
            keyids = root.signed.roles[role].keyids
            if len(keyids) > 1 and keyids != self._keys.succession(role):
                raise ConfigError(
                    f"{role} has {len(keyids)} keys; say which is replaced by which: "
                    f"`takt keys change {role} --remove KEYID --add PUBLIC`"
                )
            self._trail.record("rotate", role, digest=self._root_digest())
            new = self._keys.make(role).public_key
            self._change(RoleChange(role, (new,), tuple(keyids), 1), "rotate")
            self._trail.record("rotated", role, digest=self._root_digest())

    def change(self, change: RoleChange) -> None:
        """Change the keys or the threshold of a role, by the keys at hand.

        Clients follow: at each step the newest root accepts what is there.

        Raises:
            ConfigError: see `changed`.
            StorageError: there is no repository, keys are missing, the disk is full.
        """
        with locked(self._lock):
            role = changed(self._metadata.load().root.signed, change).roles[change.role]
            subject = f"{change.role} {role.threshold} of {len(role.keyids)}"
            self._trail.record("change", subject, digest=self._root_digest())
            self._change(change, "change")
            self._trail.record("changed", subject, digest=self._root_digest())

    def export(self, role: str, change: RoleChange | None = None) -> bytes:
        """Return the next version of root or targets as a file without signatures.

        Nothing changes before it comes back signed, see `accept`.

        Args:
            role: root or targets.
            change: of any role's keys, which the root takes up.

        Raises:
            ConfigError: another role is signed where the repository is; see `changed`.
            StorageError: there is no repository, or it is damaged.
        """
        check_role(role, OFFLINE)
        with locked(self._lock):
            state = self._metadata.load()
            metadata: Metadata[Any] = getattr(state, role)
            if change is not None:
                metadata = Metadata(changed(state.root.signed, change))
            data = self._metadata.unsigned(metadata)
            self._trail.record("export", _name(metadata), digest=_sha256(data))
            return data

    def accept(self, data: bytes) -> str:
        """Take root or targets metadata that were signed elsewhere.

        Args:
            data: what `export` returned, with signatures.

        Returns:
            What is in force now: the role and its version.

        Raises:
            ConfigError: it is of another version, has ended, or nodes would refuse the
                present metadata under a new root, and these cannot be signed for both.
            StorageError: a listed file is missing, a key of snapshot or timestamp is,
                the disk is full.
            TrustError: it is not signed by enough keys.
        """
        metadata = read_metadata(data)
        with locked(self._lock):
            state = self._metadata.load()
            self._check_next(state, metadata)
            try:
                if metadata.signed.type == "targets":
                    self._accept_targets(state, metadata, data)
                else:
                    self._accept_root(state, data)
            except RepositoryError as e:
                raise TrustError(
                    f"the file is refused: {e}; let more of the role's keys sign it "
                    "with `takt keys sign`"
                ) from e
        return _name(metadata)

    def take_offline(
        self, role: str, place: Path, passphrase: str | None, *, prefix: str = ""
    ) -> str:
        """Move a private key of root or targets out of the storage folder.

        Its file is written, read back, noted in signers.toml and only then removed
        here; what backups and the disk still hold of it is not in takt's hands. A call
        that was killed is done by calling this again.

        Args:
            role: root or targets.
            place: the file that it is moved to; it must be new, or hold that key by
                that passphrase already.
            passphrase: encrypts it there; None: it is not encrypted.
            prefix: first digits of its key id; "": the role's only key.

        Returns:
            The key id.

        Raises:
            ConfigError: there is no such role or key, or another file at `place`.
            StorageError: the key is not in the folder, or a file cannot be written.
        """
        check_role(role, OFFLINE)
        with locked(self._lock):
            keyids = self._metadata.load().root.signed.roles[role].keyids
            keyid = find_key(keyids, role, prefix) if prefix else _only(keyids, role)
            here = self._keys.place(role, keyid)
            self._keys.check_recorded()  # before the key is copied
            try:
                private_key = read_private_key(here, lambda _: "")
            except (OSError, ValueError, TypeError) as e:
                raise StorageError(
                    f"the {role} key {keyid[:SHORT]} is not at {here}: {e}; `takt keys "
                    "list` says where it lies"
                ) from e
            # There already is what a call that was killed has left.
            if not holds_private_key(place, private_key, passphrase, besides=here):
                write_private_key(place, private_key, passphrase, point="offline.copy")
                read_private_key(place, lambda _: passphrase or "")
            self._trail.record("offline", f"{role} {keyid[:SHORT]}", digest=keyid)
            uri = f"{EncryptedSigner.SCHEME}:{place.absolute()}"
            others = [other for other in keyids if other != keyid]
            self._keys.record(role, keyid, uri, others=others)
            self._keys.forget(role, keyid)
        return keyid

    def _change(self, change: RoleChange, point: str) -> None:
        state = self._metadata.load()
        following = changed(state.root.signed, change)
        if change.role != "root":
            self._serve(state, following, change.role, point)
        self._metadata.write_root(state, following, f"{point}.root")

    def _serve(self, state: State, following: Root, role: str, point: str) -> None:
        """Have a role signed so that both the present root and the next accept it."""
        if accepts(following, getattr(state, role)):
            return
        self._require_new_keys(role, following)
        if not self._keys.can_sign(role, state.root.signed):
            # Nothing can be signed by the old ones any more.
            both = joined(state.root.signed, following, role)
            self._keys.note_succession(role, both.roles[role].keyids)
            self._metadata.write_root(state, both, f"{point}.both")
        self._metadata.sign_again(state, role, point, following)

    def _check_next(self, state: State, metadata: Metadata[Any]) -> None:
        """Refuse a file that is not the next version of what is there.

        Raises:
            ConfigError: it is of another version, or has ended.
        """
        signed = metadata.signed
        expected = getattr(state, signed.type).signed.version + 1
        if signed.version != expected:
            raise ConfigError(
                f"the file has version {signed.version} of {signed.type}, expected "
                f"{expected}; export it again and have that signed"
            )
        if signed.expires <= self._clock():
            raise ConfigError(
                f"the file of {signed.type} ended at {signed.expires:%F %R} UTC; "
                "export it again and have that signed"
            )

    def _accept_targets(
        self, state: State, metadata: Metadata[Any], data: bytes
    ) -> None:
        state.root.signed.verify_delegate(
            "targets", metadata.signed_bytes, metadata.signatures
        )
        self._files.check(metadata.signed)
        before, state.targets = state.targets.signed, metadata
        self._trail.record("accept", _name(metadata), digest=_sha256(data))
        self._metadata.commit_targets(state, data, "accept")
        self._files.drop_unlisted(before, metadata.signed)

    def _accept_root(self, state: State, data: bytes) -> None:
        root = follow(state.root.signed, data)
        if not accepts(root.signed, state.targets):
            raise ConfigError(
                "nodes would refuse the present targets under that root; let its new "
                "keys sign targets first: `takt keys export targets FILE`"
            )
        for role in ONLINE:
            if not accepts(root.signed, getattr(state, role)):
                self._require_new_keys(role, root.signed)
                self._require_old_keys(role, state.root.signed)
        self._trail.record("accept", _name(root), digest=_sha256(data))
        for role in ONLINE:  # that of the snapshot signs the timestamp, too
            if not accepts(root.signed, getattr(state, role)):
                self._metadata.sign_again(state, role, "accept", root.signed)
        self._metadata.accept_root(root, data, "accept.root")

    def _require_new_keys(self, role: str, following: Root) -> None:
        """Refuse a root whose keys of a role cannot be used here.

        Raises:
            StorageError: so few are here.
        """
        if self._keys.can_sign(role, following):
            return
        how = (
            f"note in {self._keys.folder / SIGNERS} where they lie, by a line KEYID = "
            f'"URI" below [{role}]'
        )
        if role in OFFLINE:
            how = (
                f"let them sign first: `takt keys export {role} FILE`, `takt keys sign "
                "FILE KEY` with the old and the new ones, `takt keys accept FILE`"
            )
        raise StorageError(f"the new keys of {role} are not here; {how}")

    def _require_old_keys(self, role: str, present: Root) -> None:
        """Refuse to sign a role for another root as well where the present one cannot.

        Raises:
            ConfigError: so few of its keys are here.
        """
        if not self._keys.can_sign(role, present):
            raise ConfigError(
                f"the old keys of {role} are not here, and nodes ask for them until "
                "that root is in force; have another one signed and accepted first: "
                f"`takt keys change {role} --add PUBLIC --out FILE`, without --remove"
            )

    def _root_digest(self) -> str:
        return _sha256(self._metadata.root_json())


def _only(keyids: list[str], role: str) -> str:
    if len(keyids) != 1:
        raise ConfigError(
            f"{role} has {len(keyids)} keys; say which with --key: "
            + ", ".join(keyid[:SHORT] for keyid in keyids)
        )
    return keyids[0]


def _name(metadata: Metadata[Any]) -> str:
    return f"{metadata.signed.type} {metadata.signed.version}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
