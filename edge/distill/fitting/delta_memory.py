"""The last delta of each training sample, one bit a pixel.

A warm-started attack starts from these. To keep deltas between epochs, and to move
them with the crop of their image, is the idea of ATTA (Zheng et al., CVPR 2020);
FGSM-EP and FGSM-PGI do the former with one step (Jia et al., ECCV 2022). Here only
signs are kept: an attack with fresh noise ends at +-eps almost everywhere, and a
data set of n pixels costs n / 8 bytes. Where a student sees crops and mirrored
views, the signs are those of the padded image, its canvas, and move with the pixels
that they belong to: what one view's attack found is where the next view's attack
starts.

Signs are packed as the shipped deltas are (common.release): by numpy on a CPU, where
it is the fastest, by torch elsewhere. Not here: the attack
(common.robustness.attacks).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.release import pack_signs, unpack_signs

_TIE = 1e-6


class DeltaMemory:
    """Signs of deltas, by sample."""

    def __init__(
        self, signs: Tensor, shape: tuple[int, int, int], margin: int = 0
    ) -> None:
        """Use packed signs, uint8 (N, ceil(C*H*W / 8)); they are not copied.

        Args:
            signs: of canvases; they stay on their device.
            shape: (C, H, W) of a canvas.
            margin: pixels of it around the image.
        """
        self._signs = signs
        self._shape = shape
        self._margin = margin

    @classmethod
    def start(
        cls,
        x: Tensor,
        shipped: NDArray[np.uint8] | None,
        generator: torch.Generator,
        *,
        margin: int = 0,
        device: torch.device | None = None,
    ) -> "DeltaMemory":
        """Begin with the teacher's deltas, or with random signs.

        Args:
            x: all images (N, C, H, W); only the shape counts.
            shipped: packed signs, of the first images; copied. Those of the others,
                and with None of all, are drawn.
            generator: of the random signs.
            margin: of a canvas around its image, pixels; random signs there.
            device: where the signs are kept; None: the CPU.
        """
        inner = (x.shape[1], x.shape[2], x.shape[3])
        shape = (inner[0], inner[1] + 2 * margin, inner[2] + 2 * margin)
        if shipped is not None and not margin and len(shipped) == len(x):
            return cls(torch.from_numpy(shipped.copy()).to(device), shape)
        size = (len(x), math.ceil(math.prod(shape) / 8))
        drawn = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        memory = cls(drawn.to(device), shape, margin)
        if shipped is not None:
            pixels = torch.arange(shape[1] * shape[2]).view(shape[1:])
            inside = slice(margin, -margin or None)
            middle = pixels[inside, inside].flatten().to(device)
            for part in torch.split(torch.arange(len(shipped)), 4096):
                signs = unpack(torch.from_numpy(shipped[part.numpy()]), inner)
                where = middle.expand(len(part), -1)
                memory._put(part.to(device), signs.to(device), where)
        return memory

    def recall(
        self, positions: Tensor, eps: float, index: Tensor | None = None
    ) -> Tensor:
        """Return the deltas of some samples: (n, C, H, W) of +-eps.

        Args:
            positions: of the samples (n,).
            eps: of now, pixel scale.
            index: (n, H*W), where their views lie, see
                `common.data.views.canvas_index`; None: everywhere.
        """
        signs = unpack(self._signs[positions], self._shape).mul_(eps)
        if index is None:
            return signs
        where = index[:, None].expand(-1, self._shape[0], -1)
        channels, height, width = self._shape
        view = (-1, channels, height - 2 * self._margin, width - 2 * self._margin)
        return signs.flatten(2).gather(2, where).view(view)

    def keep(
        self, positions: Tensor, delta: Tensor, x: Tensor, index: Tensor | None = None
    ) -> None:
        """Store the deltas of some samples; `index` as in `recall`.

        Where a pixel of x is at 0 or 1 and the delta is 0, the sign that points out
        of [0, 1] is stored.
        """
        pushed = torch.add(delta, x - 0.5, alpha=_TIE)
        if index is None:
            self._signs[positions] = pack(pushed)
        else:
            self._put(positions, pushed, index)

    def tensor(self) -> Tensor:
        """Return the packed signs, shared, for a checkpoint."""
        return self._signs

    def load(self, signs: Tensor) -> None:
        """Restore what `tensor` returned."""
        self._signs = signs.to(self._signs.device, copy=True)

    def _put(self, positions: Tensor, values: Tensor, index: Tensor) -> None:
        """Overwrite the signs of views with those of values (n, C, H, W)."""
        canvas = unpack(self._signs[positions], self._shape)
        where = index[:, None].expand(-1, self._shape[0], -1)
        canvas.flatten(2).scatter_(2, where, values.flatten(2))
        self._signs[positions] = pack(canvas)


def pack(delta: Tensor) -> Tensor:
    """Keep the signs: (n, C, H, W) -> uint8 (n, ceil(C*H*W / 8)), device kept."""
    if delta.device.type == "cpu":
        return torch.from_numpy(pack_signs(delta.numpy()))
    return pack_by_torch(delta)


def unpack(packed: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Undo `pack`: float32 (n, C, H, W) of -1 and +1, device kept."""
    if packed.device.type == "cpu":
        return torch.from_numpy(unpack_signs(packed.numpy(), shape))
    return unpack_by_torch(packed, shape)


def pack_by_torch(delta: Tensor) -> Tensor:
    """Do the same as `pack` with torch alone."""
    bits = (delta.flatten(1) > 0).int()
    bits = F.pad(bits, (0, -bits.shape[1] % 8)).view(len(bits), -1, 8)
    return (bits << _places(delta.device)).sum(2).to(torch.uint8)


def unpack_by_torch(packed: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Do the same as `unpack` with torch alone."""
    bits = (packed.int()[:, :, None] >> _places(packed.device)) & 1
    kept = bits.flatten(1)[:, : math.prod(shape)]
    return kept.float().mul_(2).sub_(1).view(-1, *shape)


def _places(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.int32, device=device)
