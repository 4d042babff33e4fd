"""Small convolutional classifiers for grey 8x8 to colour 256x256 images.

Plain convolutions with strides, ReLU and a linear head over the flattened map.
He initialisation and input centred to [-1, 1]: with torch's default and [0, 1],
nets of 1,000 parameters sometimes fail to learn from adversarial examples (digits,
PGD-AT, PGD-20, mean of two seeds: 52 % robust; with both 66 %). No BatchNorm: its
statistics differ between clean and adversarial batches and are noisy at the batch
sizes of an edge node. No pooling: a stride costs a quarter of the work. Not here:
residual networks (`resnet.py`).
"""

from collections.abc import Sequence

import torch
from torch import nn


class ConvNet(nn.Module):
    """A chain of 3x3 convolutions and a linear head.

    Args:
        in_channels: 1 for grey, 3 for colour images.
        image_size: height and width of x.
        num_classes: number of logits.
        widths: output channels of each convolution.
        strides: stride of each convolution.
        hidden: width of a hidden linear layer; 0 for none.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        image_size: int,
        num_classes: int,
        widths: Sequence[int],
        strides: Sequence[int],
        hidden: int = 0,
    ) -> None:
        """Build the layers, with weights from torch's global seed."""
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = in_channels, image_size
        for width, stride in zip(widths, strides, strict=True):
            layers += [nn.Conv2d(channels, width, 3, stride, 1), nn.ReLU()]
            channels, size = width, -(-size // stride)
        self.features = nn.Sequential(*layers)
        flat = channels * size * size
        self.head: nn.Module
        if hidden:
            self.head = nn.Sequential(
                nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
            )
        else:
            self.head = nn.Linear(flat, num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: torch.Tensor = self.head(self.features(2 * x - 1).flatten(1))
        return logits
