"""Whether saved students are as robust as AutoAttack says: other attacks, and limits.

    .venv/bin/python tests/bench/sanity.py TEACHER STUDENT... [--images 200]

Files of takt's models, of one data set (a run leaves teacher.safetensors and
students/). Of each student on the first test images, at the eps of its card:

    autoattack   standard; nothing below may break more images
    pgd          100 steps, 5 restarts
    transfer     100 PGD steps on the teacher, its examples shown to the student
    loss         mean cross-entropy after more and more steps, which has to rise
    unbounded    100 PGD steps within an eps of 1, which have to break every image

What falls short is said, and makes the exit code 1 (Carlini et al., "On Evaluating
Adversarial Robustness", 2019). Figures go to results/sanity.json. Not here: the flags
that every evaluation carries (common/robustness/sanity.py).
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rows import write_rows
from torch import Tensor, nn

from common.config import AttackConfig, DatasetConfig
from common.data.datasets import load_dataset
from common.models.card import ModelCard
from common.models.files import load_model
from common.robustness.attacks import cross_entropy, pgd
from common.robustness.evaluate import autoattack, predict, robust_accuracy_pgd

ROWS = Path(__file__).parent / "results" / "sanity.json"
STEPS = (1, 2, 5, 10, 20, 50, 100)
SLACK = 0.002  # of the loss, relative: steps of the sign do not rise to the last bit


def test_images(
    card: ModelCard, count: int, data_dir: str | None
) -> tuple[Tensor, ...]:
    """Read the first test images of a model's data set."""
    tree = {"name": card.dataset, "data_dir": data_dir, "limit": card.limit}
    settings = DatasetConfig.model_validate(tree | {"val_fraction": card.val_fraction})
    x, y = load_dataset(settings, seed=card.seed).test.tensors()
    return x[:count], y[:count]


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int
) -> Tensor:
    """Run PGD from the images themselves, in steps that cross the ball twice."""
    size = max(2 * eps / steps, eps / 20)
    return pgd(model, x, y, eps=eps, step_size=size, steps=steps, random_start=False)


def examine(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, eps: float
) -> dict[str, Any]:
    """Measure one student."""
    found = autoattack(student, x, y, eps=eps, seed=0)
    strong = AttackConfig(steps=100, step_size=eps / 10, restarts=5)
    transferred = attacked(teacher, x, y, eps=eps, steps=100)
    everything = attacked(student, x, y, eps=1.0, steps=100)
    with torch.no_grad():
        losses = [
            float(cross_entropy(student(x_adv), y).mean())
            for x_adv in (attacked(student, x, y, eps=eps, steps=n) for n in STEPS)
        ]
    return {
        "autoattack": found.accuracy,
        "flags": list(found.flags),
        "pgd": robust_accuracy_pgd(
            student, x, y, attack=strong, eps=eps, seed=0
        ).accuracy,
        "transfer": _accuracy(student, transferred, y),
        "unbounded": _accuracy(student, everything, y),
        "loss": dict(zip(map(str, STEPS), losses, strict=True)),
    }


def complaints(row: dict[str, Any]) -> list[str]:
    """Say what speaks against a student's figure."""
    losses = list(row["loss"].values())
    rises = all(b >= a * (1 - SLACK) for a, b in pairwise(losses))
    return [
        *(
            f"{name} leaves {row[name]:.3f}, AutoAttack {row['autoattack']:.3f}"
            for name in ("pgd", "transfer")
            if row[name] < row["autoattack"]
        ),
        *([] if rises else ["the loss does not rise with the steps"]),
        *([] if row["unbounded"] == 0 else [f"eps 1 leaves {row['unbounded']:.3f}"]),
    ]


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((predict(model, x, len(x)) == y).double().mean())


def main() -> int:
    """Examine students; the exit code is 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("students", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher, _ = load_model(options.teacher)
    rows = []
    for path in options.students:
        student, card = load_model(path)
        x, y = test_images(card, options.images, options.data_dir)
        row = examine(student.eval(), teacher.eval(), x, y, card.eps)
        about: dict[str, Any] = {
            "dataset": card.dataset,
            "student": card.architecture,
            "method": card.method,
            "eps": card.eps,
            "num_images": len(x),
        }
        rows.append(about | row | {"complaints": complaints(row)})
        print(path.stem, *(rows[-1]["complaints"] or ["nothing speaks against it"]))
    write_rows(ROWS, rows)
    return int(any(row["complaints"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
