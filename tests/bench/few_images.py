"""What a teacher adds where a node holds few images, and the cloud holds many.

    .venv/bin/python tests/bench/few_images.py CONFIG --images N... [--data-dir DIR]

One teacher learns from all training images of the data set but the nodes' validation
ones. Nodes hold N images each (`dataset.limit`, a tenth of them for validation) and
train the same student by `takt` from that teacher's knowledge of them, soft labels with
deltas or without ("labels"), by `warm_at` without any teacher ("none"), or by `takt`
from a teacher that has seen the node's own images alone ("own"); each takes as many
steps as the config's epochs of all its images are, and is measured by AutoAttack
standard on the first test images, by which nothing is chosen.
The rows go to results/few-images.json as they come; few_images_table.py writes the
page's table from them.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from rows import Row, read_rows, write_rows
from stage import Stage
from wider_teacher import all_but_validation

from cloud.training.teacher import TeacherRun
from common.config import RunConfig, StudentConfig
from common.data.datasets import Split, load_dataset
from deploy.compare.teacher import train_here
from deploy.runtime.settings import load_run_config
from edge.distill.fitting.fit import fit_student
from edge.distill.knowledge import Knowledge

ROWS = Path(__file__).parent / "results" / "few-images.json"
KNOWLEDGE = ("none", "labels", "deltas", "own")
SIZES = (500, 1000, 2000, 4000, 8000)  # what nodes may hold
WIDE = {"epochs": 3, "eps_warmup_epochs": 1}  # of 8 times the config's images


def wide_teacher(config: RunConfig, images: Split, folder: Path) -> TeacherRun:
    """Train a teacher on these images, or take it up where it was cut."""
    config = config.model_copy(
        update={"teacher": config.teacher.model_copy(update=WIDE)}
    )
    dataset = replace(load_dataset(config.dataset, seed=config.seed), train=images)
    folder.mkdir(parents=True, exist_ok=True)
    return train_here(config, dataset, folder, lambda step, share: None)


def stage_of(config: RunConfig, work: Path, taught: TeacherRun | None) -> Stage:
    """Extract a finished teacher's knowledge of a node's images; None trains one."""
    if taught is None:
        return Stage.prepare(config, work)
    return Stage.prepare(config, work, train=lambda *arguments: taught)


def stretched(recipe: StudentConfig, factor: float) -> StudentConfig:
    """Give a recipe as many times the epochs, warm-up included."""
    return recipe.model_copy(
        update={
            "epochs": round(recipe.epochs * factor),
            "eps_warmup_epochs": round(recipe.eps_warmup_epochs * factor),
        }
    )


def trained_row(
    stage: Stage,
    recipe: StudentConfig,
    knowledge: Knowledge,
    *,
    seed: int,
    num_images: int,
) -> Row:
    """Train a student and measure it on test images."""
    torch.set_num_threads(1)
    fitted = fit_student(recipe, stage.task(knowledge, seed=seed))
    return stage.measured(fitted, num_images) | {"best_epoch": fitted.best_epoch}


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument(
        "--images", type=int, nargs="+", choices=SIZES, default=[500, 2000]
    )
    parser.add_argument("--students", nargs="+", default=["tiny", "small"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--knowledge", nargs="+", choices=KNOWLEDGE, default=KNOWLEDGE[:3]
    )
    parser.add_argument("--test-images", type=int, default=500)
    parser.add_argument("--work", type=Path, default=Path("runs/few-images"))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides: dict[str, object] = {"knowledge.contents": ["soft_labels", "deltas"]}
    if options.data_dir:
        overrides["dataset.data_dir"] = options.data_dir
    whole, _ = load_run_config(options.config, overrides)
    all_images = whole.dataset.limit
    assert all_images is not None
    for seed, count, student, knowledge in product(
        options.seeds, options.images, options.students, options.knowledge
    ):
        config = of_size(whole, count)
        row: Row = {
            "dataset": config.dataset.name,
            "student": config.students[student].model,
            "knowledge": knowledge,
            "limit": count,
            "seed": seed,
        }
        if any(row.items() <= done.items() for done in read_rows(options.rows)):
            continue
        stage = stage_for(knowledge, whole, config, options.work)
        recipe = stretched(config.students[student], all_images / count)
        if knowledge == "none":
            recipe = recipe.model_copy(update={"method": "warm_at"})
        known = stage.knowledge(recipe)
        if knowledge == "labels":
            known = replace(known, delta_signs=None)
        row |= trained_row(
            stage, recipe, known, seed=seed, num_images=options.test_images
        )
        write_rows(options.rows, [*read_rows(options.rows), row])
        print(json.dumps(row), flush=True)


def of_size(config: RunConfig, limit: int) -> RunConfig:
    """Change how many images there are."""
    dataset = config.dataset.model_copy(update={"limit": limit})
    return config.model_copy(update={"dataset": dataset})


def stage_for(knowledge: str, whole: RunConfig, config: RunConfig, work: Path) -> Stage:
    """Bring the images of a node, and what a teacher says of them."""
    if knowledge == "own":
        return stage_of(config, work / "own", None)
    nodes = [load_dataset(of_size(whole, n).dataset, seed=whole.seed) for n in SIZES]
    taught = wide_teacher(whole, all_but_validation(whole, *nodes), work / "wide")
    return stage_of(config, work / "of-wide", taught)


if __name__ == "__main__":
    main()
