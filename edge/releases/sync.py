"""From a channel's name to a verified release folder.

The signed pointer ``<channel>/channel.json`` names the current version; the signed
manifest lists its files; only those that the node's recipe reads are pulled: shards,
the images of a release that ships its own, starting weights. The files of the folder
are verified twice, against the TUF metadata and against the manifest, and their
numbers are checked. Not here: the metadata's rules (edge/releases/tuf_client.py), the
transfer (edge/releases/cache.py), the weights as a model (common.models.files).
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from tuf.api.metadata import TargetFile

from common import faults
from common.catalog import ImageContent, contents_for
from common.durable import storing, write_atomic
from common.errors import StorageError, TaktError, TrustError
from common.model_names import check_model
from common.release import (
    MANIFEST,
    Manifest,
    ShardInfo,
    WeightsInfo,
    decode_manifest,
    decode_shard,
    each_image_shard,
    is_version,
    recipe_of,
)
from edge.link.client import Link
from edge.releases.cache import Cache
from edge.releases.tuf_client import TrustedMetadata
from edge.state import StateDir

_MAX_POINTER_BYTES = 4096
_MAX_MANIFEST_BYTES = 8 * 1024 * 1024

File = ShardInfo | WeightsInfo
Progress = Callable[[str, float], None]  # state ("pulling", "verifying"), in [0, 1]


class Release(NamedTuple):
    """The release that a channel points to; the digest identifies its content."""

    channel: str
    version: int
    manifest_sha256: str


class ReleaseSync:
    """Pull one channel's releases into a state folder."""

    def __init__(
        self, link: Link, state: StateDir, *, channel: str, root_json: bytes
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            link: to the gateway.
            state: of the node; its folders exist.
            channel: to follow.
            root_json: TUF root trusted since enrolment.
        """
        self._link = link
        self._state = state
        self.channel = channel
        self._root_json = root_json
        self._cache = Cache(state.cache, link)
        self._metadata: TrustedMetadata | None = None

    def check(self) -> Release | None:
        """Refresh the trusted metadata; return what the channel points to, if anything.

        Raises:
            TrustError: metadata or pointer are not to be trusted, or too old.
            LinkError: the gateway could not be reached within the deadline.
            StorageError: the state folder cannot be written.
        """
        folder = self._state.metadata
        self._metadata = TrustedMetadata(folder, self._link, self._root_json)
        path = f"{self.channel}/channel.json"
        target = self._metadata.find(path)
        if target is None:
            return None
        try:
            version = json.loads(self._read(target, _MAX_POINTER_BYTES))["version"]
        except (ValueError, KeyError, TypeError) as e:
            raise TrustError(f"{path} is malformed, expected a version") from e
        if not is_version(version):
            raise TrustError(f"{path}: version is {version!r}, expected 1 or more")
        manifest = self._find(f"{self.channel}/{version}/{MANIFEST}")
        return Release(self.channel, version, manifest.hashes.get("sha256", ""))

    def pull(self, release: Release, student: str, progress: Progress) -> Path:
        """Bring a release to disk, as far as a student's recipe reads it.

        Args:
            release: as `check` returned it.
            student: name of the recipe in the manifest.
            progress: called with the state and its progress.

        Returns:
            The folder with manifest.json and the verified files, by file name.

        Raises:
            TrustError: something is not what was signed; nothing changed.
            ConfigError: the release has no such recipe.
            LinkError: the gateway could not be reached within the deadline.
            StorageError: the disk is full; what was pulled is kept.
        """
        progress("pulling", 0.0)
        path = f"{release.channel}/{release.version}/{MANIFEST}"
        data = self._read(self._find(path), _MAX_MANIFEST_BYTES)
        manifest = decode_manifest(data)
        if (manifest.channel, manifest.version) != (release.channel, release.version):
            raise TrustError(
                f"{path} says it is {manifest.channel} {manifest.version}, expected "
                f"{release.channel} {release.version}; the release is refused"
            )
        needed = needed_files(manifest, student)
        targets = [self._find(file.path) for file in needed]
        for file, target in zip(needed, targets, strict=True):
            declared = (file.num_bytes, file.sha256)
            if (target.length, target.hashes.get("sha256")) != declared:
                raise TrustError(
                    f"{file.path}: the manifest declares other bytes than the signed "
                    "metadata; the release is refused"
                )
        pulled = self._pull_all(targets, progress)
        places = dict(zip((file.path for file in needed), pulled, strict=True))
        _verify(manifest, needed, places, progress)
        return self._assemble(release.version, data, places)

    def prune(self, keep: set[int]) -> None:
        """Remove releases except the versions in `keep`, and files they do not use.

        What fails is tried next time: a full cache is no reason to stop.
        """
        digests: set[str] = set()
        for version in keep:
            with contextlib.suppress(OSError, TaktError):
                folder = self._state.releases / str(version)
                data = (folder / MANIFEST).read_bytes()
                digests.add(hashlib.sha256(data).hexdigest())
                manifest = decode_manifest(data)
                digests.update(s.sha256 for s in manifest.shards)
                digests.update(w.sha256 for w in manifest.weights.values())
        with contextlib.suppress(OSError, TaktError):
            digests.update(self._find(f"{self.channel}/channel.json").hashes.values())
        with contextlib.suppress(OSError):
            for folder in self._state.releases.iterdir():
                if not (folder.name.isdecimal() and int(folder.name) in keep):
                    shutil.rmtree(folder, ignore_errors=True)
            self._cache.prune(digests)

    def _pull_all(self, targets: list[TargetFile], progress: Progress) -> list[Path]:
        total = sum(target.length for target in targets)
        had = 0

        def count(num_bytes: int) -> None:
            nonlocal had
            had += num_bytes
            progress("pulling", min(1.0, had / total))

        return [self._cache.get(target, on_bytes=count) for target in targets]

    def _assemble(
        self, version: int, manifest: bytes, places: Mapping[str, Path]
    ) -> Path:
        """Hard-link the files under their names; write the manifest last."""
        folder = self._state.releases / str(version)
        with storing(folder):
            folder.mkdir(exist_ok=True)
            for path, file in places.items():
                place = folder / path.rpartition("/")[2]
                part = place.with_name(f".{place.name}.part")
                part.unlink(missing_ok=True)
                _hard_link(file, part)
                part.replace(place)
            faults.point("edge.release.linked")
        write_atomic(folder / MANIFEST, manifest, point="edge.release")
        return folder

    def _read(self, target: TargetFile, max_bytes: int) -> bytes:
        """Return a small target's verified bytes."""
        if target.length > max_bytes:
            raise TrustError(
                f"{target.path} is declared with {target.length} bytes, expected at "
                f"most {max_bytes}; refused"
            )
        return _read_pulled(self._cache.get(target))

    def _find(self, path: str) -> TargetFile:
        if self._metadata is None:
            self.check()
        assert self._metadata is not None  # set by check
        target = self._metadata.find(path)
        if target is None:
            raise TrustError(
                f"{path} is not in the signed metadata; the release is incomplete: "
                "publish again"
            )
        return target


def needed_files(manifest: Manifest, student: str) -> tuple[File, ...]:
    """List the files that a student's recipe reads: shards, and starting weights.

    Raises:
        ConfigError: the release has no such recipe, or one with a model that is not
            installed on this node.
    """
    recipe = recipe_of(manifest, student)
    check_model(recipe.model)  # before anything is pulled for a model that is not here
    contents: frozenset[str] = contents_for(recipe.method, recipe.boundary_weight)
    shards = manifest.shards_for(
        contents.union(get_args(ImageContent)), recipe.num_views
    )
    weights = manifest.weights.get(student)
    return shards if weights is None else (*shards, weights)


def _verify(
    manifest: Manifest,
    needed: Sequence[File],
    places: Mapping[str, Path],
    progress: Progress,
) -> None:
    """Decode what was pulled, one shard at a time, and hold it to the manifest.

    Raises:
        TrustError: a shard, or all images together, are not what was declared.
        StorageError: a file cannot be read.
    """
    done = 0

    def read(info: ShardInfo) -> bytes:
        nonlocal done
        progress("verifying", done / len(needed))
        done += 1
        return _read_pulled(places[info.path])

    for content in get_args(ImageContent):
        if manifest.images == "transfer":
            for _ in each_image_shard(manifest, content, read):
                pass
    for info in needed:
        if isinstance(info, ShardInfo) and info.content not in get_args(ImageContent):
            decode_shard(read(info), info, manifest)


def _read_pulled(path: Path) -> bytes:
    """Read a file that was verified.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as e:
        raise StorageError(
            f"cannot read {path}: {e.strerror or e}; what is missing is pulled again "
            "with the next try"
        ) from e


def _hard_link(source: Path, place: Path) -> None:
    """Share the bytes where the file system can, else copy them."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
