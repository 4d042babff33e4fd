"""The codec of shards: safetensors, at most 4 MiB, one content each.

A shard holds one kind of content for a range of training samples, so that a
node pulls only what its recipe uses:

    content            tensors (n samples of shape (C, H, W), K classes)
    soft_labels        logits (n, K) int8 + logits_scale (n,) float16
    deltas             delta_signs (n, ceil(C*H*W / 8)) uint8, one bit a pixel
    adv_labels         adv_logits (n, K) int8 + adv_logits_scale (n,) float16, of
                       x + eps * sign; in schema 1 they were among the deltas
    boundary_points    boundary_delta (n, C, H, W) int8 + boundary_delta_scale (n,)
                       float16; boundary_logits (n, K) int8 +
                       boundary_logits_scale (n,) float16; boundary_class (n,) uint8
    margins            margin (n,) float16, nearest_class (n,) uint8

Never pickle. Not here: how numbers become int8 (`quantize.py`), trust.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from common.catalog import Content
from common.errors import TrustError, one_line
from common.release.manifest import MAX_SHARD_BYTES, Manifest, ShardInfo

Arrays = Mapping[str, NDArray[Any]]
Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

_INT8, _UINT8, _FLOAT16 = np.dtype("int8"), np.dtype("uint8"), np.dtype("float16")


def shard_layout(
    content: Content, num_samples: int, sample_shape: tuple[int, int, int], classes: int
) -> Layout:
    """State the dtype and shape of each tensor that a shard of `content` holds."""
    n = num_samples
    row, number = (_INT8, (n, classes)), (_FLOAT16, (n,))
    layouts: dict[Content, Layout] = {
        "soft_labels": {"logits": row, "logits_scale": number},
        "deltas": {
            "delta_signs": (_UINT8, (n, math.ceil(math.prod(sample_shape) / 8))),
        },
        "adv_labels": {"adv_logits": row, "adv_logits_scale": number},
        "boundary_points": {
            "boundary_delta": (_INT8, (n, *sample_shape)),
            "boundary_delta_scale": number,
            "boundary_logits": row,
            "boundary_logits_scale": number,
            "boundary_class": (_UINT8, (n,)),
        },
        "margins": {"margin": number, "nearest_class": (_UINT8, (n,))},
    }
    return layouts[content]


def samples_per_shard(
    content: Content, sample_shape: tuple[int, int, int], classes: int
) -> int:
    """Say how many samples of `content` fit a shard of `MAX_SHARD_BYTES`."""
    layout = shard_layout(content, 1, sample_shape, classes)
    each = sum(t.itemsize * math.prod(s) for t, s in layout.values())
    return (MAX_SHARD_BYTES - 4096) // each  # 4096: room for the header


def encode_shard(arrays: Arrays) -> bytes:
    """Serialise the tensors of one shard (safetensors)."""
    return safetensors.numpy.save(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    )


def decode_shard(data: bytes, info: ShardInfo, manifest: Manifest) -> Arrays:
    """Check one shard against its declaration and return its tensors.

    Raises:
        TrustError: digest, tensor names, dtypes or shapes differ from what the
            manifest declares, or a number is not finite or out of range.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != info.sha256:
        raise TrustError(
            f"shard {info.path} has digest {digest[:12]}, expected {info.sha256[:12]}"
        )
    try:
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError) as e:
        raise TrustError(f"shard {info.path} is malformed: {one_line(e)}") from e
    shape_of = info.num_samples, manifest.sample_shape, manifest.num_classes
    layout = shard_layout(info.content, *shape_of)
    if info.content == "deltas" and manifest.schema_version == 1:
        layout |= shard_layout("adv_labels", *shape_of)
    if set(arrays) != set(layout):
        raise TrustError(
            f"shard {info.path} holds {sorted(arrays)}, expected {sorted(layout)}"
        )
    _check_arrays(arrays, layout, info)
    for name in ("boundary_class", "nearest_class"):
        if name in arrays and arrays[name].max() >= manifest.num_classes:
            raise TrustError(
                f"shard {info.path}: {name} goes up to {arrays[name].max()}, expected "
                f"less than {manifest.num_classes} classes"
            )
    return arrays


def _check_arrays(arrays: Arrays, layout: Layout, info: ShardInfo) -> None:
    """Refuse tensors of other dtypes or shapes, and numbers out of range."""
    for name, (dtype, shape) in layout.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape:
            raise TrustError(
                f"shard {info.path}: {name} is {found.dtype}{found.shape}, expected "
                f"{dtype}{shape}"
            )
        if dtype == _FLOAT16 and not np.isfinite(found).all():
            raise TrustError(f"shard {info.path}: {name} has NaN or infinite values")
        if name.endswith("_scale") and found.min() < 0:
            raise TrustError(
                f"shard {info.path}: {name} goes down to {found.min()}, expected no "
                "negative scale"
            )
