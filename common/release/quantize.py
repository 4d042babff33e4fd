"""The two number codecs of a shard: int8 rows with a scale, and sign bits.

numpy only. Both lose information on purpose and say how much; what a shard
stores with which of them is stated in `shards.py`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEVELS = 127
_LARGEST = _LEVELS * float(np.finfo(np.float16).max)  # 8,319,008


def quantize_rows(
    values: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Quantise each row to int8 with its own scale.

    Args:
        values: (n, ...) finite floats. Beyond +-8,319,008 (the largest float16
            times 127) they saturate.

    Returns:
        int8 array of the same shape and float16 scales (n,), such that
        ``values ~ q * scale`` within half a scale. Scales are rounded up, so that
        nothing else saturates; the smallest is 6e-8, or 0 for a row of zeros.

    Raises:
        ValueError: there are NaN or infinite values.
    """
    if not np.isfinite(values).all():
        raise ValueError("quantize_rows needs finite values, found NaN or infinity")
    flat = values.reshape(len(values), -1)
    flat = np.clip(flat.astype(np.float64), -_LARGEST, _LARGEST)
    exact = np.abs(flat).max(axis=1) / _LEVELS
    scale = exact.astype(np.float16)
    low = scale.astype(np.float64) < exact
    scale[low] = np.nextafter(scale[low], np.float16(np.inf))
    divisor = np.where(scale > 0, scale, np.float16(1)).astype(np.float64)
    quantised = np.rint(flat / divisor[:, None]).astype(np.int8)
    return quantised.reshape(values.shape), scale


def dequantize_rows(
    quantised: NDArray[np.int8], scale: NDArray[np.float16]
) -> NDArray[np.float32]:
    """Undo `quantize_rows`: float32 of the same shape."""
    shape = (-1,) + (1,) * (quantised.ndim - 1)
    return quantised.astype(np.float32) * scale.astype(np.float32).reshape(shape)


def pack_signs(delta: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Keep one bit a pixel: (n, C, H, W) floats -> (n, ceil(C*H*W / 8)) uint8."""
    return np.packbits(delta.reshape(len(delta), -1) > 0, axis=1)


def unpack_signs(
    packed: NDArray[np.uint8], sample_shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Undo `pack_signs`: (n, C, H, W) of -1 and +1."""
    num_pixels = math.prod(sample_shape)
    bits = np.unpackbits(packed, axis=1, count=num_pixels)
    return (bits.astype(np.float32) * 2 - 1).reshape(-1, *sample_shape)
