"""The most robust MNIST student of at most 166k parameters, from all 60,000 images.

    .venv/bin/python tests/bench/headline.py [--views 4] [--cpu-s 1500] [--data-dir DIR]

Trains a teacher, extracts its knowledge, distils the config's `medium` student, and
measures it with AutoAttack standard on the test images. Each part goes on where it was
cut, AutoAttack after its last batch; the row goes to results/headline.json. Hours on
one core.
"""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import read_rows, write_rows
from stage import Stage

from common.config import AttackConfig
from deploy.runtime.settings import load_run_config, parse_assignments
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import fit_student

ROWS = Path(__file__).parent / "results" / "headline.json"
STAGE_1 = (  # of 7.5 times the shipped config's images
    "teacher.epochs=12",
    "teacher.eps_warmup_epochs=4",
    "knowledge.attack={steps=10, step_size=0.06}",
    "knowledge.shift=2",
)
RECIPE = {"epochs": 24, "eps_warmup_epochs": 4, "ema_decay": 0.999}


def main() -> None:
    """Make the row of one seed, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="medium")
    parser.add_argument("--method", default="takt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-s", type=float, default=1500.0)
    parser.add_argument("--learning-rate", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=2, help="of the attack")
    parser.add_argument("--views", type=int, default=1, help="of each image")
    parser.add_argument("--images", type=int, default=10_000, help="to attack")
    parser.add_argument("--work", type=Path, default=Path("runs/headline"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides = parse_assignments([*STAGE_1, f"knowledge.num_views={options.views}"])
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
        "num_views": options.views,
        "attack": AttackConfig(
            steps=options.steps,
            step_size=max(1 / 4, 1 / options.steps) * config.threat.eps,
        ),
    }
    recipe = config.students[options.student].model_copy(update=changes)
    own: dict[str, Any] = {
        "dataset": "mnist",
        "num_train": len(stage.data.train),
        "student": recipe.model,
        "method": recipe.method,
        "learning_rate": recipe.learning_rate,
        "steps": options.steps,
        "num_views": options.views,
        "seed": options.seed,
        "cpu_budget_s": options.cpu_s,
        "num_images": options.images,
    }
    rows = read_rows(ROWS)
    if any(own.items() <= row.items() for row in rows):
        return
    print("teacher's clean and PGD-20 accuracy:", stage.manifest.teacher, flush=True)
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]
    task = stage.task(stage.knowledge(recipe), seed=options.seed)
    fitted = fit_student(
        recipe,
        replace(task, cpu_budget_s=options.cpu_s),
        checkpoint=CheckpointFile(
            options.work / f"{digest}.checkpoint", json.dumps(own)
        ),
        on_epoch=lambda point: print(point, flush=True),
    )
    clean, robust = stage.val_accuracies(fitted.model)
    row = {
        **own,
        "val_clean_accuracy": clean,
        "val_pgd20_accuracy": robust,
        **stage.measured(
            fitted, options.images, state=options.work / f"{digest}.autoattack"
        ),
        "teacher": stage.manifest.teacher.model_dump(mode="json"),
    }
    rows.append(row)
    write_rows(ROWS, rows)
    print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
