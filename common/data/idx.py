"""Read the IDX files of MNIST and its relatives, and scikit-learn's digits.

numpy only: neither torchvision nor sklearn is imported (several CPU-seconds
each). Not here: downloads, splits.
"""

import gzip
import importlib.util
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.regular_file import open_regular

MAX_UNPACKED_BYTES = 1 << 30  # of a .gz, in memory; EMNIST's largest file has 0.55e9


def read_idx(path: Path, *, ndim: int) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, plain or with gzip (``.gz``).

    A plain file is mapped, not read: of a large set only the images asked for come
    into memory, which is what a node under a small cap needs.

    Args:
        path: the file.
        ndim: how many dimensions it must have (3 for images, 1 for labels).

    Raises:
        DataError: unreadable, not IDX, or shorter or longer than it declares.
    """
    data: NDArray[np.uint8]
    start = 4 + 4 * ndim
    try:
        if path.suffix == ".gz":
            data = np.frombuffer(_unpacked(path, start), np.uint8)
        elif path.stat().st_size:
            data = np.memmap(path, np.uint8, "r")
        else:  # mmap refuses empty files
            data = np.zeros(0, np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise DataError(f"cannot read {path}: {e}; fetch it again") from e
    magic = bytes([0, 0, 8, ndim])
    header = data[:start].tobytes()
    if len(header) < start or header[:4] != magic:
        raise DataError(
            f"{path} is not an IDX file of {ndim} dimensions: begins with "
            f"{header[:4].hex() or 'nothing'}, expected {magic.hex()}; fetch it again"
        )
    shape = _shape(header)
    expected = start + math.prod(shape)
    if len(data) != expected:
        word = "truncated" if len(data) < expected else "too long"
        raise DataError(
            f"{path} is {word}: {len(data)} bytes, expected {expected}; delete it and "
            "fetch it again"
        )
    try:
        return data[start:].reshape(shape)
    except ValueError as e:  # nothing times a lot is nothing, and no shape of numpy's
        raise DataError(
            f"{path} declares {' x '.join(map(str, shape))}: {e}; delete it and fetch "
            "it again"
        ) from e


def _shape(header: bytes) -> tuple[int, ...]:
    return tuple(int(n) for n in np.frombuffer(header[4:], ">u4"))


def _unpacked(path: Path, start: int) -> bytes:
    """Unpack a gzip file no further than a byte beyond what its header declares.

    A thousandth of the bytes can unpack to anything.

    Args:
        path: the file.
        start: bytes of the header.

    Raises:
        DataError: it declares more than is unpacked into memory.
        OSError, EOFError, zlib.error: it is damaged.
    """
    # Opened by us: a pipe would keep the reader waiting.
    with open_regular(path) as packed, gzip.GzipFile(fileobj=packed) as file:
        header = file.read(start)
        if len(header) < start or header[:3] != bytes([0, 0, 8]):
            return header  # whoever called says what is wrong with it
        declared = math.prod(_shape(header))
        if declared > MAX_UNPACKED_BYTES:
            raise DataError(
                f"{path} declares {declared} bytes, of a .gz {MAX_UNPACKED_BYTES} at "
                "most are unpacked; unpack it with gunzip, a plain file may be larger"
            )
        return header + file.read(declared + 1)


def read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the 1797 digits bundled with scikit-learn.

    Returns:
        images (1797, 1, 8, 8), round(value * 255 / 16), and labels (1797,).

    Raises:
        DataError: scikit-learn is not installed or its file is damaged.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the digits come with scikit-learn; pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0], "datasets/data/digits.csv.gz")
    try:
        text = gzip.decompress(path.read_bytes())
        table: NDArray[Any] = np.array(
            text.replace(b"\n", b",").rstrip(b",").split(b","), np.float32
        )
        table = table.reshape(1797, 65)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise DataError(f"cannot read {path}: {e}; reinstall scikit-learn") from e
    images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)
