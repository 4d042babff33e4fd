"""Whether two model files are one function: the digest of a model, whoever wrote it.

A node that keeps the starting weights writes them into a file of its own, in float32
and with a card of its own. Reads without torch, which the programs that start
evaluations stay without. Not here: the digest of a file, by which a report is checked
(deploy/simulation/node_students.py).
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from common.models.foreign import CARD_KEY

_SHAPE = ("architecture", "in_channels", "image_size", "num_classes")


def digest_of_function(path: Path) -> str | None:
    """Return a digest of a model's architecture and of its weights in float32.

    Returns:
        hex; None where the file cannot be read, which whoever loads it says.
    """
    digest = hashlib.sha256()
    try:
        with safe_open(path, framework="np") as file:
            card = json.loads((file.metadata() or {})[CARD_KEY])
            digest.update(json.dumps([card[key] for key in _SHAPE]).encode())
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                if np.issubdtype(tensor.dtype, np.floating):
                    tensor = tensor.astype(np.float32)
                head = f"{name} {tensor.dtype} {tensor.shape}".encode()
                digest.update(head + tensor.tobytes())
    except (KeyError, OSError, SafetensorError, TypeError, ValueError):
        return None
    return digest.hexdigest()
