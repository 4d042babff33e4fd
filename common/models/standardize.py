"""The normalisation that a model holds: x in [0, 1] -> zero mean, unit variance.

Constants of the architecture, not of its weights: they are in no saved file.
"""

import torch
from torch import nn

# Per-channel statistics of CIFAR-10's training images; close enough for others.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2471, 0.2435, 0.2616)


class Standardize(nn.Module):
    """Subtracts a mean and divides by a deviation, a channel each."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, in_channels: int) -> None:
        """Take the constants for 3 channels (colour) or others (grey)."""
        super().__init__()
        mean = _MEAN if in_channels == 3 else (0.5,) * in_channels
        std = _STD if in_channels == 3 else (0.25,) * in_channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (N, C, H, W) in [0, 1]."""
        return (x - self.mean) / self.std
