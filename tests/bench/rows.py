"""The rows of a bench: ``{"rows": [...]}``, one a line, written anew as each comes.

A line each, so that a change of rows reads as one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.durable import write_atomic
from common.records import Evaluation

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read a file of rows; one that is missing has none."""
    if not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace a file of rows in one step."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_atomic(path, f'{{"rows": [\n{lines}\n]}}\n'.encode())


def robustness(found: Evaluation) -> Row:
    """Write what an evaluation measured, and how, as columns; its flags apart."""
    return {
        "robust_accuracy": found.accuracy,
        "attack": found.attack,
        "version": found.version,
        "num_images": found.num_images,
        "eps": found.eps,
        "norm": found.norm,
    }
