"""Residual networks for 32x32 colour images, with normalisation inside.

ResNet-18 in its CIFAR form (He et al., CVPR 2016; 3x3 stem, no pooling) and
wide residual networks (Zagoruyko and Komodakis, BMVC 2016), both pre-activated
(He et al., ECCV 2016), with BatchNorm. Teachers, and students of nodes that can
afford them. Not here: the smaller ones (`cifar_resnet.py`).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from common.models.forward import Standardize


class _Block(nn.Module):
    """A pre-activated basic block: two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        inner = self.conv1(active)
        out: torch.Tensor = self.conv2(F.relu(self.norm2(inner))) + skip
        return out


class ResNet(nn.Module):
    """A residual network with one stage per entry of `widths`.

    Args:
        in_channels: 1 for grey, 3 for colour images.
        num_classes: number of logits.
        stem: output channels of the first convolution.
        stem_kernel: its kernel's height and width.
        stem_stride: its stride; 2 makes a network that is fast on CPUs: a quarter of
            the pixels, and wide matrix products.
        widths: channels of each stage; every stage but the first halves the map.
        depth: basic blocks per stage.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        stem: int,
        widths: Sequence[int],
        depth: int,
        stem_kernel: int = 3,
        stem_stride: int = 1,
    ) -> None:
        """Build the layers, with weights from torch's global seed."""
        super().__init__()
        self.standardize = Standardize(in_channels)
        self.stem = nn.Conv2d(
            in_channels, stem, stem_kernel, stem_stride, 1, bias=False
        )
        blocks: list[nn.Module] = []
        channels = stem
        for stage, width in enumerate(widths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(_Block(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (N, C, H, W) in [0, 1] to logits (N, K)."""
        features = self.blocks(self.stem(self.standardize(x)))
        pooled = F.relu(self.norm(features)).mean((2, 3))
        logits: torch.Tensor = self.head(pooled)
        return logits
