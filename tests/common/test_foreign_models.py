"""Files of other programs, given in the place of a model: each is named in one line."""

import gzip
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_runs import small_card
from waiting import WAIT_S

from common.errors import StorageError
from common.models.files import load_model, save_model
from common.models.foreign import what_is
from common.models.zoo import build_model

WEIGHTS = {"layer.weight": torch.zeros(2, 3)}


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("student.safetensors", b"x")


def _hugging_face(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "resnet"}')
    safetensors.torch.save_file(WEIGHTS, path / "model.safetensors")


def _run_folder(path: Path) -> None:
    (path / "students").mkdir(parents=True)
    (path / "students" / "sensor.safetensors").write_bytes(b"x")


MAKERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("model.pt", lambda p: torch.save(WEIGHTS, p), "a checkpoint of PyTorch"),
    (
        "old.pth",
        lambda p: torch.save(WEIGHTS, p, _use_new_zipfile_serialization=False),
        "a pickle, as older versions of PyTorch write",
    ),
    (
        "plain.safetensors",
        lambda p: safetensors.torch.save_file(WEIGHTS, p),
        "weights of another program",
    ),
    (
        "with-metadata.safetensors",
        lambda p: safetensors.torch.save_file(WEIGHTS, p, {"format": "pt"}),
        "weights of another program",
    ),
    (
        "model.onnx",
        lambda p: p.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.14.1:\x00"),
        "an ONNX model",
    ),
    ("model.zip", _zip, "a zip archive"),
    ("torn.zip", lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40)), "a damaged zip"),
    ("model.gz", lambda p: p.write_bytes(gzip.compress(b"x")), "a gzip archive"),
    ("model.h5", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9)), "HDF5"),
    ("model.gguf", lambda p: p.write_bytes(b"GGUF\x03\0\0\0"), "a GGUF file"),
    ("model.tflite", lambda p: p.write_bytes(b"\x1c\0\0\0TFL3"), "a TFLite model"),
    (
        "pointer.safetensors",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "git lfs pull fetches the file",
    ),
    ("empty.safetensors", lambda p: p.write_bytes(b""), "is empty, expected"),
    ("hf", _hugging_face, "a folder, such as Hugging Face's libraries write"),
    ("run", _run_folder, "a folder; a file in it is"),
]


@pytest.mark.parametrize(
    ("name", "make", "said"), MAKERS, ids=[name for name, *_ in MAKERS]
)
def test_a_file_of_another_program_is_named_with_an_example_of_takts(
    tmp_path: Path, name: str, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(StorageError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message
    assert message.endswith("for instance runs/RUN/students/sensor.safetensors")


@pytest.mark.parametrize("length", [0x0280, 0x8B1F])
def test_a_header_whose_length_looks_like_another_format_is_takts_all_the_same(
    tmp_path: Path, length: int
) -> None:
    # The length comes first, and its lowest bytes are those of a pickle or of gzip.
    path = tmp_path / "m.safetensors"
    head = json.dumps({"__metadata__": {"takt.card": ""}})
    path.write_bytes(length.to_bytes(8, "little") + head.encode().ljust(length))
    assert what_is(path) is None


def test_a_model_of_takt_is_of_no_other_program(tmp_path: Path) -> None:
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    save_model(tmp_path / "m.safetensors", model, small_card())
    assert what_is(tmp_path / "m.safetensors") is None


@pytest.mark.parametrize("name", ["model.pt", "hf"])
def test_evaluate_ends_with_that_line_and_its_code(tmp_path: Path, name: str) -> None:
    make = {found: maker for found, maker, _ in MAKERS}[name]
    make(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", "evaluate", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 8
    (line,) = done.stderr.splitlines()
    assert "expected a model of takt" in line
