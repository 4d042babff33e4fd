"""What a node's camera does to images: a little lighter, out of focus, or turned.

Simulated nodes see the world through one of these, and so do the test images that their
students are measured on. The amounts are fixed and nothing is random: cloud, node and
measurement make the same pixels. Numpy alone. Not here: augmentation (views.py).
"""

import math

import numpy as np
from numpy.typing import NDArray

from common.config.own_images import CameraShift

LIGHTER = 51  # of 255: a fifth of the range, added to every pixel
DEGREES = 15.0  # counterclockwise
_BLOCK = 4096  # images at a time


def shifted(images: NDArray[np.uint8], shift: CameraShift) -> NDArray[np.uint8]:
    """Give images as a camera with this shift has them.

    Args:
        images: uint8 (N, C, H, W).
        shift: "none" gives the images as they are.

    Returns:
        uint8 (N, C, H, W).
    """
    if shift == "none":
        return images
    change = {"brightness": _lighter, "blur": _blurred, "rotation": _turned}[shift]
    blocks = [images[i : i + _BLOCK] for i in range(0, len(images), _BLOCK)]
    return np.concatenate([change(block) for block in blocks] or [images])


def _lighter(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.minimum(images, 255 - LIGHTER) + np.uint8(LIGHTER)


def _blurred(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blur with the kernel (1, 2, 1) / 4 along both axes; twice from 16 pixels on."""
    found = images.astype(np.float32)
    for _ in range(1 if min(images.shape[2:]) < 16 else 2):
        for axis in (2, 3):
            found = _smoothed(found, axis)
    return np.rint(found).astype(np.uint8)


def _smoothed(images: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Weigh each pixel with its neighbours; beyond the edge lies the edge's pixel."""
    width = images.shape[axis]
    before = images.take(np.maximum(np.arange(width) - 1, 0), axis)
    after = images.take(np.minimum(np.arange(width) + 1, width - 1), axis)
    found: NDArray[np.float32] = (before + 2 * images + after) / 4
    return found


def _turned(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn about the centre, bilinear; beyond the edge lies the edge's pixel."""
    height, width = images.shape[2:]
    cos, sin = math.cos(math.radians(DEGREES)), math.sin(math.radians(DEGREES))
    row, column = np.mgrid[:height, :width].astype(np.float32)
    row, column = row - (height - 1) / 2, column - (width - 1) / 2
    # Where each new pixel comes from.
    y = np.clip(cos * row + sin * column + (height - 1) / 2, 0, height - 1)
    x = np.clip(cos * column - sin * row + (width - 1) / 2, 0, width - 1)
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (y - top).astype(np.float32), (x - left).astype(np.float32)
    pixels = images.astype(np.float32)
    upper = pixels[..., top, left] * (1 - across) + pixels[..., top, right] * across
    lower = pixels[..., bottom, left] * (1 - across)
    lower = lower + pixels[..., bottom, right] * across
    found: NDArray[np.uint8] = np.rint(upper * (1 - down) + lower * down).astype(
        np.uint8
    )
    return found
