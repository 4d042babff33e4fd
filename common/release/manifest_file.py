"""The manifest's JSON, and what is refused of it: a node trusts what passes here.

Not here: the records themselves (`manifest.py`), signatures (the TUF metadata around
the manifest), the bytes of shards (`shards.py`). Torch-free.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import get_args

from pydantic import ValidationError

from common.catalog import Content, ImageContent
from common.config import count_views
from common.errors import TrustError, one_line
from common.release.manifest import (
    MAX_SHARD_BYTES,
    SCHEMA,
    Manifest,
    ShardInfo,
)

MANIFEST = "manifest.json"  # the name of a release's manifest, in its folder
_READ = (2, SCHEMA)
MAX_IMAGES_BYTES = 512 * 1024 * 1024  # of all shipped images, unpacked

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def encode_manifest(manifest: Manifest) -> bytes:
    """Serialise a manifest as JSON."""
    return manifest.model_dump_json(indent=1).encode()


def decode_manifest(data: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        TrustError: it is not a manifest, of a schema this takt does not read, its
            files lie outside its folder, its shards do not cover the samples that it
            declares, or its images or starting weights are not as it says.
    """
    try:
        tree = json.loads(data)
        found = tree.get("schema_version") if isinstance(tree, dict) else None
        if found not in _READ:
            raise TrustError(
                f"release manifest has schema {found!r}, this takt reads "
                f"{' and '.join(map(str, _READ))}; "
                "update takt on this node or publish with the same version"
            )
        manifest = Manifest.model_validate(tree)
    except (ValueError, ValidationError, RecursionError) as e:
        raise TrustError(f"release manifest is malformed: {one_line(e)}") from e
    _check_paths(manifest)
    _check_coverage(manifest)
    _check_views(manifest)
    _check_images(manifest)
    _check_weights(manifest)
    return manifest


def _check_paths(manifest: Manifest) -> None:
    """Refuse files outside the release's own folder, and files of equal name."""
    folder = f"{manifest.channel}/{manifest.version}/"
    seen: set[str] = set()
    for kind, path in _files(manifest):
        name = path.removeprefix(folder)
        if path == name or not _FILE_NAME.fullmatch(name):
            raise TrustError(
                f"release manifest: {kind} path {path[:80]!r}, expected a file "
                f"directly in {folder}"
            )
        if name.lower() in seen:  # some nodes' file systems fold case
            raise TrustError(f"release manifest: {kind} path {path} occurs twice")
        seen.add(name.lower())


def _files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """List what files there are, and their paths."""
    yield from (("shard", shard.path) for shard in manifest.shards)
    yield from (("weights", weights.path) for weights in manifest.weights.values())


def _check_coverage(manifest: Manifest) -> None:
    """Refuse shards that overlap, leave holes or reach beyond the samples.

    Of contents that this takt does not know, nothing is asked: nobody reads them.
    """
    totals: dict[str, int] = dict.fromkeys(get_args(Content), manifest.num_samples)
    totals |= {"images": manifest.num_samples, "val_images": manifest.num_val}
    found: dict[tuple[str, int], list[ShardInfo]] = {}
    for shard in manifest.shards:
        if shard.content in totals:
            found.setdefault((shard.content, shard.view), []).append(shard)
    for (content, view), shards in found.items():
        name = f"{content} of view {view}" if view else content
        expected = 0
        for shard in sorted(shards, key=lambda s: s.first):
            if shard.first != expected:
                raise TrustError(
                    f"release manifest: shards of {name} continue at sample "
                    f"{shard.first}, expected {expected}"
                )
            expected += shard.num_samples
        if expected != totals[content]:
            raise TrustError(
                f"release manifest: shards of {name} hold {expected} samples, "
                f"expected {totals[content]}"
            )


def _check_views(manifest: Manifest) -> None:
    """Refuse views that there cannot be, and soft labels that lack some."""
    if manifest.num_views > count_views(manifest.shift, manifest.flip):
        raise TrustError(
            f"release manifest: {manifest.num_views} views with shift "
            f"{manifest.shift}, flip {manifest.flip}, which has fewer"
        )
    views = {s.view for s in manifest.shards if s.content == "soft_labels"}
    if views and views != set(range(manifest.num_views)):
        raise TrustError(
            f"release manifest: soft_labels of views {sorted(views)}, expected 0 to "
            f"{manifest.num_views - 1}"
        )


def _check_images(manifest: Manifest) -> None:
    """Refuse images that are missing, not announced, or too many to unpack."""
    each = math.prod(manifest.sample_shape)
    counts: dict[str, int] = dict.fromkeys(get_args(ImageContent), 0)
    for shard in manifest.shards:
        if shard.content not in counts:
            continue
        if shard.view:
            raise TrustError(
                f"release manifest: shard {shard.path} holds view {shard.view} of "
                "images, expected the images themselves"
            )
        if shard.num_samples * each > MAX_SHARD_BYTES:
            raise TrustError(
                f"release manifest: shard {shard.path} unpacks to "
                f"{shard.num_samples} images of {each} bytes, expected at most "
                f"{MAX_SHARD_BYTES} bytes together"
            )
        counts[shard.content] += shard.num_samples
    wanted = {"images": 0, "val_images": 0}
    if manifest.images == "transfer":
        wanted = {"images": manifest.num_samples, "val_images": manifest.num_val}
    for content, expected in wanted.items():
        if counts[content] != expected:
            raise TrustError(
                f'release manifest: images = "{manifest.images}" with '
                f"{counts[content]} samples in {content}, expected {expected}"
            )
    if sum(counts.values()) * each > MAX_IMAGES_BYTES:
        raise TrustError(
            f"release manifest: {sum(counts.values())} images of {each} bytes, "
            f"expected at most {MAX_IMAGES_BYTES} bytes together"
        )


def _check_weights(manifest: Manifest) -> None:
    """Refuse starting weights that are of no recipe, or of another model than it."""
    for student, weights in manifest.weights.items():
        recipe = manifest.students.get(student)
        expected = recipe.model if recipe else "no such student"
        if weights.architecture != expected:
            raise TrustError(
                f"release manifest: weights of student '{student}' are of "
                f"{weights.architecture}, expected {expected}"
            )
