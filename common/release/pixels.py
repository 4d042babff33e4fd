"""The lossless codec of shipped images: one stream for a whole shard, in bounded space.

Images may lie on their side (Fashion-MNIST is 4 % shorter so), and neighbouring pixels
be subtracted along some axes (modulo 256), whichever makes the stream shortest; LZMA2
does the rest over all images of a shard at once. The first byte says along which axes:
bit 0 channels, bit 1 rows, bit 2 columns; bit 3: rows and columns are swapped. The
stream is a raw one: it has no header that could ask for memory, and it is never
unpacked further than the pixels that a manifest declares.

Not here: what a shard holds beside its pixels (shards.py), numbers (quantize.py).
"""

import itertools
import lzma
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import TrustError

_AXES = 3  # bit i of the first byte stands for axis i + 1 of (N, C, H, W)
_SWAPPED = 1 << _AXES
# The dictionary holds a whole shard; lc, lp, pb: bytes have no alignment here.
_FILTER: dict[str, Any] = {
    "id": lzma.FILTER_LZMA2,
    "preset": 9 | lzma.PRESET_EXTREME,
    "dict_size": 4 * 1024 * 1024,
    "lc": 4,
    "lp": 0,
    "pb": 0,
}
_TRIED_BYTES = 128 * 1024  # of a shard's images, to choose the axes by


def pack_pixels(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compress images, uint8 (n, C, H, W), to bytes (m,).

    The same images always give the same bytes, where the same liblzma does it.
    """
    each = max(1, math.prod(images.shape[1:]))
    some = images[: max(1, _TRIED_BYTES // each)]
    useful = [bit for bit in range(_AXES) if images.shape[bit + 1] > 1]
    choices = [
        sum(1 << bit for bit in bits) + swapped
        for swapped in (0, _SWAPPED)
        for count in range(len(useful) + 1)
        for bits in itertools.combinations(useful, count)
    ]
    best = min(choices, key=lambda form: len(_compress(some, form)))
    return np.frombuffer(bytes([best]) + _compress(images, best), np.uint8)


def unpack_pixels(
    packed: NDArray[np.uint8], shape: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """Undo `pack_pixels`: uint8 of the declared shape (n, C, H, W).

    Raises:
        TrustError: the bytes are no such stream, or hold more or fewer pixels than
            declared; no more than those are ever unpacked.
    """
    data = packed.tobytes()
    expected = math.prod(shape)
    if not data or data[0] >= 2 * _SWAPPED:
        raise TrustError(f"images begin with {data[:1]!r}, expected a byte of 0 to 15")
    form = data[0]
    stream = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_FILTER])
    try:
        pixels = stream.decompress(data[1:], max_length=expected + 1)
    except lzma.LZMAError as e:
        raise TrustError(f"images are no stream of LZMA2: {e}") from e
    if len(pixels) != expected or not stream.eof:
        found = "more" if len(pixels) > expected else f"{len(pixels)}"
        raise TrustError(f"images unpack to {found} bytes, expected {expected}")
    if stream.unused_data:
        raise TrustError(
            f"{len(stream.unused_data)} bytes follow the images, expected none"
        )
    num, channels, height, width = shape
    if form & _SWAPPED:
        height, width = width, height
    images = np.frombuffer(pixels, np.uint8).reshape(num, channels, height, width)
    for bit in range(_AXES):
        if form >> bit & 1:
            images = np.cumsum(images, axis=bit + 1, dtype=np.uint8)
    if form & _SWAPPED:
        images = np.ascontiguousarray(images.swapaxes(2, 3))
    return images


def _compress(images: NDArray[np.uint8], form: int) -> bytes:
    """Bring images into the form that the first byte says, and compress."""
    if form & _SWAPPED:
        images = images.swapaxes(2, 3)
    for bit in range(_AXES):
        if form >> bit & 1:
            edge = np.zeros_like(images.take([0], axis=bit + 1))
            images = np.diff(images, axis=bit + 1, prepend=edge)
    return lzma.compress(
        np.ascontiguousarray(images).tobytes(), lzma.FORMAT_RAW, filters=[_FILTER]
    )
