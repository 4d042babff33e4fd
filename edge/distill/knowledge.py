"""A pulled release as tensors: what one recipe needs of it, and no more.

Reads manifest.json and the shards beside it, checks each shard against the
manifest again (a disk may damage them), and joins them over the samples. Deltas
stay one bit a pixel, boundary points int8, and what the teacher says of the node's
own images fp16, as it was answered, until a batch needs them. Not here: pulling and
signatures (edge.releases), the images (common.data.datasets).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.catalog import OPTIONAL, Content, contents_for
from common.config import StudentConfig
from common.data.views import Views
from common.errors import TrustError
from common.release import (
    MANIFEST,
    Manifest,
    check_views,
    decode_manifest,
    decode_shard,
    dequantize_rows,
)
from edge.distill.batch import Boundary


@dataclass(frozen=True)
class BoundaryPoints:
    """The teacher's boundary points of the release's samples, as shipped."""

    delta: NDArray[np.int8]  # (N, C, H, W)
    scale: NDArray[np.float16]  # (N,), pixel scale
    soft_labels: Tensor  # (N, K)

    def batch(self, x: Tensor, positions: Tensor) -> Boundary:
        """Return the points of some samples, whose images are x (n, C, H, W).

        Those of the node's own have none and are left out.
        """
        released = positions < len(self.scale)
        if not bool(released.all()):
            x, positions = x[released], positions[released]
        i = positions.cpu().numpy()
        delta = torch.from_numpy(dequantize_rows(self.delta[i], self.scale[i]))
        soft_labels = self.soft_labels[i].to(x.device)
        return Boundary((x + delta.to(x.device)).clamp_(0, 1), soft_labels)


@dataclass(frozen=True)
class OwnAnswers:
    """The teacher's logits about a node's own images, the last training samples."""

    logits: Tensor  # (m, V, K), fp16 as they were answered; of any strides
    first: int  # position of the first of these samples
    temperature: float

    def to(self, device: torch.device) -> Self:
        """Copy them to a device."""
        return replace(self, logits=self.logits.to(device))

    def labels_of(self, positions: Tensor, view: Tensor | None) -> Tensor:
        """Return the soft labels (n, K) of own samples, float32, in some view."""
        last = self.logits.shape[1] - 1
        of_view = torch.zeros_like(positions) if view is None else view.clamp(max=last)
        logits = self.logits[positions - self.first, of_view].float()
        return torch.softmax(logits / self.temperature, 1)

    def soft_labels(self) -> Tensor:
        """Return the soft labels of all, in all views: (m, V, K) float32."""
        return torch.softmax(self.logits.float() / self.temperature, 2)


@dataclass(frozen=True)
class Knowledge:
    """What is known of each training sample; None where not needed.

    The node's own images, if there are some, follow those of the release.
    """

    temperature: float = 1.0
    # softmax(logits / temperature): (n, K), or (n, V, K) where there are views; of the
    # first n samples, those after them have none
    soft_labels: Tensor | None = None
    own: OwnAnswers | None = None  # soft labels of the samples from `own.first` on
    taught: Tensor | None = None  # bool (N,): which have soft labels; None: all
    # Of the release's samples: (n, ceil(C*H*W / 8))
    delta_signs: NDArray[np.uint8] | None = None
    boundary: BoundaryPoints | None = None
    views: Views | None = None  # V of each sample; None: plain images alone

    def to(self, device: torch.device) -> Self:
        """Copy the soft labels to a device; the rest goes there batch by batch."""
        soft, taught = self.soft_labels, self.taught
        return replace(
            self,
            soft_labels=None if soft is None else soft.to(device),
            own=None if self.own is None else self.own.to(device),
            taught=None if taught is None else taught.to(device),
        )

    def labels_of(self, positions: Tensor, view: Tensor | None) -> Tensor | None:
        """Return the soft labels (n, K) of some samples, in some view of each.

        Where a sample has none, what is returned for it has no meaning.
        """
        if self.own is None:
            return self._released_labels(positions, view)
        is_own = positions >= self.own.first
        found = self.own.logits.new_zeros(
            len(positions), self.own.logits.shape[2], dtype=torch.float32
        )
        for rows, labels_of in (
            (is_own, self.own.labels_of),
            (~is_own, self._released_labels),
        ):
            labels = labels_of(positions[rows], None if view is None else view[rows])
            if labels is not None:
                found[rows] = labels
        return found

    def _released_labels(self, positions: Tensor, view: Tensor | None) -> Tensor | None:
        soft = self.soft_labels
        if soft is None or len(soft) == 0:
            return None
        if self.taught is not None:
            positions = positions.clamp(max=len(soft) - 1)
        if view is None:
            return soft[positions]
        return soft[positions, view.clamp(max=soft.shape[1] - 1)]

    def stacked(self) -> Tensor | None:
        """Return all soft labels as one tensor, for what changes them as a whole.

        Returns:
            (n, K), or (n, V, K) with views, float32; what is missing is zero.
        """
        if self.own is None:
            return self.soft_labels
        own, released = self.own.soft_labels(), self.soft_labels
        if released is None:
            released = own.new_zeros(self.own.first, *own.shape[1:])
        if self.views is None:
            return torch.cat([released, own[:, 0]])
        if released.dim() == 2:
            released = released[:, None]
        most = max(part.shape[1] for part in (released, own))
        return torch.cat(
            [F.pad(part, (0, 0, 0, most - part.shape[1])) for part in (released, own)]
        )


NO_KNOWLEDGE = Knowledge()  # for a training without a teacher


def read_manifest(release_dir: Path) -> Manifest:
    """Read the manifest of a pulled release.

    Raises:
        TrustError: it is missing or malformed.
    """
    return decode_manifest(read_file(release_dir / MANIFEST))


def read_knowledge(
    manifest: Manifest, release_dir: Path, recipe: StudentConfig
) -> Knowledge:
    """Read what a recipe's method uses of a pulled release.

    Raises:
        TrustError: a shard is missing, damaged or not what the manifest declares.
        ConfigError: the release has less views than the recipe trains on.
    """
    check_views(recipe, manifest)
    contents = contents_for(recipe.method, recipe.boundary_weight)
    contents -= OPTIONAL - {shard.content for shard in manifest.shards}
    parts: dict[Content, dict[str, NDArray[Any]]] = {
        content: _join(manifest, release_dir, content) for content in contents
    }
    soft_labels, signs, boundary, views = None, None, None, None
    if "soft_labels" in parts:
        soft_labels = _soften(parts["soft_labels"], "logits", manifest.temperature)
    if recipe.num_views > 1:
        views = Views.draw(
            manifest.num_samples,
            recipe.num_views,
            shift=manifest.shift,
            flip=manifest.flip,
            seed=manifest.seed,
        )
    if soft_labels is not None and views is not None:
        others = [
            _join(manifest, release_dir, "soft_labels", view)
            for view in range(1, recipe.num_views)
        ]
        more = [_soften(part, "logits", manifest.temperature) for part in others]
        soft_labels = torch.stack([soft_labels, *more], 1)
    if "deltas" in parts:
        signs = parts["deltas"]["delta_signs"]
    if "boundary_points" in parts:
        part = parts["boundary_points"]
        boundary = BoundaryPoints(
            part["boundary_delta"],
            part["boundary_delta_scale"],
            _soften(part, "boundary_logits", manifest.temperature),
        )
    return Knowledge(
        temperature=manifest.temperature,
        soft_labels=soft_labels,
        delta_signs=signs,
        boundary=boundary,
        views=views,
    )


def _join(
    manifest: Manifest, release_dir: Path, content: Content, view: int = 0
) -> dict[str, NDArray[Any]]:
    """Read all shards of one content and view into arrays over all samples."""
    infos = manifest.shards_for(frozenset([content]), view + 1)
    infos = tuple(info for info in infos if info.view == view)
    if not infos:
        raise TrustError(
            f"release {manifest.channel} version {manifest.version} has no {content}, "
            "which the student's method needs; publish with it or change the method"
        )
    joined: dict[str, NDArray[Any]] = {}
    for info in infos:
        data = read_file(release_dir / Path(info.path).name)
        for name, values in decode_shard(data, info, manifest).items():
            if name not in joined:
                shape = (manifest.num_samples, *values.shape[1:])
                joined[name] = np.empty(shape, values.dtype)
            joined[name][info.first : info.first + info.num_samples] = values
    return joined


def _soften(part: dict[str, NDArray[Any]], name: str, temperature: float) -> Tensor:
    logits = torch.from_numpy(dequantize_rows(part[name], part[f"{name}_scale"]))
    return torch.softmax(logits / temperature, 1)


def read_file(path: Path) -> bytes:
    """Read a file of a pulled release.

    Raises:
        TrustError: it is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as e:
        raise TrustError(
            f"cannot read {path} of the release: {e.strerror or e}; pull it again"
        ) from e
