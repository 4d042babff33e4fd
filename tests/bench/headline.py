"""The most robust MNIST student of at most 166k parameters, from all 60,000 images.

    .venv/bin/python tests/bench/headline.py [--cpu-s 1500] [--data-dir DIR]

Trains a teacher, extracts its knowledge, distils the config's `medium` student, and
measures it with AutoAttack standard on the first 1,000 test images. Each part goes on
where it was cut; the row goes to results/headline.json. Hours on one core.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import read_rows, write_rows
from stage import Stage

from deploy.runtime.settings import load_run_config, parse_assignments
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import fit_student

ROWS = Path(__file__).parent / "results" / "headline.json"
STAGE_1 = (  # of 7.5 times the shipped config's images
    "teacher.epochs=12",
    "teacher.eps_warmup_epochs=4",
    "knowledge.attack={steps=10, step_size=0.06}",
    'knowledge.contents=["soft_labels", "deltas"]',
)
RECIPE = {"epochs": 24, "eps_warmup_epochs": 4, "ema_decay": 0.999}
NUM_IMAGES = 1000


def main() -> None:
    """Make the row of one seed, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="medium")
    parser.add_argument("--method", default="takt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-s", type=float, default=1500.0)
    parser.add_argument("--learning-rate", type=float, default=0.2)
    parser.add_argument("--work", type=Path, default=Path("runs/headline"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides = parse_assignments(list(STAGE_1))
    if options.data_dir:
        overrides["dataset.data_dir"] = options.data_dir
    config, _ = load_run_config("mnist", overrides)
    whole = config.dataset.model_copy(update={"limit": None})
    config = config.model_copy(update={"dataset": whole})
    stage = Stage.prepare(config, options.work)
    changes = {
        **RECIPE,
        "method": options.method,
        "learning_rate": options.learning_rate,
    }
    recipe = config.students[options.student].model_copy(update=changes)
    own: dict[str, Any] = {
        "dataset": "mnist",
        "num_train": len(stage.data.train),
        "student": recipe.model,
        "method": recipe.method,
        "learning_rate": recipe.learning_rate,
        "seed": options.seed,
        "cpu_budget_s": options.cpu_s,
    }
    rows = read_rows(ROWS)
    if any(own.items() <= row.items() for row in rows):
        return
    print("teacher's clean and PGD-20 accuracy:", stage.manifest.teacher, flush=True)
    name = f"{recipe.method}-{recipe.model}-{options.seed}-{options.cpu_s:g}"
    task = stage.task(stage.knowledge(recipe), seed=options.seed)
    fitted = fit_student(
        recipe,
        replace(task, cpu_budget_s=options.cpu_s),
        checkpoint=CheckpointFile(options.work / f"{name}.checkpoint", json.dumps(own)),
        on_epoch=lambda point: print(point, flush=True),
    )
    clean, robust = stage.val_accuracies(fitted.model)
    row = {
        **own,
        "val_clean_accuracy": clean,
        "val_pgd20_accuracy": robust,
        **stage.measured(fitted, NUM_IMAGES),
        "teacher": stage.manifest.teacher.model_dump(mode="json"),
    }
    rows.append(row)
    write_rows(ROWS, rows)
    print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
