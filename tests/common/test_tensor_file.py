"""Tensors with a JSON object in the header: whole, the same each time, or refused."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from common.tensor_file import encode_tensors, read_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.uint8)}
NOTE = {"epoch": 3, "name": "a \u00fc"}


def test_tensors_and_their_object_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(encode_tensors(TENSORS, "key", NOTE))
    note, tensors = read_tensors(path, "key")
    assert note == NOTE
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_same_content_makes_the_same_bytes() -> None:
    assert len({encode_tensors(TENSORS, "key", NOTE) for _ in range(5)}) == 1


@pytest.mark.parametrize(
    "header", [None, {"other": "{}"}, {"key": "{"}, {"key": "[1]"}]
)
def test_a_header_without_the_object_is_refused(
    tmp_path: Path, header: dict[str, str] | None
) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "x", header)
    with pytest.raises(ValueError):
        read_tensors(tmp_path / "x", "key")


@pytest.mark.parametrize("length", [0, 7, 60, -1])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "x").write_bytes(encode_tensors(TENSORS, "key", NOTE)[:length])
    with pytest.raises(ValueError):
        read_tensors(tmp_path / "x", "key")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_tensors(tmp_path / "none", "key")
