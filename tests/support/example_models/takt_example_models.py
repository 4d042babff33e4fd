"""Models of one's own, as a package outside takt has them: a network of patches.

It imports nothing of takt. Batch statistics and dropout are in it on purpose.
"""

import torch
from torch import nn


class PatchNet(nn.Module):
    """Patches of 2x2 pixels, two layers that each see all of an image, a mean."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        """Build the layers, with weights from torch's global seed."""
        super().__init__()
        self.patches = nn.Conv2d(in_channels, 16, 2, 2)
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 16, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(16 * 4, num_classes)
        self.pool = nn.AdaptiveAvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (N, C, H, W) in [0, 1] to logits (N, K)."""
        features = torch.relu(self.norm(self.patches(2 * x - 1)))
        features = torch.relu(features + self.mix(features))
        logits: torch.Tensor = self.head(self.dropout(self.pool(features).flatten(1)))
        return logits


def patch_net(in_channels: int, image_size: int, num_classes: int) -> nn.Module:
    """Make a network that takes images of any size."""
    return PatchNet(in_channels, num_classes)
