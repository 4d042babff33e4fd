"""Do views help? takt and warm_at on 1, 4, 8 ... views, at equal CPU-seconds.

    .venv/bin/python tests/bench/views.py digits-same tiny small --shift 1 --views 1 4 9

One teacher, and one release with soft labels of as many views as the most that are
asked for. The trainings of a student and seed are interleaved, so that a busy machine
slows all alike, and are measured with PGD-20 on the validation images; test images
are never touched. `warm_at` has no teacher: hard labels, on one view and on the
most. The rows go to results/views.json as they come; what is there is not made
again.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rows import Row, read_rows, write_rows
from stage import Stage

from common.catalog import Content
from common.config import RunConfig, StudentConfig
from deploy.compare.interleave import interleave
from deploy.runtime.settings import load_run_config, parse_assignments

ROWS = Path(__file__).parent / "results" / "views.json"


def compare(
    config: RunConfig,
    stage: Stage,
    student: str,
    variants: list[tuple[str, int]],
    seed: int,
    cpu_budget_s: float,
) -> list[Row]:
    """Train a student in each variant (method, views) of one seed, interleaved."""
    manifest, base = stage.manifest, config.students[student]
    recipes = [
        base.model_copy(update={"method": method, "num_views": views})
        for method, views in variants
    ]
    trainings = [
        stage.training(recipe, seed=seed, cpu_budget_s=cpu_budget_s)
        for recipe in recipes
    ]
    rows = []
    for recipe, one in zip(recipes, interleave(trainings), strict=True):
        clean, robust = stage.val_accuracies(one.model)
        rows.append(
            {
                "dataset": config.dataset.name,
                "student": base.model,
                "method": recipe.method,
                "num_views": recipe.num_views,
                "shift": manifest.shift,
                "flip": manifest.flip,
                "teacher_shift": config.teacher.shift,
                "seed": seed,
                "cpu_budget_s": cpu_budget_s,
                "epochs": one.epochs,
                "num_train": manifest.num_samples,
                "val_images": len(stage.data.val),
                "val_clean_accuracy": clean,
                "val_pgd20_accuracy": robust,
                "eps": manifest.eps,
                "pulled_bytes": _pulled_bytes(stage, recipe),
            }
        )
    return rows


def _pulled_bytes(stage: Stage, recipe: StudentConfig) -> int:
    if recipe.method != "takt":
        return 0
    contents: frozenset[Content] = frozenset(["soft_labels", "deltas"])
    shards = stage.manifest.shards_for(contents, recipe.num_views)
    return sum(shard.num_bytes for shard in shards)


def main() -> None:
    """Make the rows that are missing, and print the mean of each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--shift", type=int, required=True)
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--teacher-shift", type=int, help="default: the same shift")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1001, 1002, 1003])
    parser.add_argument("--cpu-s", type=float, required=True, help="of each training")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher_shift = options.teacher_shift
    overrides: dict[str, object] = {
        "knowledge.num_views": max(options.views),
        "knowledge.shift": options.shift,
        "knowledge.flip": options.flip,
        "knowledge.contents": ["soft_labels", "deltas"],
        "teacher.shift": options.shift if teacher_shift is None else teacher_shift,
        "teacher.flip": options.flip,
    }
    overrides |= parse_assignments(options.set)
    config, _ = load_run_config(options.config, overrides)
    stage = Stage.prepare(config, options.work)
    variants = [("takt", views) for views in options.views]
    variants += [("warm_at", min(options.views)), ("warm_at", max(options.views))]
    rows = read_rows(ROWS)
    for seed in options.seeds:
        for student in options.students:
            own = {
                "dataset": config.dataset.name,
                "student": config.students[student].model,
                "shift": options.shift,
                "flip": options.flip,
                "teacher_shift": config.teacher.shift,
                "seed": seed,
                "cpu_budget_s": options.cpu_s,
            }
            done = {
                (row["method"], row["num_views"])
                for row in rows
                if own.items() <= row.items()
            }
            left = [variant for variant in variants if variant not in done]
            if left:
                made = compare(config, stage, student, left, seed, options.cpu_s)
                rows += made
                write_rows(ROWS, rows)
    _print_means(rows)


def _print_means(rows: list[Row]) -> None:
    names = ("dataset", "student", "teacher_shift", "shift", "method", "num_views")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    for place, group in sorted(groups.items()):
        robust = [100 * row["val_pgd20_accuracy"] for row in group]
        spread = f" +- {stdev(robust):.1f}" if len(robust) > 1 else ""
        clean = mean(100 * row["val_clean_accuracy"] for row in group)
        print(
            *place,
            f"PGD-20 {mean(robust):.1f}{spread}, clean {clean:.1f}, "
            f"{mean(row['epochs'] for row in group):.0f} epochs, {len(group)} seeds",
        )


if __name__ == "__main__":
    main()
