"""`takt compare`: equal budgets, whole files, rows that are made once."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import ConfigError, StorageError, TrustError
from common.faults import VARIABLE
from deploy.compare import Choice, run_compare
from deploy.compare_grid import (
    Entry,
    Grid,
    MethodGrid,
    chosen,
    load_grid,
    make_plan,
    which_grid,
)
from deploy.compare_rows import Row, RowFile, read_rows, sole_writer
from deploy.compare_table import groups, markdown
from deploy.compare_trained import TrainedStudents
from deploy.compare_turns import in_turns

# What other programs read of a row, see `deploy.compare_rows`.
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
}
RUN = """
channel = "small"
[dataset]
name = "digits"
limit = 400
[threat]
eps = 0.02
[teacher]
model = "cnn_tiny"
epochs = 2
batch_size = 32
attack = { steps = 1, step_size = 0.02 }
[knowledge]
attack = { steps = 2, step_size = 0.01 }
[students.tiny]
model = "cnn_tiny"
epochs = 10
eps_warmup_epochs = 2
attack = { steps = 1, step_size = 0.02 }
[evaluation]
node_attack = { steps = 2, step_size = 0.01 }
"""
BUDGET_S = 1.0


def grid_text(config: Path, methods: str, seeds: str = "[0]") -> str:
    tables = "\n".join(f"[methods.{line}]" for line in methods.split())
    return (
        f"{tables}\n[methods.pgd_at]\nsteps = 10\n[[datasets]]\n"
        f'config = "{config}"\nnum_images = 8\nseeds = {seeds}\n'
        f"cpu_budget_s = {{ tiny = {BUDGET_S} }}\n"
        "learning_rate = { pgd_at = { tiny = 0.2 } }\n"
    )


class Site:
    """A grid, its config and where compare works."""

    def __init__(self, folder: Path) -> None:  # noqa: D107
        self.folder, self.work = folder, folder / "work"
        self.grid, self.out = folder / "grid.toml", folder / "out" / "rows.json"
        self.config = folder / "small.toml"
        self.config.write_text(RUN)
        self.grid.write_text(grid_text(self.config, "takt"))

    def compare(self, out: Path | None = None, choice: Choice | None = None) -> None:
        run_compare(
            str(self.grid),
            out=out or self.out,
            work=self.work,
            data_dir=None,
            choice=choice or Choice(),
            num_workers=2,
        )

    def process(self, fault: str = "") -> int:
        """Compare in a process of its own: its exit code."""
        argv = ["-m", "deploy.cli", "compare", "--grid", str(self.grid)]
        argv += ["--out", str(self.out), "--work", str(self.work), "--workers", "1"]
        env = {**os.environ, VARIABLE: fault}
        return subprocess.run([sys.executable, *argv], env=env, timeout=200).returncode


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
        assert row.cpu_s == pytest.approx(BUDGET_S, rel=0.06), row.method
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
    assert row.cpu_s == pytest.approx(BUDGET_S, rel=0.06)
    assert row.teacher_cpu_s is not None and row.teacher_cpu_s > 0
    # Images up at each of the attack's step and of the loss; a gradient down.
    images = row.epochs * 360 * 64 * 4 * 3
    assert 0.5 * images < row.pulled_bytes < 1.3 * images
    assert row.teacher_sha256 is not None
    assert "teacher_cpu_s" not in site.out.read_text()


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
    names = {path.stem for path in students.folder.iterdir()}
    (teacher,) = own.work.glob("digits-*/teacher.json")
    sha256 = json.loads(teacher.read_text())["weights_sha256"]
    found = [student for name in names if (student := students.load(name, sha256))]
    assert len(found) == len(names) == 2
    assert own.process() == 0
    assert len(tree(own)) == 2
    assert all(row in tree(own) for row in kept)
    # What was trained was measured, not trained again: CPU-seconds never repeat.
    assert {story.cpu_s for _, story in found} == {row["cpu_s"] for row in tree(own)}
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


def plan_of(tmp_path: Path, methods: str = "takt warm_at", seeds: str = "[0]") -> Grid:
    site = Site(tmp_path)
    site.grid.write_text(grid_text(site.config, methods, seeds))
    return load_grid(str(site.grid))


def test_all_rows_of_a_seed_come_before_the_next_seeds(tmp_path: Path) -> None:
    plan = make_plan(plan_of(tmp_path, seeds="[3, 4]"), {})
    assert [entry.seed for entry in plan] == [3, 3, 3, 4, 4, 4]


def test_a_share_of_the_budget_is_a_student_of_its_own(tmp_path: Path) -> None:
    grid = plan_of(tmp_path)
    takt = {"takt": MethodGrid(shares=(0.2, 1.0))}
    grid = grid.model_copy(update={"methods": takt | grid.methods | takt})
    found = [(e.method, e.cpu_budget_s) for e in make_plan(grid, {})]
    assert found[:2] == [("takt", 0.2), ("takt", BUDGET_S)]
    assert len(set(found)) == len(found) == 4


def test_the_one_that_has_used_the_least_goes_on() -> None:
    told: list[str] = []

    def work(name: str, cost: float) -> Callable[[Callable[[float], None]], str]:
        def run(rest: Callable[[float], None]) -> str:
            for turn in (1, 2, 3):
                told.append(name)
                rest(turn * cost)
            return name

        return run

    assert in_turns([work("a", 1.0), work("b", 2.5)]) == ["a", "b"]
    assert "".join(told) == "abaabb"


def test_when_one_training_fails_the_others_end_and_its_error_is_told() -> None:
    def fails(rest: Callable[[float], None]) -> None:
        rest(1.0)
        raise TrustError("damaged")

    def goes_on(rest: Callable[[float], None]) -> None:
        for turn in range(1000):
            rest(turn)
        raise AssertionError("was not stopped")

    with pytest.raises(TrustError, match="damaged"):
        in_turns([goes_on, fails])


def test_a_row_is_made_anew_when_anything_of_its_recipe_changes(tmp_path: Path) -> None:
    grid = plan_of(tmp_path)

    def identities(overrides: dict[str, object]) -> dict[str, str]:
        return {e.method: e.identity for e in make_plan(grid, overrides)}

    plain = identities({})
    assert len(set(plain.values())) == 3
    assert identities({"dataset.data_dir": "/elsewhere"}) == plain
    for key in ("students.tiny.weight_decay", "threat.eps", "seed"):
        changed = identities({key: 1 if key == "seed" else 0.001})
        assert not set(changed.values()) & set(plain.values()), key
    # The teacher is no part of what has none.
    other = identities({"teacher.epochs": 3})
    assert other["takt"] != plain["takt"]
    assert {m: other[m] for m in ("warm_at", "pgd_at")} == {
        m: plain[m] for m in ("warm_at", "pgd_at")
    }


def test_views_are_of_a_row_only_where_its_student_trains_on_them(
    tmp_path: Path,
) -> None:
    config, path = tmp_path / "small.toml", tmp_path / "views.toml"
    config.write_text(RUN)
    text = grid_text(config, "takt rslad")
    path.write_text(f"{text}[methods.warm_at]\nnum_views = 4\n")
    grid = load_grid(str(path))
    plans = [
        {e.method: e for e in make_plan(grid, {"knowledge.shift": 1, **more})}
        for more in ({"knowledge.flip": False}, {"knowledge.flip": True})
    ]
    views = {method: entry.recipe.num_views for method, entry in plans[0].items()}
    assert views == {"takt": 1, "warm_at": 4, "rslad": 1, "pgd_at": 1}
    same = {m for m in views if plans[0][m].identity == plans[1][m].identity}
    assert same == {"takt", "rslad", "pgd_at"}
    with pytest.raises(ConfigError, match="num_views = 4 of a student"):
        make_plan(grid, {})


def test_methods_share_warm_up_schedule_and_averaging_of_the_weights() -> None:
    for name in ("quick", "full"):
        by_student: dict[tuple[str, str], list[Entry]] = {}
        for entry in make_plan(load_grid(name), {}):
            place = (entry.config.channel, entry.student)
            by_student.setdefault(place, []).append(entry)
        for entries in by_student.values():
            own = {"method", "attack", "learning_rate"}
            shared = {e.recipe.model_dump_json(exclude=own) for e in entries}
            assert len(shared) == 1
            assert len({e.num_images for e in entries}) == 1
            attacks = {e.method: e.recipe.attack for e in entries}
            for baseline in ("pgd_at", "rslad"):
                assert attacks[baseline].steps == 10


def test_a_method_may_have_a_recipe_of_its_own(tmp_path: Path) -> None:
    config, path = tmp_path / "small.toml", tmp_path / "plain.toml"
    config.write_text(RUN)
    text = grid_text(config, "takt rslad")
    own = 'recipe = { schedule = "cosine", eps_warmup_epochs = 1 }'
    path.write_text(text.replace("rslad]", f"rslad]\n{own}"))
    plan = {e.method: e for e in make_plan(load_grid(str(path)), {})}
    path.write_text(text)
    plain = {e.method: e for e in make_plan(load_grid(str(path)), {})}
    changed = plan["rslad"].recipe
    assert (changed.schedule, changed.eps_warmup_epochs) == ("cosine", 1)
    assert changed == plain["rslad"].recipe.model_copy(
        update={"schedule": "cosine", "eps_warmup_epochs": 1}
    )
    assert plan["takt"].identity == plain["takt"].identity


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("taktt", "'taktt' is not among the methods"),
        ("takt]\nstep = 2 #", "step"),
        (
            "takt]\nrecipe = { epochs = 3 } #",
            "'epochs' is not among the keys of a recipe",
        ),
        ("takt]\nrecipe = { ema_decay = 2 } #", "students.tiny.ema_decay = 2"),
    ],
)
def test_a_wrong_grid_is_a_line_that_names_the_place(
    tmp_path: Path, methods: str, message: str
) -> None:
    site = Site(tmp_path)
    text = grid_text(site.config, "takt").replace("takt]", f"{methods}]", 1)
    site.grid.write_text(text)
    with pytest.raises(ConfigError, match=message) as e:
        make_plan(load_grid(str(site.grid)), {})
    assert "\n" not in str(e.value)


def test_options_that_name_nothing_are_refused_with_what_there_is(
    tmp_path: Path,
) -> None:
    plan = make_plan(plan_of(tmp_path), {})
    assert {e.method for e in chosen(plan, methods=["takt"])} == {"takt"}
    with pytest.raises(ConfigError, match="cnn_tiny"):
        chosen(plan, students=["large"])
    with pytest.raises(ConfigError, match="not both"):
        which_grid("mine.toml", full=True)


def test_a_student_is_chosen_by_its_name_in_the_config_or_its_architecture(
    tmp_path: Path,
) -> None:
    plan = make_plan(plan_of(tmp_path), {})
    by_name = chosen(plan, students=["tiny"])
    assert by_name and by_name == chosen(plan, students=["cnn_tiny"])


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
