"""`takt compare`: equal budgets, whole files, rows that are made once."""

import json
import signal
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from compare_site import BUDGET_S, Site, grid_text

from common.errors import StorageError, TrustError
from deploy.compare.rows import read_rows, sole_writer
from deploy.compare.run import Choice
from deploy.compare.trained import TrainedStudents

# What other programs read of a row, see `deploy.compare.rows`.
PUBLIC = {
    "dataset": str,
    "student": str,
    "num_parameters": int,
    "method": str,
    "seed": int,
    "cpu_s": float,
    "steps": int,
    "epochs": int,
    "clean_accuracy": float,
    "robust_accuracy": float,
    "attack": str,
    "version": str,
    "num_images": int,
    "eps": float,
    "norm": str,
    "attack_steps": int,
    "training_images": int,
    "budget": str,
    "held": str,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Give a finished compare."""
    site = Site(tmp_path_factory.mktemp("compare"))
    site.compare()
    return site


def tree(site: Site) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(site.out.read_text())["rows"]
    return rows


def test_a_row_has_the_public_fields_and_fractions(site: Site) -> None:
    rows = tree(site)
    assert {row["method"] for row in rows} == {"takt", "pgd_at"}
    for row in rows:
        for name, kind in PUBLIC.items():
            assert type(row[name]) is kind, name
        assert (row["dataset"], row["attack"]) == ("digits", "autoattack")
        assert (row["version"], row["norm"]) == ("standard", "Linf")
        assert (row["num_images"], row["eps"]) == (8, 0.02)
        for row_name in ("clean_accuracy", "robust_accuracy"):
            assert 0 <= float(str(row[row_name])) <= 1


def test_every_method_gets_the_same_cpu_seconds(site: Site) -> None:
    for row in read_rows(site.out):
        # By a step too much, at most: tests/edge/test_distill_fit.py.
        assert (row.cpu_budget_s, row.cpu_s >= 0.99 * BUDGET_S) == (BUDGET_S, True)
        assert 0 < row.attack_cpu_s < row.cpu_s
        assert len(row.trained_with) == 1


def test_a_method_without_a_teacher_pulls_nothing_and_takt_its_knowledge(
    site: Site,
) -> None:
    rows = {row.method: row for row in read_rows(site.out)}
    assert (rows["pgd_at"].pulled_bytes, rows["pgd_at"].teacher_sha256) == (0, None)
    assert (rows["pgd_at"].steps, rows["pgd_at"].learning_rate) == (10, 0.2)
    shards = (site.work.glob("digits-*/knowledge/*.safetensors"),)
    own = [p for g in shards for p in g if p.name.startswith(("soft_labels", "deltas"))]
    assert rows["takt"].pulled_bytes == sum(path.stat().st_size for path in own)


@pytest.mark.slow
def test_with_the_live_teacher_a_row_counts_what_crossed_and_whose_time_it_was(
    site: Site, tmp_path: Path
) -> None:
    site.grid.write_text(grid_text(site.config, "adaad"))
    out = tmp_path / "rows.json"
    try:
        site.compare(out, Choice(methods=("adaad",)))
    finally:
        site.grid.write_text(grid_text(site.config, "takt"))
    (row,) = read_rows(out)
    assert row.cpu_s >= 0.99 * BUDGET_S
    assert row.teacher_cpu_s is not None and row.teacher_cpu_s > 0
    # Images up at each of the attack's step and of the loss; a gradient down.
    images = row.epochs * 360 * 64 * 4 * 3
    assert 0.5 * images < row.pulled_bytes < 1.3 * images
    assert row.teacher_sha256 is not None
    assert "teacher_cpu_s" not in site.out.read_text()


@pytest.mark.slow
def test_the_clouds_own_student_costs_a_node_nothing_but_its_bytes(
    site: Site, tmp_path: Path
) -> None:
    site.grid.write_text(grid_text(site.config, "shipped"))
    out = tmp_path / "rows.json"
    try:
        site.compare(out, Choice(methods=("shipped",)))
    finally:
        site.grid.write_text(grid_text(site.config, "takt"))
    (row,) = read_rows(out)
    assert (row.cpu_s, row.epochs, row.budget) == (0, 0, "none")
    assert row.pulled_bytes == 2 * row.num_parameters
    assert row.clean_accuracy > 0.2


@pytest.mark.slow
def test_a_shipped_student_that_others_begin_with_goes_once_their_rows_are_made(
    site: Site, tmp_path: Path
) -> None:
    text = grid_text(site.config, "shipped takt")
    own = Site(tmp_path)
    own.work = site.work
    own.grid.write_text(text.replace("takt]", "takt]\nfrom_shipped = true"))
    own.compare(choice=Choice(methods=("shipped",)))
    own.compare(choice=Choice(methods=("takt",)))
    shipped, takt = sorted(read_rows(own.out), key=lambda row: row.method)
    assert takt.pulled_bytes > shipped.pulled_bytes > 0
    kept = {path.stem for path in (own.work / "trained").glob("*.safetensors")}
    assert not kept & {shipped.identity, takt.identity}


def test_which_images_held_is_said_of_each(site: Site) -> None:
    for row in read_rows(site.out):
        bits = f"{int(row.held, 16):08b}"
        assert bits.count("1") == round(8 * row.robust_accuracy)


def test_a_compare_goes_on_where_the_rows_end_and_makes_none_twice(
    site: Site, tmp_path: Path
) -> None:
    before = tree(site)
    out = tmp_path / "rows.json"
    out.write_bytes(site.out.read_bytes())
    teacher = next(site.work.glob("digits-*/teacher.safetensors"))
    made = teacher.stat().st_mtime_ns
    site.grid.write_text(grid_text(site.config, "takt natural"))
    try:
        site.compare(out)
    finally:
        site.grid.write_text(grid_text(site.config, "takt"))
    after = json.loads(out.read_text())["rows"]
    # CPU-seconds never repeat: equal rows are the same rows.
    assert [row for row in after if row["method"] != "natural"] == before
    assert [row["steps"] for row in after if row["method"] == "natural"] == [0]
    assert teacher.stat().st_mtime_ns == made


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "rows"), [("before", 0), ("after", 1)])
def test_a_compare_killed_at_a_row_leaves_the_old_or_the_new_file(
    site: Site, tmp_path: Path, moment: str, rows: int
) -> None:
    own = Site(tmp_path)
    own.work = site.work
    assert own.process(f"compare.rows.{moment}_rename:kill") == -signal.SIGKILL
    kept = tree(own) if own.out.exists() else []
    assert len(kept) == rows
    students = TrainedStudents(own.work / "trained")
    names = {path.stem for path in students.folder.glob("*.safetensors")}
    (teacher,) = own.work.glob("digits-*/teacher.json")
    sha256 = json.loads(teacher.read_text())["weights_sha256"]
    found = [student for name in names if (student := students.load(name, sha256))]
    assert len(found) == len(names) == 2
    assert own.process() == 0
    assert len(tree(own)) == 2
    assert all(row in tree(own) for row in kept)
    # What was trained was measured, not trained again: CPU-seconds never repeat.
    assert {done.cpu_s for _, done in found} == {row["cpu_s"] for row in tree(own)}
    assert not list(students.folder.iterdir())


def test_a_damaged_shard_ends_the_compare_in_the_words_of_the_worker(
    site: Site, tmp_path: Path
) -> None:
    shard = next(site.work.glob("digits-*/knowledge/soft_labels-0.safetensors"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(TrustError, match="soft_labels"):
            site.compare(tmp_path / "rows.json", Choice(methods=("takt",)))
    finally:
        shard.write_bytes(data)
    assert not (tmp_path / "rows.json").exists()


def test_two_compares_never_write_into_one_folder(site: Site) -> None:
    with (
        sole_writer(site.work),
        pytest.raises(StorageError, match="another takt compare"),
    ):
        site.compare()


def test_the_plots_are_svg_that_needs_no_other_file(site: Site) -> None:
    for name in ("rows-cpu.svg", "rows-bytes.svg"):
        text = (site.out.parent / name).read_text()
        root = ET.fromstring(text)
        assert root.tag.endswith("svg")
        words = " ".join(root.itertext())
        assert "pgd_at" in words and "cnn_tiny (970)" in words
        assert not any(word in text for word in ("href", "url(", "<script", "@import"))
