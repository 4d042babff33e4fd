"""What a release holds: the names that cloud and node share.

A release is a manifest (JSON) and shards (safetensors, at most 4 MiB each).
This is the one place to import them from; the parts live in `manifest.py`
(records and their checks), `shards.py` (the codec) and `quantize.py` (numbers).

Not covered: signatures and trust (the TUF metadata around it), the images
themselves, and torch (numpy only, so that the daemon can use it).
"""

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
    decode_manifest,
    encode_manifest,
    recipe_of,
    student_card,
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
    "encode_manifest",
    "encode_shard",
    "pack_signs",
    "quantize_rows",
    "recipe_of",
    "samples_per_shard",
    "shard_layout",
    "student_card",
    "unpack_signs",
]
