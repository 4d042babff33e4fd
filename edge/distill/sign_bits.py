"""One bit a pixel on any device: packed rows of signs, and back.

The packing is that of the shipped deltas (common.release): numpy does it on a CPU,
where it is fastest, and torch elsewhere. Not here: whose signs (delta_memory.py).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from common.release import pack_signs, unpack_signs


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
