"""Does a teacher that saw more images than its students have help them more?

    .venv/bin/python tests/bench/wider_teacher.py CONFIG [--data-dir DIR]

The config's teacher learns from the students' own training images; the other one from
all training images of the data set but the students' validation images, for fewer
epochs, so that it costs little more. Both ship the knowledge of the students' images
alone. The same students learn from either, and by `warm_at` without a teacher, for
their config's epochs, and are measured by AutoAttack on validation images. The rows
go to results/wider-teacher.json as they come; test images are never touched.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import read_rows, write_rows

from cloud.storage import StorageDir
from cloud.training.teacher import TeacherRun
from common.config import RunConfig
from common.data.datasets import Dataset, Split, load_dataset
from deploy.compare.teacher import prepare_stage, train_here
from deploy.runtime.progress import OnProgress
from deploy.runtime.settings import load_run_config, parse_assignments
from deploy.selection.score import student_score, teacher_score
from edge.distill.knowledge import read_manifest

ROWS = Path(__file__).parent / "results" / "wider-teacher.json"
WIDER = ("teacher.epochs=5", "teacher.eps_warmup_epochs=2")  # of 8 times the images
SEEDS = (1001, 1002)  # of the students; no other comparison uses them


def all_but_validation(config: RunConfig, *datasets: Dataset) -> Split:
    """Gather what the data set has beside the students' validation images."""
    whole = config.dataset.model_copy(update={"limit": None, "val_fraction": 0.001})
    found = load_dataset(whole, seed=config.seed).train
    known = {image.tobytes() for data in datasets for image in data.val.images}
    new = [i for i, image in enumerate(found.images) if image.tobytes() not in known]
    order = np.random.RandomState(0).permutation(np.array(new))
    return Split(found.images[order], found.labels[order])


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--students", nargs="+", default=["tiny", "small"])
    parser.add_argument("--work", type=Path, default=Path("runs/wider-teacher"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for wider in (True, False):
        overrides = parse_assignments(WIDER if wider else [])
        if options.data_dir:
            overrides["dataset.data_dir"] = options.data_dir
        config, _ = load_run_config(options.config, overrides)
        work = options.work / ("wider" if wider else "own")
        add_rows(config, work, options.students, wider=wider)


def add_rows(
    config: RunConfig, work: Path, students: list[str], *, wider: bool
) -> None:
    """Train one of the two teachers and what learns from it."""
    dataset = load_dataset(config.dataset, seed=config.seed)
    images = all_but_validation(config, dataset) if wider else dataset.train

    def train(
        config: RunConfig, own: Dataset, folder: Path, on_progress: OnProgress
    ) -> TeacherRun:
        return train_here(config, replace(own, train=images), folder, on_progress)

    release = prepare_stage(config, work, lambda step, share: None, train=train)
    path = StorageDir(release.parent).weights
    own = teacher_score(path, dataset, eps=config.threat.eps)
    for student in students:
        for method in ("takt",) if wider else ("takt", "warm_at"):
            recipe = config.students[student].model_copy(update={"method": method})
            for seed in SEEDS:
                row: dict[str, Any] = {
                    "dataset": config.dataset.name,
                    "student": recipe.model,
                    "method": method,
                    "teacher_images": len(images) if method == "takt" else 0,
                    "seed": seed,
                }
                rows = read_rows(ROWS)
                if any(row.items() <= done.items() for done in rows):
                    continue
                found = student_score(
                    recipe,
                    read_manifest(release),
                    release,
                    dataset,
                    seeds=(seed,),
                    by_autoattack=True,
                )
                row |= {
                    "num_val": len(dataset.val),
                    "teacher_clean": own.clean_accuracy,
                    "teacher_pgd20": own.robust_accuracy,
                    "clean_accuracy": found.clean_accuracy,
                    "autoattack": found.robust_accuracy,
                }
                write_rows(ROWS, [*rows, row])
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
