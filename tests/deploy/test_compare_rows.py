"""The file of rows, and the table made of it."""

import json
from pathlib import Path

import pytest

from common.errors import StorageError
from deploy.compare.rows import Row, RowFile, sole_writer
from deploy.compare.tables import groups, markdown


def row(seed: int, **changes: object) -> Row:
    values: dict[str, object] = {
        **dict.fromkeys(("dataset", "student", "method"), "x"),
        "num_parameters": 970,
        "seed": seed,
        "cpu_s": 3.5,
        "steps": 1,
        "epochs": 40,
        "clean_accuracy": 0.9,
        "robust_accuracy": 0.5 + seed / 10,
        "attack": "autoattack",
        "version": "standard",
        "num_images": 360,
        "eps": 0.15,
        "norm": "Linf",
        "num_train": 1293,
        "cpu_budget_s": 3.5,
        "budget": "whole",
        "attack_cpu_s": 1.0,
        "learning_rate": 0.4,
        "pulled_bytes": 2048,
        "val_robust_accuracy": None,
        "flags": (),
        "teacher_sha256": None,
        "identity": f"row {seed}",
        **changes,
    }
    return Row.model_validate(values)


def test_a_row_of_another_recipe_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.json")
    file.add(row(0))
    file.add(row(1))
    file.add(row(0, identity="another", robust_accuracy=0.1))
    again = RowFile(tmp_path / "rows.json")
    assert [r.identity for r in again.rows] == ["another", "row 1"]
    assert not again.has("row 0")


def test_rows_that_are_no_rows_are_refused_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"rows": [{"dataset": "digits"}]}')
    with pytest.raises(StorageError, match="does not hold rows"):
        RowFile(path)
    assert path.read_text() == '{"rows": [{"dataset": "digits"}]}'


def test_the_table_has_mean_and_standard_deviation_over_seeds() -> None:
    rows = [row(0), row(2), row(0, method="takt")]
    assert [len(group.rows) for group in groups(rows)] == [1, 2]
    assert "| 60.0 +- 14.1 |" in markdown(rows)
    assert "360 test images" in markdown(rows)


def test_a_folder_has_one_compare_at_a_time(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path / "out", tmp_path / "work"),
        pytest.raises(StorageError, match=r"another takt compare .* in .*/work; wait"),
        sole_writer(tmp_path / "work"),
    ):
        pass


def test_a_tuned_row_stands_beside_one_that_is_not_and_is_told_apart(
    tmp_path: Path,
) -> None:
    file = RowFile(tmp_path / "rows.json")
    file.add(row(0))
    file.add(row(0, identity="tuned", tuned=True, step_size=0.15))
    again = RowFile(tmp_path / "rows.json").rows
    assert [(r.identity, r.tuned) for r in again] == [("row 0", False), ("tuned", True)]
    assert len(groups(again)) == 2


def test_steps_and_training_images_are_written_under_the_names_of_the_tries(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.json"
    RowFile(path).add(row(0))
    (tree,) = json.loads(path.read_text())["rows"]
    assert (tree["attack_steps"], tree["training_images"]) == (1, 1293)
    assert (tree["steps"], tree["num_train"], tree["budget"]) == (1, 1293, "whole")
    assert not {"tuned", "held", "step_size", "num_views", "teacher_cpu_s"} & {*tree}
    assert RowFile(path).rows == [row(0)]


def test_a_folder_may_be_both_out_and_work(tmp_path: Path) -> None:
    with sole_writer(tmp_path, tmp_path):
        pass
