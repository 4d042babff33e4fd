"""The measured comparisons in tests/bench: their codecs."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tests" / "bench" / f"{name}.py"))


@pytest.mark.parametrize(
    ("kind", "error", "num_bytes"),
    [("fp32", 0, 40), ("fp16", 0.01, 20), ("int8", 0.06, 12), ("int4", 1.0, 7)],
)
def test_logits_come_back_within_their_precision(
    kind: str, error: float, num_bytes: int
) -> None:
    codec = script("precisions")
    logits = np.random.RandomState(0).uniform(-6, 6, (50, 10)).astype(np.float32)
    arrays = codec["encode_labels"](logits, kind, 1.0)
    y = np.zeros(50, np.int64)
    soft = codec["decode_labels"](arrays, kind, 1.0, y, 10)
    exact = np.log(codec["softmax"](logits, 1.0))
    assert np.abs(np.log(soft) - exact).max() <= error + 1e-5
    assert sum(a.nbytes for a in arrays.values()) == 50 * num_bytes


def test_top_labels_keep_the_likeliest_classes_and_all_of_the_mass() -> None:
    codec = script("precisions")
    logits = np.random.RandomState(0).uniform(-3, 3, (50, 10)).astype(np.float32)
    arrays, y = codec["encode_labels"](logits, "top3", 0.5), np.zeros(50, np.int64)
    soft = codec["decode_labels"](arrays, "top3", 0.5, y, 10)
    exact = codec["softmax"](logits, 0.5)
    best = np.argsort(-exact, 1)[:, :3]
    kept, meant = (np.take_along_axis(part, best, 1) for part in (soft, exact))
    assert np.abs(kept - meant).max() < 0.01
    assert np.allclose(soft.sum(1), 1)


@pytest.mark.parametrize(
    ("kind", "error", "num_bytes"), [("int8", 0.01, 15), ("2 bit", 0.34, 4)]
)
def test_deltas_come_back_within_their_precision(
    kind: str, error: float, num_bytes: int
) -> None:
    codec = script("precisions")
    delta = np.random.RandomState(0).uniform(-0.1, 0.1, (50, 1, 3, 5))
    delta = delta.astype(np.float32)
    arrays = codec["encode_deltas"](delta, 0.1, kind)
    again = codec["decode_deltas"](arrays, (1, 3, 5), 0.1, kind)
    assert np.abs(again - delta).max() <= error * 0.1
    assert sum(a.nbytes for a in arrays.values()) == 50 * num_bytes
