"""What reads bytes from elsewhere, each as a function of bytes that may only refuse.

A target takes any bytes and either accepts them or raises a `TaktError`; whatever else
it raises is a fault. Its seeds are valid inputs, made here; `mutated` changes a few
bytes of one. Not here: how many inputs are tried (tests/system/test_fuzz.py,
tests/bench/fuzz.py).
"""

import contextlib
import hashlib
import io
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from edge_site import recipe
from gateway_site import member
from PIL import Image
from release_drafts import draft, shard_of
from small_runs import small_card, tiny_run

from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.config import RunConfig
from common.config.toml_file import parse_config, to_toml
from common.data.idx import read_idx
from common.data.image_folder import Form, read_images
from common.errors import ConfigError, TaktError
from common.models.files import load_model, save_model
from common.models.zoo import build_model
from common.pb import takt_pb2 as pb
from common.release import (
    decode_manifest,
    decode_shard,
    encode_manifest,
    encode_shard,
    image_arrays,
    quantize_rows,
)

Run = Callable[[bytes], None]
_PATIENCE_S = 0.2  # a watch that is understood says nothing until there is news
_METHODS = (
    "FleetService/Heartbeat",
    "FleetService/Report",
    "FleetService/Renew",
    "ReleaseService/Fetch",
    "ReleaseService/Watch",
    "TeacherService/Query",
)
# What a gateway may answer to garbage: any status but that of its own bug.
_BUGS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@dataclass(frozen=True)
class Target:
    """A reader of bytes, and valid bytes to begin with."""

    seeds: tuple[bytes, ...]
    run: Run


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Change, insert, remove, repeat or cut at some places of a seed."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        length = rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 1:
            data[at:at] = rng.randbytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[max(0, at - length) : at]
        elif kind == 4:
            data[at : at + 1] = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80"))
        else:
            del data[at:]
    return bytes(data)


@contextlib.contextmanager
def open_target(name: str, folder: Path) -> Iterator[Target]:
    """Make a target; files that it needs lie in `folder`.

    Args:
        name: a key of `TARGETS`.
        folder: an existing one, of this target alone.
    """
    with TARGETS[name](folder) as target:
        yield target


def _refusing(run: Run) -> Run:
    def tried(data: bytes) -> None:
        with contextlib.suppress(TaktError):
            run(data)

    return tried


@contextlib.contextmanager
def _shard(folder: Path) -> Iterator[Target]:
    logits, scale = quantize_rows(np.eye(4, 10, dtype=np.float32))
    soft = encode_shard({"logits": logits, "logits_scale": scale})
    pixels = np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8)
    images = encode_shard(image_arrays(pixels, np.arange(4), 10))
    manifest = draft(num_samples=4, sample_shape=(1, 8, 8))

    def run(data: bytes) -> None:
        if not data:  # no manifest can declare it
            return
        for content in ("soft_labels", "images"):
            with contextlib.suppress(TaktError):
                info = shard_of(content, data, num_samples=4)
                decode_shard(data, info, manifest)

    yield Target((soft, images), run)


@contextlib.contextmanager
def _manifest(folder: Path) -> Iterator[Target]:
    path = "digits/1/soft_labels-0.safetensors"
    shard = shard_of("soft_labels", b"s" * 100, num_samples=4).model_copy(
        update={"path": path}
    )
    manifest = draft(num_samples=4, students={"tiny": recipe()}, shards=(shard,))
    seed = encode_manifest(manifest)

    def run(data: bytes) -> None:
        decode_manifest(data)

    yield Target((seed,), _refusing(run))


@contextlib.contextmanager
def _config(folder: Path) -> Iterator[Target]:
    tree = tiny_run().model_dump(mode="json", exclude_none=True)
    shipped = Path(__file__).parents[2] / "deploy" / "configs"
    texts = [path.read_bytes() for path in sorted(shipped.glob("*.toml"))]

    def run(data: bytes) -> None:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return
        with contextlib.suppress(ConfigError):
            parse_config(text, RunConfig, source="fuzz", folder=folder)

    yield Target((to_toml(tree).encode(), *texts), run)


@contextlib.contextmanager
def _card(folder: Path) -> Iterator[Target]:
    path = folder / "seed.safetensors"
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    with torch.no_grad():
        save_model(path, model, small_card(architecture="cnn_tiny"))
    seed, place = path.read_bytes(), folder / "m.safetensors"

    def run(data: bytes) -> None:
        place.write_bytes(data)
        load_model(place)

    yield Target((seed,), _refusing(run))


@contextlib.contextmanager
def _idx(folder: Path) -> Iterator[Target]:
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8)
    seed = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4]) + pixels.tobytes()
    place = folder / "x-idx3-ubyte"

    def run(data: bytes) -> None:
        place.write_bytes(data)
        read_idx(place, ndim=3)

    yield Target((seed,), _refusing(run))


@contextlib.contextmanager
def _image(folder: Path) -> Iterator[Target]:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    seeds = []
    for form in ("PNG", "JPEG", "GIF", "BMP"):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, form)
        seeds.append(out.getvalue())
    place = folder / "a.png"

    def run(data: bytes) -> None:
        place.write_bytes(data)
        read_images([place], Form("RGB", 8))

    yield Target(tuple(seeds), _refusing(run))


@contextlib.contextmanager
def _frames(folder: Path) -> Iterator[Target]:
    report = pb.ReportRequest(channel="digits", version=1, notes=["a"], seed=3)
    fetch = pb.FetchRequest(path="metadata/timestamp.json", offset=1)
    seeds = (report.SerializeToString(), fetch.SerializeToString())
    with (
        GatewayThread(storage=StorageDir(folder)) as gateway,
        member(gateway).channel(gateway.address) as channel,
    ):
        calls: Iterator[Any] = itertools.cycle(
            [channel.stream_stream(f"/takt.v1.{method}") for method in _METHODS]
        )

        def run(data: bytes) -> None:
            call: Any = next(calls)(iter([data]), timeout=_PATIENCE_S)
            try:
                next(iter(call), None)
            except grpc.RpcError as e:
                assert e.code() not in _BUGS, f"{e.code()}: {e.details()}"
            finally:
                call.cancel()

        yield Target(seeds, run)


TARGETS = {
    "shard": _shard,
    "manifest": _manifest,
    "config": _config,
    "card": _card,
    "idx": _idx,
    "image": _image,
    "frames": _frames,
}


def digest_of(data: bytes) -> str:
    """Name an input."""
    return hashlib.sha256(data).hexdigest()[:16]
