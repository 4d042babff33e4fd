"""Images and models made to harm who reads them: each is refused in one line."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from small_runs import small_card
from waiting import WAIT_S

from common.data.image_folder import Form, common_form, read_images, size_and_mode
from common.errors import DataError, StorageError
from common.models.files import load_model, save_model
from common.models.zoo import build_model

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
showpage
%%EOF
"""
NO_WEIGHTS = hashlib.sha256(b"").hexdigest()
LOAD = """
import resource, sys
from pathlib import Path
import torchvision  # 70 MiB; one of the cards names a model of it
from common.errors import TaktError
from common.models.files import load_model
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for name in sys.argv[1:]:
    before = most()
    try:
        load_model(Path(name))
    except TaktError as e:
        print(most() - before, e)
"""
READ = """
import resource, sys
from pathlib import Path
from common.data.image_folder import Form, read_images
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = most()
read_images([Path(sys.argv[1])], Form("RGB", 32))
print(most() - before)
"""
HUGE_CARDS: tuple[dict[str, Any], ...] = (
    {"architecture": "cnn_large", "num_classes": 2 * 10**6},
    {"image_size": 10**5},
    {"in_channels": 10**7},
    {"architecture": "cnn_large", "image_size": 4096, "num_classes": 10_000},
    {"architecture": "wrn_28_10"},
    {"architecture": "torchvision/regnet_y_128gf"},
)


def test_a_postscript_file_named_as_a_png_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    image = tmp_path / "a.png"
    image.write_bytes(POSTSCRIPT)
    with pytest.raises(DataError, match=r"a\.png: its content is no image"):
        read_images([image], Form("L", 8))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("read", [size_and_mode, lambda p: common_form([p], None)])
def test_a_pipe_in_the_place_of_an_image_is_refused_without_waiting(
    tmp_path: Path, read: Any
) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="it is a pipe, a socket or a device"):
        read(tmp_path / "a.png")


def test_a_pipe_in_the_place_of_a_model_is_refused_without_waiting(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(StorageError, match="it is a pipe, a socket or a device"):
        load_model(tmp_path / "m.safetensors")


def test_a_transparent_image_of_few_bytes_takes_no_gigabyte(tmp_path: Path) -> None:
    image = Image.new("LA", (5000, 4990), (0, 0))
    image.putpixel((0, 0), (9, 9))
    image.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 400_000
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300  # its pixels take 95, those that are wanted as much


def write_raw(path: Path, header: bytes, rest: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + rest)
    return path


def card_of(**changes: Any) -> dict[str, Any]:
    card = small_card().model_dump(mode="json")
    return {**card, "weights_sha256": NO_WEIGHTS, **changes}


def with_card(path: Path, card: str) -> Path:
    return write_raw(path, json.dumps({"__metadata__": {"takt.card": card}}).encode())


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Load a model of each huge card; return MiB that it took, and its refusal."""
    folder = tmp_path_factory.mktemp("cards")
    paths = [
        with_card(folder / f"{number}.safetensors", json.dumps(card_of(**changes)))
        for number, changes in enumerate(HUGE_CARDS)
    ]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("number", range(len(HUGE_CARDS)))
def test_a_card_of_a_few_hundred_bytes_takes_no_memory(
    refusals: list[str], number: int
) -> None:
    grown_mib, _, message = refusals[number].partition(" ")
    assert f"{number}.safetensors is " in message
    assert int(grown_mib) < 64


@pytest.mark.parametrize(
    "card",
    [
        "{}",
        "[" * 100_000,
        '"text"',
        json.dumps(card_of(class_names=["a"] * 20_000)),
        json.dumps(card_of(architecture="a" * 10_000)),
        json.dumps(card_of(num_classes=-1)),
        json.dumps(card_of(num_classes=1e300)),
        json.dumps(card_of(eps=float("nan"))),
        json.dumps(card_of(architecture="cnn\n\x1b[2Jtiny")),
        json.dumps(card_of()).replace('"weights_sha256": "0", ', ""),
    ],
)
def test_a_card_that_describes_no_model_is_refused_in_one_line(
    tmp_path: Path, card: str
) -> None:
    path = with_card(tmp_path / "m.safetensors", card)
    with pytest.raises(StorageError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,
        b'{"__metadata__": ' + b"[" * 200_000,
        b'{"__metadata__": null}',
        b'{"__metadata__": ["takt.card"]}',
        b'{"__metadata__": {"takt.card": 1}}',
        b'{"__metadata__": {"takt.card": "' + b" " * (2 << 20) + b'"}}',
    ],
)
def test_a_header_that_is_none_is_refused_in_one_line(
    tmp_path: Path, header: bytes
) -> None:
    path = write_raw(tmp_path / "m.safetensors", header)
    with pytest.raises(StorageError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_weights_of_another_type_than_the_models_are_refused(tmp_path: Path) -> None:
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    tensors = {name: t.bfloat16() for name, t in model.state_dict().items()}
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(tensors, path, {"takt.card": json.dumps(card_of())})
    with pytest.raises(
        StorageError, match=r"torch\.bfloat16.*by its card torch\.float32"
    ):
        load_model(path)


def test_what_save_wrote_still_loads(tmp_path: Path) -> None:
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    save_model(tmp_path / "m.safetensors", model, small_card())
    loaded, card = load_model(tmp_path / "m.safetensors")
    assert card == small_card()
    for name, tensor in loaded.state_dict().items():
        assert np.array_equal(tensor, model.state_dict()[name])
    assert torch.equal(
        loaded(torch.zeros(1, 1, 8, 8)), model.eval()(torch.zeros(1, 1, 8, 8))
    )
