"""The table of the fair comparison, on rows whose differences are known."""

import re

import numpy as np
from fair_table import NO_ROWS, by_method, interval, markdown, summary

from deploy.compare.rows import Row


def row(method: str, held: np.ndarray, **changes: object) -> Row:
    values: dict[str, object] = {
        "dataset": "digits",
        "student": "cnn_tiny",
        "num_parameters": 970,
        "method": method,
        "seed": 0,
        "cpu_s": 1.0,
        "steps": 1,
        "epochs": 9,
        "clean_accuracy": 0.9,
        "robust_accuracy": float(held.mean()),
        "attack": "autoattack",
        "version": "standard",
        "num_images": len(held),
        "eps": 0.15,
        "norm": "Linf",
        "num_train": 1293,
        "cpu_budget_s": 1.0,
        "budget": "whole",
        "attack_cpu_s": 0.5,
        "learning_rate": 0.4,
        "pulled_bytes": 0,
        "val_robust_accuracy": None,
        "flags": (),
        "teacher_sha256": None,
        "identity": method,
        "tuned": True,
        "held": np.packbits(held).tobytes().hex(),
        **changes,
    }
    return Row.model_validate(values)


def holding(share: float) -> np.ndarray:
    return np.arange(200) < 200 * share


def test_an_interval_is_of_paired_images() -> None:
    low, high = np.zeros((2, 200), bool), np.zeros((2, 200), bool)
    low[:, :80], high[:, :100] = True, True
    mean, lowest, highest = interval(high, low)
    assert mean == 10 and 5 < lowest < 10 < highest < 15
    assert interval(low, low) == (0, 0, 0)


def test_a_method_that_is_clearly_above_the_next_wins_and_else_nobody_does() -> None:
    rows = [row("takt", holding(0.8)), row("pgd_at", holding(0.6))]
    (line,) = re.findall(r"^\| digits.*", markdown(rows), re.MULTILINE)
    assert "| `takt` | 80.0 | +20.0 [" in line
    close = [row("takt", holding(0.8)), row("warm_at", np.roll(holding(0.79), 30))]
    assert "| nobody (`takt`) | 80.0 |" in markdown(close)


def test_takt_is_set_beside_the_best_without_a_teacher_and_the_better_control() -> None:
    shares = {"takt": 0.8, "pgd_at": 0.5, "n_fgsm": 0.6, "class_means": 0.7}
    text = markdown([row(name, holding(share)) for name, share in shares.items()])
    assert re.search(r"\+20\.0 \[[^]]*\] \(`n_fgsm`\)", text)
    assert re.search(r"\+10\.0 \[[^]]*\] \(`class_means`\)", text)
    assert text.splitlines()[2].endswith("| - | - | - | 1 |")


def test_takt_from_shipped_is_set_beside_a_node_alone_its_control_and_shipped() -> None:
    shares = {"pgd_at": 0.5, "takt_from_shipped": 0.8, "warm_at_from_shipped": 0.7}
    rows = [row(name, holding(share)) for name, share in shares.items()]
    rows.append(row("shipped", holding(0.9), budget="none"))
    line = markdown(rows).splitlines()[2]
    ends = r"\+30\.0 \[.*\] \(`pgd_at`\) \| \+10\.0 \[.*\] \| -10\.0 \[.*\] \| 1 \|$"
    assert re.search(ends, line)


def test_rows_that_were_not_tuned_are_left_out() -> None:
    assert markdown([row("takt", holding(0.5), tuned=False)]) == NO_ROWS


def test_the_summary_has_the_best_of_each_kind_for_the_whole_budget_alone() -> None:
    shares = {"takt": 0.8, "pgd_at": 0.5, "n_fgsm": 0.6, "class_means": 0.7}
    rows = [row(name, holding(share)) for name, share in shares.items()]
    rows += [row("takt", holding(0.4), budget="fifth", cpu_budget_s=0.2)]
    (line,) = re.findall(r"^\| digits.*", summary(rows), re.MULTILINE)
    assert (
        "| 80.0 | 60.0 (`n_fgsm`) | 70.0 (`class_means`) | - | - | - | +20.0 [" in line
    )


def test_the_methods_of_a_data_set_are_ranked_and_takt_set_beside_each() -> None:
    shares = {"pgd_at": 0.5, "takt": 0.8, "n_fgsm": 0.6}
    rows = [row(name, holding(share)) for name, share in shares.items()]
    rows += [row("takt", holding(0.9), dataset="mnist")]
    rows += [row("takt", holding(0.3), budget="fifth", cpu_budget_s=0.2)]
    found = by_method(rows, "digits").splitlines()[2:]
    names = [re.findall(r"`(\w+)`", line)[0] for line in found]
    assert names == ["takt", "n_fgsm", "pgd_at"]
    assert "| 80.0 | 9 | - |" in found[0] and "| 60.0 | 9 | +20.0 [" in found[1]
