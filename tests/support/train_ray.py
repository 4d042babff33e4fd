"""A training under Ray Train of seconds, and what it says of its epochs."""

import json
from pathlib import Path
from typing import Any

from small_runs import small_run

from common.config import AttackConfig

EPOCHS = 16
ATTACK = AttackConfig(steps=3, step_size=0.06)
CONFIG = small_run(
    ATTACK, limit=300, model="cnn_small", epochs=EPOCHS, batch_size=32, beta=3.0
)


def reports_in(progress: Path) -> list[dict[str, Any]]:
    """Read what is said of each epoch so far."""
    lines = progress.read_text().splitlines() if progress.exists() else []
    return [json.loads(line) for line in lines]


def epochs_in(progress: Path) -> list[int]:
    return [report["epoch"] for report in reports_in(progress)]
