"""Shipped labels against the live teacher: the same student, the same views.

    .venv/bin/python tests/bench/live.py digits-same tiny small --views 9 --seeds 20

Each seed is trained twice for the same epochs: with the soft labels of a release
(int8), and with those that the teacher's model gives in each step for the very
pixels of the batch. All else is alike: weights, order, noise, attack. As no choice
hangs on it, the students are measured on test images, all of them, with PGD-20: the
difference of a pair is smaller than AutoAttack's is worth its time for. The rows go
to results/live.json as they come.
"""

import argparse
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rows import Row, read_rows, write_rows
from torch import Tensor, nn

from cloud.storage import StorageDir
from common.config import AttackConfig, RunConfig, StudentConfig
from common.data.datasets import Dataset, load_dataset
from common.models.files import load_model
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd
from deploy.compare.teacher import prepare_stage
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Batch, Images
from edge.distill.fitting.training import Training
from edge.distill.knowledge import read_knowledge, read_manifest
from edge.distill.task import Task

ROWS = Path(__file__).parent / "results" / "live.json"


class LiveTraining(Training):
    """A training that asks the teacher itself for each batch."""

    teacher_model: nn.Module

    def batch(self, positions: Tensor, eps: float) -> Batch:
        """Put together what is known of some samples, the soft labels anew."""
        batch = super().batch(positions, eps)
        with torch.no_grad():
            logits: Tensor = self.teacher_model(batch.x)
        soft = torch.softmax(logits / self.knowledge.temperature, 1)
        return batch._replace(soft_labels=soft)


def train(
    config: RunConfig,
    data: Dataset,
    release: Path,
    recipe: StudentConfig,
    seed: int,
    teacher: nn.Module | None,
) -> nn.Module:
    """Train a student on shipped labels, or on a live teacher's."""
    manifest = read_manifest(release)
    training_class = Training if teacher is None else LiveTraining
    training = training_class(
        recipe,
        Task.of_release(
            manifest,
            train=Images.of(data.train),
            val=Images.of(data.val),
            knowledge=read_knowledge(manifest, release, recipe),
            seed=seed,
        ),
        clock=lambda: 0.0,
    )
    if isinstance(training, LiveTraining) and teacher is not None:
        training.teacher_model = teacher
    while training.progress() < 1:
        training.epoch(lambda: False)
    return training.learner.student()


def main() -> None:
    """Make the rows that are missing, and print the mean difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--shift", type=int, default=1)
    parser.add_argument("--views", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides: dict[str, object] = {
        "knowledge.num_views": options.views,
        "knowledge.shift": options.shift,
        "knowledge.contents": ["soft_labels", "deltas"],
        "teacher.shift": options.shift,
    }
    if options.data_dir:
        overrides["dataset.data_dir"] = options.data_dir
    config, _ = load_run_config(options.config, overrides)
    release = prepare_stage(config, options.work, lambda step, share: None)
    teacher = load_model(StorageDir(release.parent).weights)[0].eval()
    data = load_dataset(config.dataset, seed=config.seed)
    x, y = data.test.tensors()
    eps = config.threat.eps
    attack = AttackConfig(steps=20, step_size=eps / 8)
    rows = read_rows(ROWS)
    for seed in range(options.seeds):
        for student in options.students:
            recipe = config.students[student]
            recipe = recipe.model_copy(update={"num_views": options.views})
            own = {
                "dataset": data.name,
                "student": recipe.model,
                "num_views": options.views,
                "shift": options.shift,
                "seed": seed,
            }
            if any(own.items() <= row.items() for row in rows):
                continue
            row: Row = own | {
                "epochs": recipe.epochs,
                "attack": "pgd 20",
                "num_images": len(y),
                "eps": eps,
            }
            for name, model in (("shipped", None), ("live", teacher)):
                made = train(config, data, release, recipe, seed, model)
                found = robust_accuracy_pgd(made, x, y, attack=attack, eps=eps, seed=0)
                row[f"{name}_robust_accuracy"] = found.accuracy
                row[f"{name}_clean_accuracy"] = clean_accuracy(made, x, y)
            rows.append(row)
            write_rows(ROWS, rows)
    _print_differences(rows)


def _print_differences(rows: list[Row]) -> None:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        place = (row["dataset"], row["student"], row["num_views"])
        groups.setdefault(place, []).append(row)
    for place, group in sorted(groups.items()):
        for kind in ("robust", "clean"):
            shipped = [100 * row[f"shipped_{kind}_accuracy"] for row in group]
            live = [100 * row[f"live_{kind}_accuracy"] for row in group]
            differences = [a - b for a, b in zip(shipped, live, strict=True)]
            error = stdev(differences) / math.sqrt(len(group)) if group[1:] else 0.0
            print(
                *place,
                f"{kind}: shipped {mean(shipped):.2f}, live {mean(live):.2f}, "
                f"difference {mean(differences):+.2f} +- {error:.2f} "
                f"(standard error), {len(group)} seeds",
            )


if __name__ == "__main__":
    main()
