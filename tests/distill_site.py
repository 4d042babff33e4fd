"""A release of digits as a node has pulled it, and jobs for the child that distils.

The teacher is linear (ridge regression): its logits and adversarial signs are one
matrix product.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import AttackConfig, DatasetConfig, StudentConfig
from common.datasets import load_dataset
from common.knowledge import (
    Manifest,
    ShardInfo,
    TeacherCard,
    encode_manifest,
    encode_shard,
    pack_signs,
    quantize_rows,
)
from edge.job import (
    DistilJob,
)

EPS = 0.15


def recipe(**changes: Any) -> StudentConfig:
    values: dict[str, Any] = {
        "model": "cnn_tiny",
        "epochs": 4,
        "batch_size": 128,
        "learning_rate": 0.3,
        "eps_warmup_epochs": 1,
        "ema_decay": 0.9,
        "attack": AttackConfig(steps=1, step_size=0.15),
    }
    return StudentConfig(**{**values, **changes})


def write_release(folder: Path) -> Path:
    """Write a release as a node has pulled it; return its folder."""
    dataset = load_dataset(DatasetConfig(), seed=0)
    x = dataset.train.images.reshape(len(dataset.train), -1) / 255 - 0.5
    hot = np.eye(10)[dataset.train.labels]
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(64), x.T @ (hot - 0.1))
    logits, scale = quantize_rows(20 * (x @ weights).astype(np.float32))
    away = -weights[:, dataset.train.labels].T.reshape(-1, 1, 8, 8)
    contents: dict[str, dict[str, NDArray[Any]]] = {
        "soft_labels": {"logits": logits, "logits_scale": scale},
        "deltas": {"delta_signs": pack_signs(away)},
    }
    shards = []
    for content, arrays in contents.items():
        data = encode_shard(arrays)
        (folder / f"{content}-0.safetensors").write_bytes(data)
        shards.append(
            {
                "path": f"digits/1/{content}-0.safetensors",
                "content": content,
                "first": 0,
                "num_samples": len(x),
                "num_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    manifest = Manifest(
        channel="digits",
        version=1,
        dataset="digits",
        fingerprint=dataset.train.fingerprint(),
        num_samples=len(x),
        sample_shape=(1, 8, 8),
        class_names=dataset.class_names,
        norm="Linf",
        eps=EPS,
        temperature=1.0,
        seed=0,
        val_fraction=0.1,
        limit=None,
        image_size=None,
        teacher=TeacherCard(
            architecture="linear",
            num_parameters=650,
            weights_sha256="0" * 64,
            clean_accuracy=0.9,
            robust=(),
        ),
        students={
            "tiny": recipe(),
            "natural": recipe(method="natural"),
            "absld": recipe(method="absld"),
            "large": recipe(model="cnn_large", batch_size=1200),
            "resnet8": recipe(model="resnet8", epochs=3),
        },
        node_attack_steps=5,
        node_attack_step_size=0.05,
        shards=tuple(ShardInfo.model_validate(s) for s in shards),
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


def job_for(release: Path, work: Path, **changes: Any) -> DistilJob:
    work.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "release_dir": release,
        "student": "tiny",
        "dataset": DatasetConfig(),
        "work_dir": work,
    }
    return DistilJob(**{**values, **changes})
