"""Tensors and one JSON object in one file: safetensors, the object in its header.

Model files and the checkpoints of both trainings have this form. The same tensors and
object always make the same bytes, and nothing is ever unpickled. Not here: what they
mean (common.models.files, cloud.training.checkpoint, edge.distill.fitting), shards,
which have no such object (common.release.shards).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from common.errors import one_line


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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if key not in header:
                raise ValueError(f"its header has no '{key}'")
            note = json.loads(header[key])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, RuntimeError) as e:
        raise ValueError(one_line(e, 1000)) from e
    if not isinstance(note, dict):
        raise ValueError(f"'{key}' in its header is no JSON object")
    return note, tensors
