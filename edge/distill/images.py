"""Labelled images as a training takes them: whole in memory, a batch at a time.

Not here: where they come from (common.data.datasets), their views (common.data.views).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from common.data.datasets import Split


@dataclass(frozen=True)
class Images:
    """Labelled images: uint8 (N, C, H, W) and int64 (N,)."""

    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, split: Split) -> Self:
        """View a split's arrays."""
        return cls(torch.from_numpy(split.images), torch.from_numpy(split.labels))

    def to(self, device: torch.device) -> Self:
        """Lay them out on a device."""
        return type(self)(self.x.to(device), self.y.to(device))

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Take some as float32 in [0, 1], with their labels."""
        return self.x[positions].float().div_(255), self.y[positions]
