"""MNIST's files: what is read, what damage says, and where missing ones are got."""

import gzip
import os
import struct
import tracemalloc
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.config import DatasetConfig
from common.data.datasets import load_dataset
from common.data.idx import read_idx
from common.errors import DataError


def _idx(array: NDArray[np.uint8]) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + b"".join(struct.pack(">I", n) for n in array.shape)
        + array.tobytes()
    )


def _write_mnist(root: Path, num_train: int = 60, num_test: int = 20) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", num_train), ("t10k", num_test)):
        images = np.random.RandomState(n).randint(0, 256, (n, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(_idx(images.astype(np.uint8)))
        labels = np.arange(n, dtype=np.uint8) % 10
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(_idx(labels))
    return raw


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_idx_files_are_read_whole(
    name: str, data_dir: Callable[[str], Path]
) -> None:
    config = DatasetConfig.model_validate({"name": name, "data_dir": data_dir(name)})
    dataset = load_dataset(config, seed=0)
    assert (len(dataset.train), len(dataset.val)) == (54_000, 6_000)
    assert len(dataset.test) == 10_000
    assert set(dataset.test.labels) == set(range(10))


def test_gzipped_idx_files_are_read_like_plain_ones(tmp_path: Path) -> None:
    raw = _write_mnist(tmp_path)
    config = DatasetConfig(name="mnist", data_dir=tmp_path)
    plain = load_dataset(config, seed=0)
    for path in list(raw.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_dataset(config, seed=0).train.fingerprint() == plain.train.fingerprint()


@pytest.mark.parametrize(
    "sizes", [(2**32 - 1, 2**32 - 1, 0), (2**32 - 1, 0, 2**32 - 1)]
)
def test_nothing_of_a_shape_that_no_array_has_is_refused(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">III", *sizes))
    with pytest.raises(DataError, match=f"declares {sizes[0]} x {sizes[1]} x"):
        read_idx(path, ndim=3)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-100], "is truncated: 46956 bytes, expected 47056"),
        (lambda data: data + b"x", "is too long: 47057 bytes, expected 47056"),
        (lambda data: data[:3], "is not an IDX file"),
        (lambda data: b"", "is not an IDX file"),
        (lambda data: b"<html>" + data, "is not an IDX file"),
        # 2^32 - 1 images declared: refused from the length, nothing is allocated
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "is truncated"),
    ],
)
def test_a_damaged_idx_file_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes], said: str
) -> None:
    path = _write_mnist(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as error:
        load_dataset(DatasetConfig(name="mnist", data_dir=tmp_path), seed=0)
    assert f"{path} {said}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_gzip_file_is_named(tmp_path: Path) -> None:
    path = _write_mnist(tmp_path) / "t10k-labels-idx1-ubyte"
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes())[:-9])
    path.unlink()
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz.*fetch it again"):
        load_dataset(DatasetConfig(name="mnist", data_dir=tmp_path), seed=0)


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path) -> None:
    raw = _write_mnist(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes(_idx(np.zeros(59, np.uint8)))
    with pytest.raises(DataError, match=r"60 images and .* 59 labels"):
        load_dataset(DatasetConfig(name="mnist", data_dir=tmp_path), seed=0)


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    raw = _write_mnist(tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes(_idx(np.full(60, 10, np.uint8)))
    with pytest.raises(DataError, match="label 10, expected at most 9"):
        load_dataset(DatasetConfig(name="mnist", data_dir=tmp_path), seed=0)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_offline_says_what_was_looked_for_where_and_the_fix(
    tmp_path: Path, name: str
) -> None:
    def offline(name: str, data_dir: Path) -> None:
        raise urllib.error.URLError("Name or service not known")

    config = DatasetConfig.model_validate({"name": name, "data_dir": tmp_path})
    with pytest.raises(DataError) as error:
        load_dataset(config, seed=0, download=offline)
    message = str(error.value)
    assert f"'{name}' is not at {tmp_path}" in message
    assert "the download failed" in message and "Name or service" in message
    assert "--data-dir" in message
    assert "\n" not in message


def test_what_the_download_brought_is_used(tmp_path: Path) -> None:
    asked = []

    def download(name: str, data_dir: Path) -> None:
        asked.append(name)
        _write_mnist(data_dir)

    config = DatasetConfig(name="mnist", data_dir=tmp_path / "new" / "folder")
    dataset = load_dataset(config, seed=0, download=download)
    load_dataset(config, seed=0, download=download)
    assert len(dataset.train) == 54
    assert asked == ["mnist"]


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_a_pipe_in_the_place_of_an_idx_file_is_refused_without_waiting(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        read_idx(tmp_path / name, ndim=3)


def test_a_small_gzip_file_that_unpacks_to_much_is_read_no_further_than_declared(
    tmp_path: Path,
) -> None:
    bomb = tmp_path / "bomb.gz"
    declared = _idx(np.zeros((2, 3, 4), np.uint8))
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(declared)
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="too long: 41 bytes, expected 40"):
            read_idx(bomb, ndim=3)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_gzip_file_that_declares_more_than_is_unpacked_is_refused_with_the_fix(
    tmp_path: Path,
) -> None:
    header = bytes([0, 0, 8, 3]) + struct.pack(">III", 2**31, 28, 28)
    path = tmp_path / "huge.gz"
    path.write_bytes(gzip.compress(header))
    with pytest.raises(DataError, match="unpack it with gunzip"):
        read_idx(path, ndim=3)
