"""Tensors and one JSON object in one file: safetensors, the object in its header.

Model files and the checkpoints of both trainings have this form. The same tensors and
object always make the same bytes, and nothing is ever unpickled. Not here: what they
mean (common.models.files, cloud.training.checkpoint, edge.distill.fitting), shards,
which have no such object (common.release.shards).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from common.errors import one_line
from common.regular_file import open_regular

MOST_HEADER = 1 << 20  # bytes; a model of 36 million parameters has 20 KiB


def encode_tensors(
    tensors: Mapping[str, Tensor], key: str, note: Mapping[str, Any]
) -> bytes:
    """Serialise tensors, and a JSON object under a key of the header."""
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    # One key: safetensors writes several of them in random order.
    return safetensors.torch.save(stored, {key: json.dumps(note)})


def read_tensors(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `encode_tensors` made: the object, and the tensors on the CPU.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or has no object under that key.
    """
    check_header(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if key not in header:
                raise ValueError(f"its header has no '{key}'")
            note = json.loads(header[key])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, RuntimeError) as e:  # nested too deeply, too
        raise ValueError(one_line(e, 1000)) from e
    if not isinstance(note, dict):
        raise ValueError(f"'{key}' in its header is no JSON object")
    return note, tensors


def check_header(path: Path) -> None:
    """Check the length that a file says its header has, before that is read.

    Raises:
        OSError: the file cannot be read, or is no ordinary one.
        ValueError: there is no header, or more than `MOST_HEADER` bytes of it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError("it is shorter than its header says")
    if length > MOST_HEADER:
        raise ValueError(
            f"its header has {length} bytes, expected at most {MOST_HEADER}"
        )
