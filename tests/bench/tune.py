"""Constants of the comparison's recipes, chosen by validation images alone.

    .venv/bin/python tests/bench/tune.py GRID CONFIG METHOD... [--vary KEY=V,V,...]

Trains a method of a grid on each student of one of its data sets for the grid's CPU
budget, with every combination of the given values interleaved. Measures PGD-20 and,
with --autoattack N, AutoAttack standard on the first N validation images: means over
seeds that the grid does not use. PGD alone misleads where students learn to hide
their gradients. The rows go to results/tune.json; what is best goes into grid or
config by hand. Test images are never touched.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rows import read_rows, write_rows
from stage import Stage

from common.config import StudentConfig
from common.robustness.evaluate import autoattack
from deploy.compare.grid import Entry, load_grid, make_plan
from deploy.compare.interleave import interleave

ROWS = Path(__file__).parent / "results" / "tune.json"
RATES = "learning_rate=0.1,0.2,0.4"
SEEDS = (1001, 1002)
NOT_KEYS = ("temperature", "steps", "step")  # of a recipe
WHOLE = ("steps", "batch_size", "eps_warmup_epochs")


def scores(
    entry: Entry,
    changes: list[dict[str, Any]],
    seed: int,
    work: Path,
    num_images: int,
) -> list[list[float]]:
    """Train a student with each change, interleaved; measure on the validation split.

    Returns:
        For each change clean accuracy, that under PGD-20 and, of `num_images` that
        are not zero, under AutoAttack.
    """
    prepared = Stage.prepare(entry.config, work)
    trainings = []
    for change in changes:
        temperature = change.get("temperature", entry.temperature)
        trainings.append(
            prepared.at_temperature(temperature).training(
                changed(entry, change), seed=seed, cpu_budget_s=entry.cpu_budget_s
            )
        )
    x, y = (part[:num_images] for part in prepared.data.val.tensors())
    found = []
    for fitted in interleave(trainings):
        values = list(prepared.val_accuracies(fitted.model))
        if num_images:
            eps = entry.config.threat.eps
            values.append(autoattack(fitted.model, x, y, eps=eps, seed=0).accuracy)
        found.append(values)
    return found


def changed(entry: Entry, change: dict[str, Any]) -> StudentConfig:
    """Put the values of a change into the entry's recipe."""
    own = {key: value for key, value in change.items() if key not in NOT_KEYS}
    attack = entry.recipe.attack
    if "steps" in change:
        attack = attack.model_copy(update={"steps": change["steps"]})
    if "step" in change:
        size = change["step"] * entry.config.threat.eps
        attack = attack.model_copy(update={"step_size": size})
    return entry.recipe.model_copy(update={"attack": attack, **own})


def combinations(varied: list[str]) -> list[dict[str, Any]]:
    """Read KEY=V,V,... of each; numbers, and steps whole ones."""
    keys, values = [], []
    for text in varied:
        key, _, given = text.partition("=")
        number = int if key in WHOLE else float
        keys.append(key)
        values.append([number(value) for value in given.split(",")])
    return [dict(zip(keys, chosen, strict=True)) for chosen in product(*values)]


def main() -> None:
    """Make one row a student, method and combination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid")
    parser.add_argument("config")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--student", help="only this architecture")
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
    parser.add_argument("--data-dir")
    parser.add_argument(
        "--vary",
        nargs="+",
        default=[RATES],
        help="a key of the recipe, 'temperature', or 'steps' and 'step' (in units "
        f"of eps) of the attack; default: {RATES}",
    )
    parser.add_argument("--autoattack", type=int, default=0, metavar="N")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides = {"dataset.data_dir": options.data_dir} if options.data_dir else {}
    changes = combinations(options.vary)
    plan = [
        entry
        for entry in make_plan(load_grid(options.grid), overrides)
        if entry.config.channel == options.config
        and entry.method in options.methods
        and options.student in (None, entry.student)
        and entry.seed == 0
    ]
    if not plan:
        parser.error(f"the grid {options.grid} has nothing of the kind")
    whole: dict[str, float] = {}  # budget of each student, of which others are shares
    for entry in plan:
        whole[entry.student] = max(whole.get(entry.student, 0), entry.cpu_budget_s)
    for entry in plan:
        if entry.cpu_budget_s < whole[entry.student]:
            continue
        found = [
            scores(entry, changes, seed, options.work, options.autoattack)
            for seed in options.seeds
        ]
        for change, values in zip(changes, zip(*found, strict=True), strict=True):
            means = [mean(of) for of in zip(*values, strict=True)]
            row = {
                "dataset": entry.config.dataset.name,
                "student": entry.student,
                "method": entry.method,
                "cpu_budget_s": entry.cpu_budget_s,
                "changes": change,
                "seeds": list(options.seeds),
                "clean_accuracy": means[0],
                "pgd20": means[1],
                "autoattack": means[2] if options.autoattack else None,
                "num_autoattack": options.autoattack,
            }
            write_rows(ROWS, [*read_rows(ROWS), row])
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
