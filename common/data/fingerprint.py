"""The fingerprint of labelled images: what ties a release to its images.

Two sides that hold images apart from each other can tell by it that sample i is the
same on both. Fed part by part, so that no side needs them all in memory. Not here:
where images come from (datasets.py), or how they are shipped (common.release).
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Fingerprint:
    """Hash shape, pixels and labels in order: sha256."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Begin with the shape (N, C, H, W) of all the images together."""
        self._digest = hashlib.sha256(repr(shape).encode())
        self._labels: list[bytes] = []

    def add(self, images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]) -> None:
        """Take the next images, uint8 (n, C, H, W), and their labels (n,)."""
        self._digest.update(np.ascontiguousarray(images).data)
        self._labels.append(np.ascontiguousarray(labels, "<i8").tobytes())

    def hexdigest(self) -> str:
        """Return the hash of all that was added, hex."""
        digest = self._digest.copy()
        digest.update(b"".join(self._labels))
        return digest.hexdigest()
