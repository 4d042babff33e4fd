"""Steps, step size, learning rate and views of each method, by as many tries each.

    .venv/bin/python tests/bench/tune.py GRID [--tries N | --numbers 0 7 10]
        [--budgets whole fifth ...] [--datasets NAME ...] [--students NAME ...]
        [--teacher DIR]

For every data set, student and budget of a grid (tests/bench/fair.toml): the first try
of a method has the grid's own settings, the others are those of `SETTINGS`, the same
for all methods; one-step methods try as many sizes of their step in the place of
numbers, and arms that begin with the shipped student take their rate in units of its
`tuning`. The methods of one try are trained in turns, so that a busy machine slows all
alike, and measured by AutoAttack's APGD-CE and APGD-T on the validation images; test
images are never touched. The rows go to results/tune.json, all of a try at once, and a
tuned grid reads them. What is there already is not made again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rows import read_rows, write_rows
from stage import Stage
from torch import nn

from common.config import AttackConfig, StudentConfig
from common.robustness.autoattack import autoattack_each
from common.robustness.evaluate import clean_accuracy
from deploy.compare.entry import SHIPPED, Entry
from deploy.compare.grid import chosen, load_grid, make_plan
from deploy.compare.interleave import interleave
from deploy.compare.run import prepare_groups
from deploy.compare.training import open_sources, trained_students
from deploy.compare.tuned import Try

ROWS = Path(__file__).parent / "results" / "tune.json"
SEED = 1001  # of no grid
ATTACKS = ("apgd-ce", "apgd-t")

# Views or one view, learning rate, attack steps: every pair and triple of them.
SETTINGS = tuple(product((False, True), (0.4, 0.2), (2, 1, 3)))
REACH = {1: 1.0, 2: 1.25, 3: 1.5}  # of all steps together, by their number; units: eps
ONE_STEP = {"n_fgsm": (1.25, 1.0, 0.75), "fgsm_pgi": (1.25, 1.0, 0.75)}  # sizes


def recipe_of(entry: Entry, number: int) -> StudentConfig:
    """Return what a method's try trains by; the first one is the entry's own."""
    if number == 0:
        return entry.recipe
    with_views, rate, steps = SETTINGS[number - 1]
    size = REACH[steps] / steps
    if entry.method in ONE_STEP:
        steps, size = 1, ONE_STEP[entry.method][steps - 1]
    size = min(size * entry.config.threat.eps, 1.0)
    return entry.recipe.model_copy(
        update={
            "attack": AttackConfig(steps=steps, step_size=size),
            "learning_rate": rate,
            "num_views": entry.config.knowledge.num_views if with_views else 1,
        }
    )


def shipped(
    stage: Stage, entries: Sequence[Entry], work: Path, teacher: Path | None
) -> dict[str, nn.Module]:
    """Distil what the cloud ships, for the arms that begin with it: by their name."""
    starts = {e.method: e.start.of(seed=SEED, tuned=False) for e in entries if e.start}
    if not starts:
        return {}
    found: dict[str, nn.Module] = {}
    for _, group in prepare_groups(
        [*starts.values()], work, work / "trained", _show_nothing, teacher=teacher
    ):
        made = trained_students(group, open_sources(group, stage.data), _show_nothing)
        found |= {digest: model for digest, (model, _) in made.items()}
    return {arm: found[start.digest] for arm, start in starts.items()}


def _show_nothing(step: str, share: float) -> None:
    """Take reports of progress."""


def tried(
    stage: Stage,
    entries: Sequence[Entry],
    number: int,
    tries: int,
    starts: Mapping[str, nn.Module],
) -> list[dict[str, Any]]:
    """Train one try of all methods in turns; measure on the validation images."""
    recipes = [recipe_of(entry, number) for entry in entries]
    fitted = interleave(
        [
            stage.training(
                recipe,
                seed=SEED,
                cpu_budget_s=entry.cpu_budget_s,
                start=starts.get(entry.method),
            )
            for entry, recipe in zip(entries, recipes, strict=True)
        ]
    )
    x, y = stage.data.val.tensors()
    rows = []
    for entry, recipe, student in zip(entries, recipes, fitted, strict=True):
        found = autoattack_each(
            student.model,
            x,
            y,
            eps=entry.config.threat.eps,
            seed=0,
            version="custom",
            attacks=ATTACKS,
        ).evaluation
        row = Try(
            dataset=entry.config.dataset.name,
            channel=entry.config.channel,
            student=entry.student,
            method=entry.method,
            budget=entry.budget,
            cpu_budget_s=entry.cpu_budget_s,
            seed=SEED,
            number=number,
            tries=tries,
            attack_steps=recipe.attack.steps,
            step_size=recipe.attack.step_size,
            learning_rate=recipe.learning_rate,
            num_views=recipe.num_views,
            val_clean_accuracy=clean_accuracy(student.model, x, y),
            val_robust_accuracy=found.accuracy,
            attack=", ".join(ATTACKS),
            num_images=found.num_images,
            cpu_s=round(student.cpu_s.distil, 3),
        )
        rows.append(row.model_dump(mode="json"))
    return rows


def by_place(entries: Sequence[Entry]) -> dict[tuple[str, str, str], list[Entry]]:
    """Put what is tuned together: a config, a student and a budget."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        place = (entry.config.channel, entry.student, entry.budget)
        found.setdefault(place, []).append(entry)
    return found


def main() -> None:
    """Make the tries that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid")
    most = len(SETTINGS) + 1
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tries", type=int, default=most, help="of each method")
    which.add_argument("--numbers", type=int, nargs="+", help="these tries alone")
    parser.add_argument("--budgets", nargs="+", help="whole, fifth, tenth; all")
    parser.add_argument("--datasets", nargs="+", help="of the grid; all")
    parser.add_argument("--students", nargs="+", help="of the grid; all")
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
    parser.add_argument("--teacher", type=Path, help="a storage folder that has it")
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    numbers = options.numbers or [*range(options.tries)]
    if not numbers or not {*numbers} <= {*range(most)}:
        parser.error(f"at most {most} tries, with the numbers 0 to {most - 1}")
    torch.set_num_threads(1)
    overrides = {"dataset.data_dir": options.data_dir} if options.data_dir else {}
    grid = load_grid(options.grid).model_copy(update={"tuned": None})
    plan = chosen(
        make_plan(grid, overrides),
        datasets=options.datasets or (),
        students=options.students or (),
    )
    fixed = {SHIPPED, *(arm for arm, own in grid.methods.items() if not own.tuned)}
    plan = [entry for entry in plan if entry.method not in fixed]
    for place, entries in by_place([e for e in plan if e.seed == plan[0].seed]).items():
        if options.budgets and place[2] not in options.budgets:
            continue
        stage = Stage.prepare(entries[0].config, options.work, teacher=options.teacher)
        starts = shipped(stage, entries, options.work, options.teacher)
        for number in numbers:
            rows = read_rows(ROWS)
            there = {
                r["method"]
                for r in rows
                if (r["channel"], r["student"], r["budget"], r["number"])
                == (*place, number)
            }
            missing = [entry for entry in entries if entry.method not in there]
            if not missing:
                continue
            new = tried(stage, missing, number, len(numbers), starts)
            write_rows(ROWS, [*rows, *new])
            for row in new:
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
