"""Residual networks of 0.08 to 0.3 million parameters, for 32x32 images.

The CIFAR form of He et al., CVPR 2016 (section 4.2): 3x3 stem, three stages of basic
blocks, activation after the sum, and shortcuts without parameters (option A: every
other pixel, missing channels zero). BatchNorm: without it twenty layers do not train;
`edge/distill/fitting/learner.py` says how a node deals with its statistics. Not here:
the pre-activated, wider ones (`resnet.py`).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from common.models.forward import Standardize


class _Block(nn.Module):
    """A basic block: two 3x3 convolutions around a shortcut without parameters."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self._stride = stride
        self._missing = width - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        skip = x
        if self._stride > 1 or self._missing:
            skip = x[:, :, :: self._stride, :: self._stride]
            skip = F.pad(skip, (0, 0, 0, 0, 0, self._missing))
        return F.relu(inner + skip)


class CifarResNet(nn.Module):
    """A residual network of ``2 * depth * len(widths) + 2`` layers.

    Args:
        in_channels: 1 for grey, 3 for colour images.
        num_classes: number of logits.
        depth: basic blocks per stage.
        widths: channels of each stage; every stage but the first halves the map.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        depth: int,
        widths: Sequence[int] = (16, 32, 64),
    ) -> None:
        """Build the layers, with weights from torch's global seed."""
        super().__init__()
        self.standardize = Standardize(in_channels)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(_Block(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (N, C, H, W) in [0, 1] to logits (N, K)."""
        features = F.relu(self.norm(self.stem(self.standardize(x))))
        logits: torch.Tensor = self.head(self.blocks(features).mean((2, 3)))
        return logits
