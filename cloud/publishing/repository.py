"""The signed release repository on a filesystem: releases by channel and version.

    metadata/   the TUF roles, see `cloud.publishing.tuf_metadata`
    targets/    <channel>/<version>/<sha256>.manifest.json, shards and weights there;
                <channel>/<sha256>.channel.json, the pointer {"version": N}

Files first, signatures after them: a publish that dies leaves its release invisible or
whole. Not here: making a manifest (`cloud.publishing.publish`), sending files to nodes
(`cloud.gateway.release_service`).
"""

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Targets

from cloud.publishing.ceremony import Ceremony
from cloud.publishing.signing_keys import RoleKeys
from cloud.publishing.target_files import TargetFiles
from cloud.publishing.tuf_metadata import Refreshed, SignedMetadata
from cloud.trail import Trail, trail_beside
from common.clock import Clock, utc_now
from common.durable import locked, make_folder, write_atomic
from common.errors import ConfigError, StorageError
from common.names import EXPECTED, is_name
from common.release import (
    MANIFEST,
    Manifest,
    ShardInfo,
    WeightsInfo,
    decode_manifest,
    encode_manifest,
    is_version,
)

KEEP_RELEASES = 8  # of each channel: a node may still be pulling an older one
_POINTER = "/channel.json"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ReleaseRepository:
    """Publish releases, and read what is published; one writer at a time."""

    def __init__(
        self,
        root: Path,
        keys: Path,
        *,
        clock: Clock = utc_now,
        trail: Trail | None = None,
    ) -> None:
        """Use the repository in `root`, signed with the keys in folder `keys`.

        Reading needs no keys: the folder need not exist.

        Args:
            root: of the repository.
            keys: the folder of the keys.
            clock: the wall clock, UTC.
            trail: takes what is done; None: that of the storage folder around.
        """
        self.root = root
        self._trail = trail or trail_beside(root, clock=clock)
        self.targets = root / "targets"
        self._files = TargetFiles(self.targets)
        self._metadata = SignedMetadata(root / "metadata", RoleKeys(keys), clock=clock)
        self._ceremony = Ceremony(root, keys, clock=clock, trail=self._trail)

    def create(self) -> None:
        """Make keys and an empty repository, unless it is there.

        Raises:
            StorageError: the folders cannot be written, or the metadata of a repository
                that was in use have gone.
        """
        make_folder(self._metadata.folder)
        make_folder(self.targets)
        with locked(self.root / ".lock"):
            self._metadata.create(
                lambda root: self._trail.record(
                    "create", "root 1", digest=_sha256(root)
                )
            )

    def root_json(self) -> bytes:
        """Return the newest root metadata: what a node trusts from then on.

        Raises:
            StorageError: there is no repository.
        """
        return self._metadata.root_json()

    def versions(self) -> dict[str, int]:
        """Return the newest release's version of each channel that has one.

        Raises:
            StorageError: there is no repository, or it is damaged.
        """
        return self._versions(self._metadata.load().targets.signed)

    def readable_versions(self) -> tuple[dict[str, int], dict[str, StorageError]]:
        """Return `versions` of the channels whose pointer is as it was signed.

        Returns:
            The versions, and for each other channel why it has none.

        Raises:
            StorageError: there is no repository, or its metadata are damaged.
        """
        targets = self._metadata.load().targets.signed
        versions: dict[str, int] = {}
        damaged: dict[str, StorageError] = {}
        for channel in _channels(targets):
            try:
                versions[channel] = self._version(targets, channel)
            except StorageError as e:
                damaged[channel] = e
        return versions, damaged

    def manifest(self, channel: str, version: int | None = None) -> Manifest:
        """Return the manifest of a release; None takes the channel's newest.

        Raises:
            ConfigError: there is no such release.
            StorageError: there is no repository, or it is damaged.
            TrustError: the manifest is of another takt's schema.
        """
        targets = self._metadata.load().targets.signed
        if version is None:
            version = self._version(targets, channel)
        target = targets.targets.get(f"{channel}/{version}/{MANIFEST}")
        if target is None:
            known = self._versions(targets) or "none"
            raise ConfigError(
                f"channel '{channel}' has no release {version or 'yet'}; newest of "
                f"each channel: {known}"
            )
        fix = "restore it from a backup, or publish again with --force"
        return decode_manifest(self._files.read(target, fix))

    def check(self, draft: Manifest, folder: Path) -> None:
        """Check a draft and its shards as `publish` does; nothing is written.

        Raises:
            ConfigError, StorageError, TrustError: as `publish`.
        """
        _check_channel(draft)
        decode_manifest(encode_manifest(_placed(draft, 1)))
        for shard in draft.shards:
            _read_file(folder, shard, "extract the knowledge")

    def publish(
        self,
        draft: Manifest,
        folder: Path,
        *,
        weights: Path | None = None,
        force: bool = False,
        unsigned: Path | None = None,
    ) -> Manifest:
        """Sign a release and make it its channel's newest.

        Args:
            draft: the manifest; its version is replaced by the channel's next one
                and the files' paths, which are file names in `folder` and `weights`,
                by their places in the repository.
            folder: holds the shards.
            weights: holds the starting weights; None: `folder` does.
            force: publish again what is the channel's newest release already.
            unsigned: a file that takes the targets metadata without signatures; the
                release is in force once `Ceremony.accept` has taken them back.

        Returns:
            The published manifest; the present one where nothing is new.

        Raises:
            ConfigError: the channel's name is not one, or `unsigned` is given and
                nothing is new.
            StorageError: a file differs from the draft, the disk is full, or
                a key is missing; the channel's newest release stays.
            TrustError: a node would refuse the manifest: its shards have holes.
        """
        _check_channel(draft)
        with locked(self.root / ".lock"):
            state = self._metadata.load()
            targets = state.targets.signed
            newest = self._version(targets, draft.channel)
            if newest and not force:
                present = self.manifest(draft.channel, newest)
                if present == _placed(draft, newest):
                    if unsigned is not None:
                        raise ConfigError(
                            f"channel '{draft.channel}' has that release already, as "
                            f"version {newest}; --force makes another version of it"
                        )
                    return present
            manifest = _placed(draft, newest + 1)
            prefix = f"{manifest.channel}/{manifest.version}"
            # Files of a publish that was killed; no signed metadata names them.
            self._files.drop(prefix)
            for file in manifest.shards:
                data = _read_file(folder, file, "extract the knowledge")
                self._files.add(targets, file.path, data, "publish.shard")
            for starting in manifest.weights.values():
                step = "make the starting weights"
                data = _read_file(weights or folder, starting, step)
                self._files.add(targets, starting.path, data, "publish.weights")
            data = encode_manifest(manifest)
            decode_manifest(data)  # never sign what every node would refuse
            self._files.add(targets, f"{prefix}/{MANIFEST}", data, "publish.manifest")
            pointer = json.dumps({"version": manifest.version}).encode()
            path = f"{manifest.channel}{_POINTER}"
            self._files.add(targets, path, pointer, "publish.pointer")
            dropped = f"{manifest.channel}/{manifest.version - KEEP_RELEASES}/"
            for path in [p for p in targets.targets if p.startswith(dropped)]:
                del targets.targets[path]
            release = f"{manifest.channel} {manifest.version}"
            if unsigned is not None:
                self._trail.record("export", release, digest=_sha256(data))
                write_atomic(unsigned, self._metadata.unsigned(state.targets))
                return manifest
            self._trail.record("publish", release, digest=_sha256(data))
            self._metadata.commit(state, "publish")
            self._files.drop(dropped)
            return manifest

    def refresh(self, *, force: bool = False, wait_s: float | None = None) -> Refreshed:
        """Sign again what is past half its life, so that clients continue to trust it.

        A role whose key is not here keeps what it has; the others are signed.

        Args:
            force: sign the timestamp again in any case.
            wait_s: for another process that is at work in the repository; None: as
                long as it takes.

        Returns:
            What was signed, and what could not be.

        Raises:
            StorageError: there is no repository, it is damaged, or another process is
                still at work in it.
        """

        def busy(_: str) -> str:
            return (
                f"cannot sign in {self.root}: another process has held it for more "
                f"than {wait_s:g} s; see whether a publish or a change of keys there "
                "was stopped, or waits for a key"
            )

        lock = self.root / ".lock"
        with locked(lock, busy=None if wait_s is None else busy, wait_s=wait_s or 0.0):
            return self._metadata.refresh(
                force=force, note=lambda what: self._trail.record("refresh", what)
            )

    def ends(self) -> dict[str, datetime]:
        """Return when the metadata of each role ends, UTC.

        Raises:
            StorageError: there is no repository, or it is damaged.
        """
        return self._metadata.ends()

    def near_end(self) -> list[str]:
        """Name the roles whose metadata ends soon, each with what to do.

        Raises:
            StorageError: there is no repository, or it is damaged.
        """
        return self._metadata.near_end()

    def rotate(self, role: str) -> None:
        """Give a role (root, targets, snapshot or timestamp) a new key.

        Nodes follow through the chain of roots, however long they were away.

        Raises:
            ConfigError: there is no such role, or it has several keys; those are
                changed by `Ceremony.change`.
            StorageError: there is no repository, a key is missing, the disk is full.
        """
        self._ceremony.rotate(role)

    def _versions(self, targets: Targets) -> dict[str, int]:
        return {name: self._version(targets, name) for name in _channels(targets)}

    def _version(self, targets: Targets, channel: str) -> int:
        """Return the newest version of a channel, as nodes take it; 0: none yet.

        Raises:
            StorageError: its pointer is not the one that was signed, or names none.
        """
        path = f"{channel}{_POINTER}"
        target = targets.targets.get(path)
        if target is None:
            return 0
        data = self._files.read(target, "restore it from a backup")
        try:
            version = json.loads(data)["version"]
        except (ValueError, KeyError, TypeError) as e:
            raise _malformed(path, data) from e
        if not is_version(version):
            raise _malformed(path, data)
        return int(version)


def _channels(targets: Targets) -> list[str]:
    ends = [path for path in targets.targets if path.endswith(_POINTER)]
    return [path.removesuffix(_POINTER) for path in ends]


def _malformed(path: str, data: bytes) -> StorageError:
    return StorageError(
        f"{path} is signed and says {data[:60]!r}, expected a version from 1 to "
        "2**53 - 1; restore the repository from a backup"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_channel(draft: Manifest) -> None:
    if not is_name(draft.channel):
        raise ConfigError(f"channel {draft.channel[:80]!r}: expected {EXPECTED}")


def _placed(draft: Manifest, version: int) -> Manifest:
    """Give a draft its version and its files their places."""

    def place(name: str, kind: str) -> dict[str, str]:
        if not _FILE.fullmatch(name):
            raise StorageError(f"{kind} {name[:80]!r}: expected a plain file name")
        return {"path": f"{draft.channel}/{version}/{name}"}

    shards = [s.model_copy(update=place(s.path, "shard")) for s in draft.shards]
    weights = {
        student: w.model_copy(update=place(w.path, "weights"))
        for student, w in draft.weights.items()
    }
    update = {"version": version, "shards": tuple(shards), "weights": weights}
    return draft.model_copy(update=update)


def _read_file(folder: Path, file: ShardInfo | WeightsInfo, step: str) -> bytes:
    """Read a file that must be what was declared of it."""
    path = folder / file.path.rpartition("/")[2]
    kind = "shard" if isinstance(file, ShardInfo) else "weights"
    try:
        data = path.read_bytes()
    except OSError as e:
        raise StorageError(
            f"cannot read {kind} {path}: {e.strerror}; {step} again"
        ) from e
    found = hashlib.sha256(data).hexdigest()
    if len(data) != file.num_bytes or found != file.sha256:
        raise StorageError(
            f"{kind} {path} has {len(data)} bytes and digest {found[:12]}, expected "
            f"{file.num_bytes} and {file.sha256[:12]}; {step} again"
        )
    return data
