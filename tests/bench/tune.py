"""Learning rates of the comparison's baselines, by validation images alone.

    .venv/bin/python tests/bench/tune.py GRID CONFIG METHOD... [--work DIR]

Trains each method of a grid on each student of one of its data sets for the grid's
CPU budget, at several learning rates in turns, and prints PGD-20 on the validation
split, the mean of two seeds that the grid does not use. What is best goes into the
grid by hand. Test images are never touched.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from stage import Stage

from deploy.compare_grid import Entry, load_grid, make_plan
from deploy.compare_turns import in_turns

SEEDS = (1001, 1002)


def scores(entry: Entry, rates: list[float], seed: int, work: Path) -> list[float]:
    """Train a student at each rate, in turns; measure on the validation split."""
    stage = Stage.prepare(entry.config, work).at_temperature(entry.temperature)
    recipes = [entry.recipe.model_copy(update={"learning_rate": r}) for r in rates]
    trainings = [
        stage.training(recipe, seed=seed, cpu_budget_s=entry.cpu_budget_s)
        for recipe in recipes
    ]
    return [stage.val_accuracies(done.model)[1] for done in in_turns(trainings)]


def main() -> None:
    """Print one line a student, method, temperature and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid")
    parser.add_argument("config")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--student", help="only this architecture")
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--data-dir")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides = {"dataset.data_dir": options.data_dir} if options.data_dir else {}
    for entry in make_plan(load_grid(options.grid), overrides):
        asked = (
            entry.config.channel == options.config and entry.method in options.methods
        )
        asked &= options.student in (None, entry.student)
        if not asked or entry.seed != 0:
            continue
        for temperature in options.temperatures or [entry.temperature]:
            own = replace(entry, temperature=temperature)
            found = [scores(own, options.rates, s, options.work) for s in SEEDS]
            for rate, values in zip(
                options.rates, zip(*found, strict=True), strict=True
            ):
                print(
                    f"{entry.student:11} {entry.method:8} temperature {temperature:g} "
                    f"rate {rate:<5g} PGD-20 {100 * mean(values):5.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
