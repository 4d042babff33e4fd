"""The best settings of each method, and the grid that takes them."""

import json
from pathlib import Path

import pytest
from compare_site import BUDGET_S, Site

from common.errors import ConfigError
from deploy.compare.entry import SHIPPED
from deploy.compare.grid import chosen, load_grid, make_plan, with_best_tries
from deploy.compare.tuned import Tries, Try, budget_name


def a_try(
    method: str, number: int, robust: float, **changes: object
) -> dict[str, object]:
    return {
        "dataset": "digits",
        "channel": "small",
        "student": "cnn_tiny",
        "method": method,
        "budget": "whole",
        "cpu_budget_s": 1.0,
        "seed": 1001,
        "number": number,
        "tries": 2,
        "attack_steps": 1 + number,
        "step_size": 0.01,
        "learning_rate": 0.3,
        "num_views": 1,
        "val_clean_accuracy": 0.9,
        "val_robust_accuracy": robust,
        "attack": "apgd-ce, apgd-t",
        "num_images": 40,
        "cpu_s": 1.0,
        **changes,
    }


def write(path: Path, tries: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps({"rows": tries}))
    return path


def best_of(path: Path, method: str, *, cpu_budget_s: float = 1.0) -> Try:
    return Tries(path).best(
        method,
        channel="small",
        student="cnn_tiny",
        budget="whole",
        cpu_budget_s=cpu_budget_s,
    )


def grid_of(site: Site, methods: str) -> str:
    site.grid.write_text(
        f'tuned = "tune.json"\n{methods}\n[[datasets]]\n'
        f'config = "{site.config}"\nnum_images = 8\nseeds = [3, 4]\n'
        f"cpu_budget_s = {{ tiny = {BUDGET_S} }}\n"
        "changes = { 'knowledge.shift' = 1, 'knowledge.num_views' = 2 }\n"
    )
    return str(site.grid)


def test_a_grid_takes_the_try_that_was_best_at_each_budget(tmp_path: Path) -> None:
    site = Site(tmp_path)
    fifth = {"budget": "fifth", "num_views": 2, "cpu_budget_s": 0.2 * BUDGET_S}
    write(
        tmp_path / "tune.json",
        [
            a_try("takt", 0, 0.4),
            a_try("takt", 1, 0.5),
            a_try("takt", 0, 0.3, **fifth),
            a_try("takt", 1, 0.2, **fifth),
        ],
    )
    grid = load_grid(grid_of(site, "[methods.takt]\nshares = [1.0, 0.2]"))
    plan = with_best_tries(make_plan(grid, {}), grid)
    assert [(e.seed, e.budget, e.cpu_budget_s, e.tuned) for e in plan] == [
        (3, "whole", BUDGET_S, True),
        (3, "fifth", 0.2 * BUDGET_S, True),
        (4, "whole", BUDGET_S, True),
        (4, "fifth", 0.2 * BUDGET_S, True),
    ]
    found = [(e.recipe.attack.steps, e.recipe.num_views) for e in plan[:2]]
    assert found == [(2, 1), (1, 2)]
    assert {e.recipe.learning_rate for e in plan} == {0.3}
    assert {e.recipe.attack.step_size for e in plan} == {0.01}


def test_the_clouds_own_student_has_no_budget_and_its_configs_recipe(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    write(tmp_path / "tune.json", [])
    grid = load_grid(grid_of(site, f"[methods.{SHIPPED}]"))
    (entry, _) = with_best_tries(make_plan(grid, {}), grid)
    assert (entry.method, entry.budget, entry.cpu_budget_s) == (SHIPPED, "none", 0)
    assert entry.recipe == entry.config.students["tiny"]


def test_what_is_not_chosen_need_not_have_been_tried(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write(tmp_path / "tune.json", [a_try("takt", n, 0.5) for n in (0, 1)])
    grid = load_grid(grid_of(site, "[methods.takt]\n[methods.pgd_at]"))
    plan = make_plan(grid, {})
    assert len(with_best_tries(chosen(plan, methods=["takt"]), grid)) == 2
    with pytest.raises(ConfigError, match="tries of pgd_at"):
        with_best_tries(plan, grid)


def test_an_arm_that_is_not_tuned_trains_its_method_as_the_grid_says(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    write(tmp_path / "tune.json", [a_try("rslad", n, 0.5) for n in (0, 1)])
    arm = (
        '[methods.theirs]\nmethod = "rslad"\ntuned = false\nsteps = 10\n'
        "recipe = { learning_rate = 0.01 }"
    )
    grid = load_grid(grid_of(site, f"[methods.rslad]\n{arm}"))
    entries = with_best_tries(make_plan(grid, {}), grid)
    plan = {entry.method: entry for entry in entries}
    recipes = {name: entry.recipe for name, entry in plan.items()}
    assert {name: r.method for name, r in recipes.items()} == {
        "rslad": "rslad",
        "theirs": "rslad",
    }
    assert recipes["theirs"].attack.steps == 10
    rates = {name: recipe.learning_rate for name, recipe in recipes.items()}
    assert rates == {"rslad": 0.3, "theirs": 0.01}


@pytest.mark.parametrize(
    ("arm", "method", "message"),
    [
        ("mine", SHIPPED, "'shipped' is not among the methods"),
        (SHIPPED, "rslad", "an arm of method rslad cannot be called shipped"),
        ("takt", "rslad", "an arm of method rslad cannot be called takt"),
    ],
)
def test_an_arm_is_not_called_like_another_method(
    arm: str, method: str, message: str, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    write(tmp_path / "tune.json", [])
    grid = load_grid(grid_of(site, f'[methods.{arm}]\nmethod = "{method}"'))
    with pytest.raises(ConfigError, match=message):
        make_plan(grid, {})


def test_a_method_with_fewer_tries_than_another_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "tune.json",
        [a_try("takt", 0, 0.5), a_try("pgd_at", 0, 0.4), a_try("pgd_at", 1, 0.4)],
    )
    for method in ("takt", "pgd_at", "rslad"):
        with pytest.raises(
            ConfigError, match=r"found pgd_at 2, takt 1; make them with"
        ):
            best_of(path, method)


def test_of_equal_tries_the_first_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [a_try("kd", 1, 0.5), a_try("kd", 0, 0.5)])
    assert best_of(path, "kd").number == 0


def test_a_tuning_that_was_stopped_chooses_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [a_try("kd", 0, 0.5)])
    with pytest.raises(ConfigError, match=r"expected 2 tries .* found kd 1; make them"):
        best_of(path, "kd")


def test_tries_for_other_cpu_seconds_choose_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [a_try("kd", n, 0.5) for n in (0, 1)])
    with pytest.raises(ConfigError, match=r"other than 2 CPU-seconds"):
        best_of(path, "kd", cpu_budget_s=2.0)


def test_a_file_that_holds_no_tries_is_a_line_that_says_what_makes_them(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the tries in .*gone\.json"):
        Tries(tmp_path / "gone.json")
    with pytest.raises(
        ConfigError, match=r"does not hold tries of tests/bench/tune.py"
    ):
        Tries(write(tmp_path / "other.json", [{"method": "takt"}]))


def test_budgets_are_called_by_their_share() -> None:
    shares = (1.0, 0.2, 0.1, 3.0)
    assert [budget_name(s) for s in shares] == ["whole", "fifth", "tenth", "3x"]
