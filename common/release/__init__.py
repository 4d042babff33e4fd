"""What a release holds: the names that cloud and node share.

A release is a manifest (JSON) and shards (safetensors, at most 4 MiB each).
This is the one place to import them from; the parts live in `manifest.py`
(records), `manifest_file.py` (what is refused of them), `shards.py` (the codec),
`quantize.py` (numbers), `pixels.py` and `images.py` (the images of a release that
ships its own).

Not covered: signatures and trust (the TUF metadata around it), starting weights (a
model file, common.models.files), and torch (numpy only, so that the daemon can use it).
"""

from common.release.images import (
    each_image_shard,
    image_arrays,
    release_images,
)
from common.release.manifest import (
    MAX_SHARD_BYTES,
    MAX_WEIGHTS_BYTES,
    SCHEMA,
    CandidateScore,
    Manifest,
    ShardInfo,
    TeacherCard,
    TeacherChoice,
    WeightsInfo,
    check_contents,
    check_views,
    is_version,
    recipe_of,
    student_card,
)
from common.release.manifest_file import (
    MANIFEST,
    MAX_IMAGES_BYTES,
    decode_manifest,
    encode_manifest,
)
from common.release.quantize import (
    dequantize_rows,
    pack_signs,
    quantize_rows,
    unpack_signs,
)
from common.release.shards import (
    Arrays,
    decode_shard,
    encode_shard,
    samples_per_shard,
    shard_layout,
)

__all__ = [
    "MANIFEST",
    "MAX_IMAGES_BYTES",
    "MAX_SHARD_BYTES",
    "MAX_WEIGHTS_BYTES",
    "SCHEMA",
    "Arrays",
    "CandidateScore",
    "Manifest",
    "ShardInfo",
    "TeacherCard",
    "TeacherChoice",
    "WeightsInfo",
    "check_contents",
    "check_views",
    "decode_manifest",
    "decode_shard",
    "dequantize_rows",
    "each_image_shard",
    "encode_manifest",
    "encode_shard",
    "image_arrays",
    "is_version",
    "pack_signs",
    "quantize_rows",
    "recipe_of",
    "release_images",
    "samples_per_shard",
    "shard_layout",
    "student_card",
    "unpack_signs",
]
