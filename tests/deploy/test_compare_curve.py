"""The plot of what a teacher adds: which rows are compared, and where they lie."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deploy.compare.curve import teacher_curve, teacher_gains
from deploy.compare.rows import Row, read_rows

COMMITTED = read_rows(Path(__file__).parents[1] / "bench" / "results" / "compare.json")


def row(method: str, robust: float, *, seed: int = 0, budget_s: float = 4.0) -> Row:
    changes = {
        "dataset": "digits",
        "num_parameters": 970,
        "method": method,
        "robust_accuracy": robust,
        "seed": seed,
        "cpu_budget_s": budget_s,
    }
    return COMMITTED[0].model_copy(update=changes)


def test_gains_are_differences_of_the_same_seed() -> None:
    rows = [row("takt", 0.8), row("warm_at", 0.7), row("pgd_at", 0.2)]
    rows += [row("takt", 0.6, seed=1), row("warm_at", 0.3, seed=1)]
    rows += [row("takt", 0.1, seed=2)]  # without its other half
    [(size, middle, deviation)] = teacher_gains(rows)["digits"]
    assert size == 970
    assert middle == pytest.approx(20)
    assert deviation == pytest.approx(200**0.5)


def test_the_largest_budget_alone_counts() -> None:
    rows = [row("takt", 0.8), row("warm_at", 0.7)]
    rows += [row("takt", 0.3, budget_s=1.0), row("warm_at", 0.1, budget_s=1.0)]
    [(_, middle, _)] = teacher_gains(rows)["digits"]
    assert middle == pytest.approx(10)


def test_images_of_one_name_and_two_numbers_are_two_curves() -> None:
    few = {"num_train": 450, "robust_accuracy": 0.3}
    rows = [row("takt", 0.8), row("warm_at", 0.7)]
    rows += [old.model_copy(update=few) for old in rows]
    gains = {name: middle for name, [(_, middle, _)] in teacher_gains(rows).items()}
    assert gains == {"digits, 450 images": 0, "digits, 4,500 images": pytest.approx(10)}


def test_without_both_methods_there_is_no_curve() -> None:
    assert teacher_curve([row("takt", 0.8), row("pgd_at", 0.7)]) is None


def test_the_curve_is_svg_that_names_each_student_and_its_gain() -> None:
    text = teacher_curve([row("takt", 0.8), row("warm_at", 0.7)])
    assert text is not None
    root = ET.fromstring(text)
    assert "digits, 970 parameters: +10.0" in " ".join(root.itertext())
