"""The signed metadata of the release repository: one folder of TUF roles.

Holds N.root.json, N.targets.json, N.snapshot.json and timestamp.json. The timestamp is
written last and by rename, and every change starts from what it refers to: a change
that is killed is either invisible or complete. Not here: target files and releases
(`cloud.publishing.repository`), locking (the caller's), and the client's checks, which
are python-tuf's own. See https://theupdateframework.github.io/specification/latest/.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from cloud.publishing.signing_keys import ROLES, RoleKeys
from common.clock import Clock
from common.durable import write_atomic
from common.errors import ConfigError, StorageError, one_line

LIFETIMES = {
    "root": timedelta(days=365),
    "targets": timedelta(days=30),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=1),
}
# Left when it is said that a role was not signed again. At half its life it should
# have been; what follows is time to fetch a key that lies elsewhere.
NOTICE = {
    "root": timedelta(days=60),
    "targets": timedelta(days=10),
    "snapshot": timedelta(days=10),
    "timestamp": timedelta(hours=8),
}
_NONE: Mapping[str, Signer] = {}
KEEP_VERSIONS = 32  # of targets and snapshot: a client may be between two requests


@dataclass(frozen=True)
class State:
    """The roles that the present timestamp refers to; edit and commit them."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        signed: roles that were signed again.
        failures: why a role that should have been signed was not.
    """

    signed: tuple[str, ...]
    failures: Mapping[str, str]


class SignedMetadata:
    """Load, change and sign the roles in one folder."""

    def __init__(self, folder: Path, keys: RoleKeys, *, clock: Clock) -> None:
        """Use `folder`; reading needs no keys."""
        self.folder = folder
        self._keys = keys
        self._clock = clock

    def create(self) -> None:
        """Make keys and empty roles, unless they are there.

        Raises:
            StorageError: the folder cannot be written.
        """
        # Without a timestamp no client has read the rest: it is made again.
        if (self.folder / "timestamp.json").exists():
            return
        root = Root(version=1, expires=self._expiry("root"), consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self._keys.make(role).public_key, role)
        expires = self._clock()  # replaced by the commit
        # Each version is one less than what the commit then writes.
        timestamp, snapshot, targets = (
            Timestamp(version=1, expires=expires),
            Snapshot(version=1, expires=expires),
            Targets(version=1, expires=expires),
        )
        state = State(
            Metadata(root), Metadata(timestamp), Metadata(snapshot), Metadata(targets)
        )
        self._write(state, state.root, "1.root.json", "create.root")
        self.commit(state, "create")

    def root_json(self) -> bytes:
        """Return the newest root, which names the keys of all roles.

        Raises:
            StorageError: there is none.
        """
        versions = [
            int(path.name.partition(".")[0])
            for path in self.folder.glob("*.root.json")
            if path.name.partition(".")[0].isdecimal()
        ]
        return self._read(f"{max(versions, default=1)}.root.json")

    def load(self) -> State:
        """Read the roles that the timestamp refers to, and check them as a node does.

        What is read here is changed and signed again: metadata that somebody else has
        put into the folder would get good signatures otherwise.

        Raises:
            StorageError: they are missing or damaged, or not signed by the keys that
                the root names.
        """
        try:
            timestamp = Metadata[Timestamp].from_bytes(self._read("timestamp.json"))
            meta = timestamp.signed.snapshot_meta
            data = self._read(f"{meta.version}.snapshot.json")
            meta.verify_length_and_hashes(data)
            snapshot = Metadata[Snapshot].from_bytes(data)
            meta = snapshot.signed.meta["targets.json"]
            data = self._read(f"{meta.version}.targets.json")
            meta.verify_length_and_hashes(data)
            targets = Metadata[Targets].from_bytes(data)
            root = Metadata[Root].from_bytes(self.root_json())
            for role in (root, timestamp, snapshot, targets):
                name = role.signed.type
                # Any other second key would let its owner's content through.
                keyids = root.signed.roles[name].keyids
                if len(keyids) != 1 and keyids != self._keys.succession(name):
                    raise ValueError(f"expected one key for {name}")
                root.signed.verify_delegate(name, role.signed_bytes, role.signatures)
        except (RepositoryError, KeyError, ValueError) as e:
            raise StorageError(
                f"release metadata in {self.folder} is damaged: {e}; restore the "
                "folder from a backup"
            ) from e
        return State(root, timestamp, snapshot, targets)

    def commit(
        self, state: State, point: str, new: Mapping[str, Signer] = _NONE
    ) -> None:
        """Sign and write targets, snapshot and, last, the timestamp.

        Args:
            state: what to sign.
            point: prefix of the fault points.
            new: keys of roles that the next root will name for them; they sign, too.

        Raises:
            StorageError: a key is missing or the disk is full; what was committed
                before stays.
        """
        targets = state.targets.signed
        targets.version += 1
        name = f"{targets.version}.targets.json"
        data = self._write(state, state.targets, name, f"{point}.targets", new)
        state.snapshot.signed.meta["targets.json"] = _describe(targets.version, data)
        self._commit_snapshot(state, point, new)
        self._drop_old(targets)

    def refresh(self, *, force: bool) -> Refreshed:
        """Sign again what is past half its life.

        Each role by itself, timestamp and snapshot first: where the key of root or
        targets lies elsewhere, only that role keeps what it has.

        Args:
            force: sign the timestamp again in any case.

        Returns:
            What was signed, and what could not be.

        Raises:
            StorageError: see `load`.
        """
        signed: list[str] = []
        failures: dict[str, str] = {}
        for role in ("timestamp", "snapshot", "targets", "root"):
            state = self.load()  # anew: a role that fails has changed its copy
            forced = force and role == "timestamp"
            if not forced and not self._is_stale(getattr(state, role)):
                continue
            try:
                self._sign_again(state, role)
            except StorageError as e:
                failures[role] = str(e)
            else:
                signed.append(role)
        return Refreshed(tuple(signed), failures)

    def near_end(self) -> list[str]:
        """Name the roles with less than their `NOTICE` left, each with what to do.

        Raises:
            StorageError: see `load`.
        """
        state = self.load()
        now = self._clock()
        return [
            f"{role} metadata ends on {expires:%Y-%m-%d %H:%M} UTC, expected more than "
            f"{notice / timedelta(days=1):.2g} days; nodes refuse every release from "
            f"then on: bring the {role} key to {self._keys.folder}, and a running "
            "gateway signs"
            for role, notice in NOTICE.items()
            if (expires := getattr(state, role).signed.expires) - now < notice
        ]

    def rotate(self, role: str) -> None:
        """Give a role a new key; clients follow through the chain of roots.

        At each step the newest root accepts what is there. A rotation that was killed
        is done by calling this again.

        Raises:
            ConfigError: there is no such role.
            StorageError: see `load` and `commit`.
        """
        check_role(role)
        state = self.load()
        root = state.root.signed
        old_root = self._signer(state, "root")
        old = list(root.roles[role].keyids)
        lost = role != "root" and not self._signs(state, role)
        new = self._keys.make(role)
        if lost:
            # Nothing can be signed by it any more: a root in between names both.
            root.add_key(new.public_key, role)
            self._keys.note_succession(role, root.roles[role].keyids)
            self._write_root(state, "rotate.both", old_root)
            self.commit(state, "rotate")
        elif role != "root":
            # Under both keys, and before the root that drops the old one.
            self.commit(state, "rotate", {role: new})
        for keyid in old:
            root.revoke_key(keyid, role)
        root.add_key(new.public_key, role)
        self._write_root(state, "rotate.root", old_root)

    def _write_root(self, state: State, point: str, old_root: Signer) -> None:
        """Write the next root; the root key before it signs, too."""
        root = state.root.signed
        root.version += 1
        name = f"{root.version}.root.json"
        self._write(state, state.root, name, point, {"root": old_root})

    def _signs(self, state: State, role: str) -> bool:
        try:
            self._signer(state, role)
        except StorageError:
            return False
        return True

    def _sign_again(self, state: State, role: str) -> None:
        if role == "timestamp":
            self._commit_timestamp(state, "refresh")
        elif role == "snapshot":
            self._commit_snapshot(state, "refresh")
        elif role == "targets":
            self.commit(state, "refresh")
        else:
            state.root.signed.version += 1
            name = f"{state.root.signed.version}.root.json"
            self._write(state, state.root, name, "refresh.root")

    def _commit_snapshot(
        self, state: State, point: str, new: Mapping[str, Signer] = _NONE
    ) -> None:
        snapshot = state.snapshot.signed
        snapshot.version += 1
        name = f"{snapshot.version}.snapshot.json"
        self._write(state, state.snapshot, name, f"{point}.snapshot", new)
        self._commit_timestamp(state, point, new)
        self._drop_old(snapshot)

    def _drop_old(self, signed: Targets | Snapshot) -> None:
        name = f"{signed.version - KEEP_VERSIONS}.{signed.type}.json"
        (self.folder / name).unlink(missing_ok=True)

    def _commit_timestamp(
        self, state: State, point: str, new: Mapping[str, Signer] = _NONE
    ) -> None:
        version = state.snapshot.signed.version
        data = self._read(f"{version}.snapshot.json")
        state.timestamp.signed.snapshot_meta = _describe(version, data)
        state.timestamp.signed.version += 1
        self._write(state, state.timestamp, "timestamp.json", f"{point}.timestamp", new)

    def _write(
        self,
        state: State,
        role: Metadata[Any],
        name: str,
        point: str,
        also: Mapping[str, Signer] = _NONE,
    ) -> bytes:
        kind = role.signed.type
        role.signed.expires = self._expiry(kind)
        role.signatures.clear()
        try:
            role.sign(self._signer(state, kind))
        except UnsignedMetadataError as e:
            raise StorageError(f"the {kind} key does not sign: {one_line(e)}") from e
        if kind in also:
            role.sign(also[kind], append=True)
        data = role.to_bytes(JSONSerializer(compact=False))
        write_atomic(self.folder / name, data, point=point)
        return data

    def _signer(self, state: State, role: str) -> Signer:
        root = state.root.signed  # of two keys the last one is a lost one's successor
        return self._keys.load(role, root.keys[root.roles[role].keyids[-1]])

    def _is_stale(self, role: Metadata[Any]) -> bool:
        left: timedelta = role.signed.expires - self._clock()
        return left < LIFETIMES[role.signed.type] / 2

    def _expiry(self, role: str) -> datetime:
        return (self._clock() + LIFETIMES[role]).replace(microsecond=0)

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as e:
            raise StorageError(
                f"cannot read {self.folder / name}: {e.strerror}; publish a release "
                "first, or restore the repository from a backup"
            ) from e


def check_role(role: str) -> None:
    """Check the name of a role.

    Raises:
        ConfigError: there is no such role.
    """
    if role not in ROLES:
        raise ConfigError(f"role {role!r}: expected one of {', '.join(ROLES)}")


def _describe(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])
