"""MobileNetV2 for 32x32 images (Sandler et al., CVPR 2018), normalisation inside.

The paper's table 2 with width 1, but for the strides of the stem and of the second
stage, which are 1: images of 32 pixels are too small for them. No dropout. Not here:
torchvision's, whose import does not fit a small node's memory.
"""

import torch
from torch import nn

from common.models.forward import Standardize

# expansion, channels, blocks, stride of the first: table 2
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _LAST = 32, 1280


def _normed(
    channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Make a convolution that keeps the map's size (by stride 1), and its norm."""
    padding = kernel // 2
    conv = nn.Conv2d(channels, width, kernel, stride, padding, 1, groups, bias=False)
    return [conv, nn.BatchNorm2d(width)]


class _Block(nn.Module):
    """An inverted residual with a linear bottleneck."""

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*_normed(channels, inner, 1), nn.ReLU6()]
        layers += [*_normed(inner, inner, 3, stride=stride, groups=inner), nn.ReLU6()]
        layers += _normed(inner, width, 1)
        self.layers = nn.Sequential(*layers)
        self._adds = stride == 1 and channels == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out + x if self._adds else out


class MobileNetV2(nn.Module):
    """MobileNetV2.

    Args:
        in_channels: 1 for grey, 3 for colour images.
        num_classes: number of logits.
    """

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        """Build the layers, with weights from torch's global seed."""
        super().__init__()
        layers: list[nn.Module] = [
            Standardize(in_channels),
            *_normed(in_channels, _STEM, 3),
            nn.ReLU6(),
        ]
        channels = _STEM
        for expansion, width, num_blocks, first_stride in _STAGES:
            for index in range(num_blocks):
                stride = first_stride if index == 0 else 1
                layers.append(_Block(channels, width, expansion, stride))
                channels = width
        layers += [*_normed(channels, _LAST, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(_LAST, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return logits
