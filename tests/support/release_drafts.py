"""Manifests and shards to publish: a test says what matters to it, no more."""

import hashlib
from typing import Any

from common.config import AttackConfig, StudentConfig
from common.release import Manifest, ShardInfo, TeacherCard


def draft(**changes: Any) -> Manifest:
    """Make a manifest of digits, without shards unless `changes` has some."""
    recipe = StudentConfig(
        model="cnn_tiny", epochs=2, attack=AttackConfig(steps=2, step_size=0.1)
    )
    fields: dict[str, Any] = {
        "channel": "digits",
        "version": 1,
        "dataset": "digits",
        "fingerprint": "0" * 64,
        "num_samples": 4,
        "sample_shape": (1, 8, 8),
        "class_names": tuple("0123456789"),
        "norm": "Linf",
        "eps": 0.15,
        "temperature": 1.0,
        "seed": 0,
        "val_fraction": 0.1,
        "limit": None,
        "image_size": None,
        "teacher": TeacherCard(
            architecture="cnn_large",
            num_parameters=1,
            weights_sha256="0" * 64,
            clean_accuracy=0.9,
            robust=(),
        ),
        "students": {"tiny": recipe},
        "node_attack_steps": 3,
        "node_attack_step_size": 0.1,
        "shards": (),
    }
    return Manifest(**{**fields, **changes})


def shard_of(content: str, data: bytes, *, num_samples: int) -> ShardInfo:
    """Describe the one shard of a content; its bytes belong at its path."""
    return ShardInfo(
        path=f"{content}-0.safetensors",
        content=content,
        first=0,
        num_samples=num_samples,
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
