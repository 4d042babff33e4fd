"""The signed metadata of the release repository: one folder of TUF roles.

Holds N.root.json, N.targets.json, N.snapshot.json and timestamp.json. The timestamp is
written last and by rename, and every change starts from what it refers to: a change
that is killed is either invisible or complete. Not here: target files and releases
(`cloud.publishing.repository`), locking (the caller's), which root is trusted
(`trusted_root`), and the client's checks, which are python-tuf's own. See https://theupdateframework.github.io/specification/latest/.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from cloud.publishing.roles import OFFLINE, ROLES, TIMESTAMP_FILE
from cloud.publishing.signing_keys import RoleKeys
from cloud.publishing.trusted_root import TrustedRoot
from common.clock import Clock
from common.durable import write_atomic
from common.errors import StorageError, one_line

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
_FORM = JSONSerializer(compact=False)
KEEP_VERSIONS = 32  # of targets and snapshot: a client may be between two requests


@dataclass
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
        self._roots = TrustedRoot(folder, keys)
        self._clock = clock

    def create(self, note: Callable[[bytes], None]) -> None:
        """Make keys and empty roles, unless they are there.

        Args:
            note: is told the first root, before it is written.

        Raises:
            StorageError: the folder cannot be written, or has lost what was signed.
        """
        # Without a timestamp no client has read the rest: it is made again.
        if self._roots.is_in_use():
            return
        expires = (self._clock() + LIFETIMES["root"]).replace(microsecond=0)
        root = Root(version=1, expires=expires, consistent_snapshot=True)
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
        data = self._sign_root(state, root)
        note(data)
        self.accept_root(state.root, data, "create.root")
        self.commit(state, "create")
        self._trust_root(state)  # not before there is a timestamp

    def root_json(self) -> bytes:
        """Return the newest trusted root, which names the keys of all roles.

        Raises:
            StorageError: there is none, or it is damaged.
        """
        try:
            return self._roots.newest()[1]
        except (OSError, RepositoryError, ValueError) as e:
            raise self._damaged(e) from e

    def load(self) -> State:
        """Read the roles that the timestamp refers to, and check them as a node does.

        What is read here is changed and signed again: metadata that somebody else has
        put into the folder would get good signatures otherwise.

        Raises:
            StorageError: they are missing or damaged, or not signed by the keys that
                the root names.
        """
        try:
            timestamp = Metadata[Timestamp].from_bytes(self._read(TIMESTAMP_FILE))
            meta = timestamp.signed.snapshot_meta
            data = self._read(f"{meta.version}.snapshot.json")
            meta.verify_length_and_hashes(data)
            snapshot = Metadata[Snapshot].from_bytes(data)
            meta = snapshot.signed.meta["targets.json"]
            data = self._read(f"{meta.version}.targets.json")
            meta.verify_length_and_hashes(data)
            targets = Metadata[Targets].from_bytes(data)
            root, _ = self._roots.newest()
            for role in (timestamp, snapshot, targets):
                root.signed.verify_delegate(
                    role.signed.type, role.signed_bytes, role.signatures
                )
        except (OSError, RepositoryError, KeyError, ValueError) as e:
            raise self._damaged(e) from e
        return State(root, timestamp, snapshot, targets)

    def commit(self, state: State, point: str, following: Root | None = None) -> None:
        """Sign and write targets, snapshot and, last, the timestamp.

        Args:
            state: what to sign.
            point: prefix of the fault points.
            following: the root that is written next; what is signed serves it, too.

        Raises:
            StorageError: keys are missing or the disk is full; what was committed
                before stays.
        """
        self._next(state.targets.signed)
        self._sign(state, state.targets, following)
        data = state.targets.to_bytes(_FORM)
        self.commit_targets(state, data, point, following)

    def unsigned(self, metadata: Metadata[Any]) -> bytes:
        """Return metadata as the file of its next version, without a signature."""
        self._next(metadata.signed)
        metadata.signatures.clear()
        return metadata.to_bytes(_FORM)

    def refresh(self, *, force: bool, note: Callable[[str], None]) -> Refreshed:
        """Sign again what is past half its life.

        Each role by itself, timestamp and snapshot first: where the key of root or
        targets lies elsewhere, only that role keeps what it has.

        Args:
            force: sign the timestamp again in any case.
            note: is told what will be signed, by role and version, before it is; not
                of a role whose keys are not at hand, which is tried again and again.

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
            version = getattr(state, role).signed.version + 1
            try:
                if self._keys.can_sign(role, state.root.signed):
                    note(f"{role} {version}")
                self.sign_again(state, role, "refresh")
            except StorageError as e:
                failures[role] = str(e)
            else:
                signed.append(role)
        return Refreshed(tuple(signed), failures)

    def ends(self) -> dict[str, datetime]:
        """Return when the metadata of each role ends, UTC.

        Raises:
            StorageError: see `load`.
        """
        state = self.load()
        return {role: getattr(state, role).signed.expires for role in NOTICE}

    def near_end(self) -> list[str]:
        """Name the roles with less than their `NOTICE` left, each with what to do.

        Raises:
            StorageError: see `load`.
        """
        now, ends = self._clock(), self.ends()
        return [
            f"{role} metadata ends on {expires:%Y-%m-%d %H:%M} UTC, expected more than "
            f"{notice / timedelta(days=1):.2g} days; nodes refuse every release from "
            f"then on: bring the {role} key to {self._keys.folder}, and a running "
            "gateway signs"
            + (f", or sign what `takt keys export {role}` gives" * (role in OFFLINE))
            for role, notice in NOTICE.items()
            if (expires := ends[role]) - now < notice
        ]

    def write_root(self, state: State, following: Root, point: str) -> None:
        """Write the next root, signed by the keys of the present one, too.

        Args:
            state: has the present root, and the new one afterwards.
            following: content of the new one; its version is replaced.
            point: the fault point.

        Raises:
            StorageError: keys are missing or the disk is full.
        """
        previous = state.root.signed
        following = copy.deepcopy(following)
        following.version = previous.version
        self._next(following)
        state.root = Metadata(following)
        self.accept_root(state.root, self._sign_root(state, previous), point)

    def accept_root(self, root: Metadata[Root], data: bytes, point: str) -> None:
        """Write a root that was signed elsewhere and follows from the present one.

        Raises:
            StorageError: the disk is full.
        """
        name = f"{root.signed.version}.root.json"
        write_atomic(self.folder / name, data, point=point)
        self._roots.trust(data)

    def _sign_root(self, state: State, previous: Root) -> bytes:
        state.root.signatures.clear()
        self._keys.sign(state.root, previous)
        self._keys.sign(state.root, state.root.signed)
        return state.root.to_bytes(_FORM)

    def sign_again(
        self, state: State, role: str, point: str, following: Root | None = None
    ) -> None:
        """Sign one role again, and the online roles that refer to it.

        Args:
            state: what to sign.
            role: any of the four.
            point: prefix of the fault points.
            following: the root that is written next; what is signed serves it, too.

        Raises:
            StorageError: see `commit`.
        """
        if role == "timestamp":
            self._commit_timestamp(state, point, following)
        elif role == "snapshot":
            self._commit_snapshot(state, point, following)
        elif role == "targets":
            self.commit(state, point, following)
        else:
            self.write_root(state, state.root.signed, f"{point}.root")

    def commit_targets(
        self, state: State, data: bytes, point: str, following: Root | None = None
    ) -> None:
        """Write signed targets metadata, and the online roles that refer to it.

        Args:
            state: has its content.
            data: the file.
            point: prefix of the fault points.
            following: the root that is written next, see `commit`.

        Raises:
            StorageError: see `commit`.
        """
        targets = state.targets.signed
        self._trust_root(state)
        name = f"{targets.version}.targets.json"
        write_atomic(self.folder / name, data, point=f"{point}.targets")
        state.snapshot.signed.meta["targets.json"] = _describe(targets.version, data)
        self._commit_snapshot(state, point, following)
        self._drop_old(targets)

    def _commit_snapshot(
        self, state: State, point: str, following: Root | None = None
    ) -> None:
        snapshot = state.snapshot.signed
        self._next(snapshot)
        self._sign(state, state.snapshot, following)
        name = f"{snapshot.version}.snapshot.json"
        data = state.snapshot.to_bytes(_FORM)
        write_atomic(self.folder / name, data, point=f"{point}.snapshot")
        self._commit_timestamp(state, point, following)
        self._drop_old(snapshot)

    def _drop_old(self, signed: Targets | Snapshot) -> None:
        name = f"{signed.version - KEEP_VERSIONS}.{signed.type}.json"
        (self.folder / name).unlink(missing_ok=True)

    def _commit_timestamp(
        self, state: State, point: str, following: Root | None = None
    ) -> None:
        self._trust_root(state)
        version = state.snapshot.signed.version
        data = self._read(f"{version}.snapshot.json")
        state.timestamp.signed.snapshot_meta = _describe(version, data)
        self._next(state.timestamp.signed)
        self._sign(state, state.timestamp, following)
        data = state.timestamp.to_bytes(_FORM)
        write_atomic(self.folder / TIMESTAMP_FILE, data, point=f"{point}.timestamp")

    def _sign(
        self, state: State, metadata: Metadata[Any], following: Root | None
    ) -> None:
        metadata.signatures.clear()
        self._keys.sign(metadata, state.root.signed)
        if following is not None:
            self._keys.sign(metadata, following)

    def _trust_root(self, state: State) -> None:
        """Keep the root that signatures are made under: it was checked by `load`."""
        self._roots.trust(self._read(f"{state.root.signed.version}.root.json"))

    def _next(self, signed: Signed) -> None:
        """Make content that of the next version, from now on valid."""
        signed.version += 1
        lifetime = LIFETIMES[signed.type]
        signed.expires = (self._clock() + lifetime).replace(microsecond=0)

    def _is_stale(self, role: Metadata[Any]) -> bool:
        left: timedelta = role.signed.expires - self._clock()
        return left < LIFETIMES[role.signed.type] / 2

    def _damaged(self, why: Exception) -> StorageError:
        return StorageError(
            f"release metadata in {self.folder} is damaged: {one_line(why)}; restore "
            "the folder from a backup"
        )

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as e:
            raise StorageError(
                f"cannot read {self.folder / name}: {e.strerror}; publish a release "
                "first, or restore the repository from a backup"
            ) from e


def _describe(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])
