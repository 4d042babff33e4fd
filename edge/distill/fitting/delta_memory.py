"""The last delta of each training sample, one bit a pixel, or a byte where asked.

A warm-started attack starts from these. To keep deltas between epochs, and to move
them with the crop of their image, is the idea of ATTA (Zheng et al., CVPR 2020).
Here only signs are kept: an attack with fresh noise ends at +-eps almost everywhere,
and a data set of n pixels costs n / 8 bytes. Where a student sees crops and mirrored
views, the signs are those of the padded image, its canvas, and move with the pixels
that they belong to: what one view's attack found is where the next view's attack
starts. FGSM-EP (Jia et al., ECCV 2022) adds no noise, so that its deltas may end at 0:
`ValueMemory` keeps them as they are.

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
_LEVELS = 127  # of a value between 0 and eps: those of int8


class DeltaMemory:
    """Signs of deltas, by sample."""

    def __init__(
        self, kept: Tensor, shape: tuple[int, int, int], margin: int = 0
    ) -> None:
        """Use what is kept, packed signs uint8 (N, ceil(C*H*W / 8)); it is not copied.

        Args:
            kept: of canvases; it stays on its device.
            shape: (C, H, W) of a canvas.
            margin: pixels of it around the image.
        """
        self._kept = kept
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
        signs = self._read(positions).mul_(eps)
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
        self._keep(positions, torch.add(delta, x - 0.5, alpha=_TIE), index)

    def tensor(self) -> Tensor:
        """Return what is kept, packed and shared, for a checkpoint."""
        return self._kept

    def load(self, kept: Tensor) -> None:
        """Restore what `tensor` returned."""
        self._kept = kept.to(self._kept.device, copy=True)

    def _keep(self, positions: Tensor, values: Tensor, index: Tensor | None) -> None:
        if index is None:
            self._write(positions, values)
        else:
            self._put(positions, values, index)

    def _put(self, positions: Tensor, values: Tensor, index: Tensor) -> None:
        """Overwrite what is kept of views with values (n, C, H, W)."""
        canvas = self._read(positions)
        where = index[:, None].expand(-1, self._shape[0], -1)
        canvas.flatten(2).scatter_(2, where, values.flatten(2))
        self._write(positions, canvas)

    def _read(self, positions: Tensor) -> Tensor:
        """Unpack canvases (n, C, H, W), in units of eps."""
        return unpack(self._kept[positions], self._shape)

    def _write(self, positions: Tensor, canvas: Tensor) -> None:
        self._kept[positions] = pack(canvas)


class ValueMemory(DeltaMemory):
    """Deltas by sample, a byte a pixel; they begin at random signs."""

    _eps = 1.0  # that `recall` was last asked for

    @classmethod
    def begin(
        cls,
        x: Tensor,
        generator: torch.Generator,
        *,
        margin: int = 0,
        device: torch.device | None = None,
    ) -> "ValueMemory":
        """Begin at +-eps; arguments as of `DeltaMemory.start`."""
        _, channels, height, width = x.shape
        shape = (channels, height + 2 * margin, width + 2 * margin)
        drawn = torch.randint(
            0, 2, (len(x), *shape), dtype=torch.int8, generator=generator
        )
        signs = drawn.mul_(2).sub_(1)
        return cls(signs.mul_(_LEVELS).to(device), shape, margin)

    def recall(
        self, positions: Tensor, eps: float, index: Tensor | None = None
    ) -> Tensor:
        """Return the deltas of some samples, (n, C, H, W) within eps."""
        self._eps = eps
        return super().recall(positions, eps, index)

    def keep(
        self, positions: Tensor, delta: Tensor, x: Tensor, index: Tensor | None = None
    ) -> None:
        """Store the deltas of some samples, of the eps that `recall` was asked for."""
        self._keep(positions, delta / self._eps, index)

    def _read(self, positions: Tensor) -> Tensor:
        return self._kept[positions].float().div_(_LEVELS)

    def _write(self, positions: Tensor, canvas: Tensor) -> None:
        levels = (canvas * _LEVELS).round_().clamp_(-_LEVELS, _LEVELS)
        self._kept[positions] = levels.to(torch.int8)


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
