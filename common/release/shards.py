"""The codec of shards: safetensors, at most 4 MiB, one content each.

A shard holds one kind of content for a range of training samples, so that a
node pulls only what its recipe uses:

    content            tensors (n samples of shape (C, H, W), K classes)
    soft_labels        logits (n, K) int8 + logits_scale (n,) float16
    deltas             delta_signs (n, ceil(C*H*W / 8)) uint8, one bit a pixel
    boundary_points    boundary_delta (n, C, H, W) int8 + boundary_delta_scale (n,)
                       float16; boundary_logits (n, K) int8 +
                       boundary_logits_scale (n,) float16
    images             packed (m,) uint8, all n images in one (`pixels.py`); labels
                       (n,) uint8, uint16 of more than 256 classes; val_images alike

Images are returned as they were: `images` (n, C, H, W) in the place of `packed`. A
shard's images are at most 4 MiB unpacked as well. Never pickle. Not here: how numbers
become int8 (`quantize.py`), all images of a release (`images.py`), trust.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from common.catalog import ImageContent
from common.errors import TrustError, one_line
from common.release.manifest import MAX_SHARD_BYTES, Manifest, ShardInfo
from common.release.pixels import pack_pixels, unpack_pixels

Arrays = Mapping[str, NDArray[Any]]
Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

# Of releases made before it was left out: the class of largest logit, but one.
_NO_LONGER_SHIPPED = "boundary_class"
_INT8, _UINT8, _FLOAT16 = np.dtype("int8"), np.dtype("uint8"), np.dtype("float16")


def label_type(num_classes: int) -> np.dtype[Any]:
    """Return the dtype of the labels that are shipped with images."""
    return _UINT8 if num_classes <= 256 else np.dtype("uint16")


def shard_layout(
    content: str, num_samples: int, sample_shape: tuple[int, int, int], classes: int
) -> Layout:
    """State the dtype and shape of each tensor of `content`, images unpacked."""
    n = num_samples
    row, number = (_INT8, (n, classes)), (_FLOAT16, (n,))
    images = {
        "images": (_UINT8, (n, *sample_shape)),
        "labels": (label_type(classes), (n,)),
    }
    layouts: dict[str, Layout] = {
        "soft_labels": {"logits": row, "logits_scale": number},
        "deltas": {
            "delta_signs": (_UINT8, (n, math.ceil(math.prod(sample_shape) / 8))),
        },
        "boundary_points": {
            "boundary_delta": (_INT8, (n, *sample_shape)),
            "boundary_delta_scale": number,
            "boundary_logits": row,
            "boundary_logits_scale": number,
        },
        "images": images,
        "val_images": images,
    }
    return layouts[content]


def samples_per_shard(
    content: str, sample_shape: tuple[int, int, int], classes: int
) -> int:
    """Say how many samples of `content` fit a shard of `MAX_SHARD_BYTES`."""
    layout = shard_layout(content, 1, sample_shape, classes)
    each = sum(t.itemsize * math.prod(s) for t, s in layout.values())
    return (MAX_SHARD_BYTES - 4096) // each  # 4096: room for the header


def encode_shard(arrays: Arrays) -> bytes:
    """Serialise the tensors of one shard (safetensors); images are compressed."""
    stored = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    if "images" in stored:
        stored["packed"] = pack_pixels(stored.pop("images"))
    return safetensors.numpy.save(stored)


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
    if info.content in get_args(ImageContent):
        arrays = _unpack_images(arrays, info, manifest)
    layout = shard_layout(
        info.content, info.num_samples, manifest.sample_shape, manifest.num_classes
    )
    if info.content == "boundary_points":
        arrays.pop(_NO_LONGER_SHIPPED, None)
    if set(arrays) != set(layout):
        raise TrustError(
            f"shard {info.path} holds {sorted(arrays)}, expected {sorted(layout)}"
        )
    _check_arrays(arrays, layout, info)
    labels = arrays.get("labels")
    if labels is not None and labels.max() >= manifest.num_classes:
        raise TrustError(
            f"shard {info.path}: labels goes up to {labels.max()}, expected less than "
            f"{manifest.num_classes} classes"
        )
    return arrays


def _unpack_images(
    arrays: dict[str, NDArray[Any]], info: ShardInfo, manifest: Manifest
) -> dict[str, NDArray[Any]]:
    """Replace `packed` by the images that the manifest declares, and no more."""
    if set(arrays) != {"packed", "labels"}:
        raise TrustError(
            f"shard {info.path} holds {sorted(arrays)}, expected ['labels', 'packed']"
        )
    packed = arrays.pop("packed")
    if packed.dtype != _UINT8 or packed.ndim != 1:
        raise TrustError(
            f"shard {info.path}: packed is {packed.dtype}{packed.shape}, expected "
            "uint8(m,)"
        )
    try:
        images = unpack_pixels(packed, (info.num_samples, *manifest.sample_shape))
    except TrustError as e:
        raise TrustError(f"shard {info.path}: {e}") from e
    return {"images": images, **arrays}


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
