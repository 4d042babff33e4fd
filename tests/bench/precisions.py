"""Precisions of soft labels and deltas, encoded as shards would be and read back.

`encode_labels` and `encode_deltas` return the tensors of a shard; what `decode_labels`
and `decode_deltas` make of them is what a student is trained on, so that bytes and loss
of precision are those of one and the same file. int8 labels and 1-bit deltas are the
release's own codec (common/release/quantize.py). Not here: training with them
(precision.py).

    labels   fp32, fp16   the logits
             int8         rows of int8 with a float16 scale each
             int4         the same with 15 levels, two to a byte
             top1..top3   the likeliest classes (uint8) and their probabilities
                          (uint8); the rest of the mass is spread over the others
             none         nothing: the true label alone
    deltas   int8         of eps / 127
             2 bit        of -eps, -eps / 3, eps / 3, eps
             1 bit        signs
             none         nothing: a random start
"""

import numpy as np
from numpy.typing import NDArray

from common.release import Arrays, dequantize_rows, pack_signs, quantize_rows
from common.release.quantize import unpack_signs

LABELS = ("fp32", "fp16", "int8", "int4", "top3", "top2", "top1", "none")
DELTAS = ("int8", "2 bit", "1 bit", "none")
Floats = NDArray[np.float32]


def softmax(logits: Floats, temperature: float) -> Floats:
    """Soften logits (n, K)."""
    z = logits.astype(np.float64) / temperature
    z = np.exp(z - z.max(1, keepdims=True))
    soft: Floats = (z / z.sum(1, keepdims=True)).astype(np.float32)
    return soft


def encode_labels(logits: Floats, kind: str, temperature: float) -> Arrays:
    """Encode the teacher's logits (n, K)."""
    if kind == "none":
        return {}
    if kind in ("fp32", "fp16"):
        return {"logits": logits.astype(f"float{kind[2:]}")}
    if kind.startswith("top"):
        soft = softmax(logits, temperature)
        best = np.argsort(-soft, 1, kind="stable")[:, : int(kind[3:])]
        kept = np.rint(255 * np.take_along_axis(soft, best, 1))
        return {"classes": best.astype(np.uint8), "mass": kept.astype(np.uint8)}
    quantised, scale = quantize_rows(logits)
    if kind == "int8":
        return {"logits": quantised, "logits_scale": scale}
    largest = np.abs(logits).max(1, keepdims=True)
    levels = (np.rint(7 * logits / largest) + 7).astype(np.uint8)
    levels = np.pad(levels, ((0, 0), (0, levels.shape[1] % 2)))
    packed = levels[:, ::2] << 4 | levels[:, 1::2]
    return {"logits": packed, "logits_scale": (largest[:, 0] / 7).astype(np.float16)}


def decode_labels(
    arrays: Arrays, kind: str, temperature: float, y: NDArray[np.int64], classes: int
) -> Floats:
    """Undo `encode_labels`: soft labels (n, K)."""
    if kind == "none":
        return np.eye(classes, dtype=np.float32)[y]
    if kind.startswith("top"):
        kept = arrays["mass"].astype(np.float32) / 255
        rest = np.clip(1 - kept.sum(1, keepdims=True), 0, 1)
        shared = rest / max(1, classes - kept.shape[1])
        soft = np.repeat(shared.astype(np.float32), classes, 1)
        np.put_along_axis(soft, arrays["classes"].astype(np.int64), kept, 1)
        normalised: Floats = soft / soft.sum(1, keepdims=True)
        return normalised
    logits = arrays["logits"]
    if kind == "int8":
        return softmax(dequantize_rows(logits, arrays["logits_scale"]), temperature)
    if kind == "int4":
        levels = np.stack([logits >> 4, logits & 15], 2).reshape(len(logits), -1)
        whole = levels[:, :classes].astype(np.int8) - np.int8(7)
        return softmax(dequantize_rows(whole, arrays["logits_scale"]), temperature)
    return softmax(logits.astype(np.float32), temperature)


def encode_deltas(delta: Floats, eps: float, kind: str) -> Arrays:
    """Encode deltas (n, C, H, W) of at most eps."""
    if kind == "none":
        return {}
    if kind == "1 bit":
        return {"delta_signs": pack_signs(delta)}
    share = np.clip(delta / eps, -1, 1)
    if kind == "int8":
        return {"delta": np.rint(127 * share).astype(np.int8)}
    flat = np.rint(1.5 * share + 1.5).astype(np.uint8).reshape(len(delta), -1)
    bits = np.stack([flat >> 1, flat & 1], 2).reshape(len(delta), -1)
    return {"delta": np.packbits(bits, axis=1)}


def decode_deltas(
    arrays: Arrays, sample_shape: tuple[int, int, int], eps: float, kind: str
) -> Floats:
    """Undo `encode_deltas`; not for "none"."""
    if kind == "1 bit":
        return unpack_signs(arrays["delta_signs"], sample_shape) * np.float32(eps)
    if kind == "int8":
        return arrays["delta"].astype(np.float32) * np.float32(eps / 127)
    count = 2 * int(np.prod(sample_shape))
    bits = np.unpackbits(arrays["delta"], axis=1, count=count)
    level = 2 * bits[:, ::2] + bits[:, 1::2]
    share = (level.astype(np.float32) - 1.5) / 1.5
    return share.reshape(-1, *sample_shape) * np.float32(eps)
