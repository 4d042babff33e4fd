"""What a grid asks of `takt compare`: which students, by what recipe, for how long."""

from dataclasses import replace
from pathlib import Path

import pytest
from compare_site import BUDGET_S, RUN, Site, grid_text

from common.errors import ConfigError
from deploy.compare.entry import Entry
from deploy.compare.grid import (
    Grid,
    MethodGrid,
    chosen,
    load_grid,
    make_plan,
    which_grid,
)


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


def test_a_row_is_made_anew_when_anything_of_its_recipe_changes(tmp_path: Path) -> None:
    grid = plan_of(tmp_path)

    def identities(overrides: dict[str, object]) -> dict[str, str]:
        return {e.method: e.digest for e in make_plan(grid, overrides)}

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
    same = {m for m in views if plans[0][m].digest == plans[1][m].digest}
    assert same == {"takt", "rslad", "pgd_at"}
    with pytest.raises(ConfigError, match="num_views = 4 of a student"):
        make_plan(grid, {})


def test_the_clouds_own_student_is_trained_on_as_many_views_as_the_grid_says(
    tmp_path: Path,
) -> None:
    config, path = tmp_path / "small.toml", tmp_path / "views.toml"
    config.write_text(RUN)
    path.write_text(
        grid_text(config, "shipped").replace("shipped]", "shipped]\nnum_views = 4")
    )
    views: dict[str, object] = {"knowledge.shift": 1, "knowledge.num_views": 4}
    plan = {e.method: e for e in make_plan(load_grid(str(path)), views)}
    assert plan["shipped"].recipe.num_views == 4
    assert plan["pgd_at"].recipe.num_views == 1
    with pytest.raises(ConfigError, match="num_views = 4 of a student"):
        make_plan(load_grid(str(path)), {"knowledge.shift": 1})


def test_what_an_arm_begins_with_is_the_clouds_own_student_of_its_seed(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    text = grid_text(site.config, "shipped takt", "[3, 4]")
    drawn = {e.seed: e for e in _plan(site, text) if e.method == "takt"}
    text = text.replace("takt]", "takt]\nfrom_shipped = true")
    own = {(e.method, e.seed): e for e in _plan(site, text)}
    for seed in (3, 4):
        start = own["takt", seed].start
        assert start is not None and start.digest == own["shipped", seed].digest
        assert own["takt", seed].digest != drawn[seed].digest
        assert own["pgd_at", seed].start is None


def test_the_clouds_own_student_cannot_begin_with_itself(tmp_path: Path) -> None:
    site = Site(tmp_path)
    text = grid_text(site.config, "shipped")
    with pytest.raises(ConfigError, match="cannot begin with itself"):
        _plan(site, text.replace("shipped]", "shipped]\nfrom_shipped = true"))


def _plan(site: Site, text: str) -> list[Entry]:
    site.grid.write_text(text)
    return make_plan(load_grid(str(site.grid)), {})


def test_the_clouds_own_student_is_another_one_where_the_teacher_has_other_images(
    tmp_path: Path,
) -> None:
    grid = plan_of(tmp_path, "shipped warm_at")
    for whole in (False, True):
        for entry in make_plan(grid, {"teacher.all_images": whole}):
            as_a_nodes = replace(entry, method="takt")
            is_other = entry.digest != as_a_nodes.digest
            assert is_other == (whole and entry.method == "shipped")


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
    assert plan["takt"].digest == plain["takt"].digest


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("taktt", "'taktt' is not among the methods"),
        ("takt]\nstep = 2 #", "step"),
        (
            "takt]\nrecipe = { epochs = 3 } #",
            "'epochs' is not among the keys of a recipe",
        ),
        ("takt]\nrecipe = { ema_decay = 2 } #", "methods.takt.recipe.ema_decay = 2"),
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


def test_a_config_in_a_grids_file_counts_from_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in (site.config.name, f"../{tmp_path.name}/{site.config.name}"):
        site.grid.write_text(grid_text(Path(name), "takt", "[0]"))
        for grid in (str(site.grid), f"../{site.grid.name}"):
            plan = make_plan(load_grid(grid), {})
            assert {entry.config.channel for entry in plan} == {"small"}
    site.grid.write_text(grid_text(Path("digits"), "takt", "[0]"))
    assert load_grid(str(site.grid)).datasets[0].config == "digits"
    site.grid.write_text(grid_text(Path("gone.toml"), "takt", "[0]"))
    with pytest.raises(ConfigError, match=str(tmp_path / "gone.toml")):
        make_plan(load_grid(str(site.grid)), {})


def test_a_wrong_recipe_in_a_grid_is_named_as_the_grid_has_it(tmp_path: Path) -> None:
    grid = plan_of(tmp_path)
    wrong = {"takt": MethodGrid(recipe={"ema_decay": 2.0})}
    with pytest.raises(ConfigError, match=r"^methods\.takt\.recipe\.ema_decay = 2\.0:"):
        make_plan(grid.model_copy(update={"methods": wrong}), {})


def test_a_config_that_ships_its_images_is_no_config_to_compare_methods_by(
    tmp_path: Path,
) -> None:
    grid = plan_of(tmp_path)
    part = grid.datasets[0].model_copy(update={"config": "digits"})
    grid = grid.model_copy(update={"datasets": (part,)})
    with pytest.raises(
        ConfigError, match=r"knowledge.images is 'same', such as digits"
    ):
        make_plan(grid, {})


def test_one_teacher_for_rows_of_two_configs_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    text = grid_text(site.config, "takt")
    _, _, part = text.partition("[[datasets]]\n")
    second = f"{part}changes = {{ channel = 'second', 'teacher.epochs' = 3 }}\n"
    site.grid.write_text(f"{text}[[datasets]]\n{second}")
    with pytest.raises(ConfigError, match=r"several configs \(small, second\)"):
        site.compare(teacher=tmp_path)
