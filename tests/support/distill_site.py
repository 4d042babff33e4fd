"""A release of digits as a node has pulled it, and jobs for the child that distils.

The teacher is linear (ridge regression): its logits and adversarial signs are one
matrix product.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from release_drafts import draft, shard_of

from common.catalog import Content
from common.config import AttackConfig, DatasetConfig, StudentConfig
from common.data.datasets import load_dataset
from common.release import (
    encode_manifest,
    encode_shard,
    pack_signs,
    quantize_rows,
)
from edge.jobs.job import DistilJob

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
    contents: dict[Content, dict[str, NDArray[Any]]] = {
        "soft_labels": {"logits": logits, "logits_scale": scale},
        "deltas": {"delta_signs": pack_signs(away)},
    }
    shards = []
    for content, arrays in contents.items():
        data = encode_shard(arrays)
        shard = shard_of(content, data, num_samples=len(x))
        (folder / shard.path).write_bytes(data)
        shards.append(shard.model_copy(update={"path": f"digits/1/{shard.path}"}))
    manifest = draft(
        fingerprint=dataset.train.fingerprint(),
        num_samples=len(x),
        eps=EPS,
        students={
            "tiny": recipe(),
            "natural": recipe(method="natural"),
            "absld": recipe(method="absld"),
            "large": recipe(model="cnn_large", batch_size=1200),
            "resnet8": recipe(model="resnet8", epochs=3),
        },
        node_attack_steps=5,
        node_attack_step_size=0.05,
        shards=tuple(shards),
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
