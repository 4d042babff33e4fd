"""The guard against catastrophic overfitting: what it saves, and when it does nothing.

    .venv/bin/python tests/bench/safeguard.py [--data-dir DIR] [--seeds 3]

Trains students by PGD-AT with one step of eps from the image itself (FGSM), which
overfits catastrophically on images of enough pixels, with and without the guard
(edge.distill.fitting); and by the shipped recipes' attacks without a teacher
(warm_at), where it must not act. Robust accuracies are PGD-20 on test images (an
overfitted student has 0 % under it; no claim is made on how robust a saved one is).
Writes results/safeguard.json; rows that are there already are kept.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rows import read_rows, write_rows
from torch import Tensor
from torch.nn.functional import interpolate

from common.config import AttackConfig, DatasetConfig, StudentConfig
from common.data.datasets import load_dataset
from common.robustness.evaluate import robust_accuracy_pgd
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.fit import fit_student
from edge.distill.task import Task

RESULTS = Path(__file__).parent / "results" / "safeguard.json"
FGSM = StudentConfig(
    model="cnn_small",
    method="pgd_at",
    attack=AttackConfig(steps=1, step_size=0.2, random_start=False),
    epochs=15,
    batch_size=128,
    learning_rate=0.4,
    eps_warmup_epochs=3,
)


def enlarged(x: Tensor) -> Tensor:
    """Magnify uint8 digits (N, 1, 8, 8) three times: more pixels, the same task."""
    return interpolate(x.float(), scale_factor=3, mode="bilinear").round().byte()


def cases(
    data_dir: Path | None,
) -> dict[str, tuple[DatasetConfig, StudentConfig, float]]:
    """List data, recipe and eps of each case by name."""
    digits = DatasetConfig()
    found = {
        f"digits enlarged, FGSM, eps {eps}": (
            digits,
            FGSM.model_copy(
                update={"attack": FGSM.attack.model_copy(update={"step_size": eps})}
            ),
            eps,
        )
        for eps in (0.2, 0.25)
    }
    if data_dir is not None:
        attack = FGSM.attack.model_copy(update={"step_size": 0.3})
        recipe = FGSM.model_copy(
            update={"attack": attack, "learning_rate": 0.3, "eps_warmup_epochs": 2}
        )
        mnist = DatasetConfig(name="mnist", data_dir=data_dir, limit=4000)
        found["mnist, FGSM, eps 0.3"] = (mnist, recipe, 0.3)
    for name in ("digits-same", "mnist") if data_dir else ("digits-same",):
        config, _ = load_run_config(name)
        data = config.dataset.model_copy(update={"data_dir": data_dir})
        for student, recipe in config.students.items():
            own = recipe.model_copy(update={"method": "warm_at"})
            case = f"{data.name} {student}, as shipped"
            found[case] = (data, own, config.threat.eps)
    return found


def row(
    name: str,
    data: DatasetConfig,
    recipe: StudentConfig,
    eps: float,
    seed: int,
    safeguard: bool,
) -> dict[str, Any]:
    """Train one student and measure it."""
    dataset = load_dataset(data, seed=0)
    train, val, test = (
        Images.of(s) for s in (dataset.train, dataset.val, dataset.test)
    )
    if "enlarged" in name:
        train, val, test = (Images(enlarged(i.x), i.y) for i in (train, val, test))
    task = Task(
        train=train,
        val=val,
        num_classes=10,
        eps=eps,
        seed=seed,
        guard_overfitting=safeguard,
    )
    done = fit_student(recipe, task)
    x, y = test.batch(torch.arange(min(len(test.y), 500)))
    attack = AttackConfig(steps=20, step_size=eps / 8)
    found = robust_accuracy_pgd(done.model, x, y, attack=attack, eps=eps, seed=0)
    watched = [p.robust_accuracy for p in done.curve if p.robust_accuracy is not None]
    return {
        "case": name,
        "seed": seed,
        "safeguard": safeguard,
        "flags": list(done.flags),
        "watched": [round(v, 3) for v in watched],  # PGD-5, validation images
        "robust_accuracy": found.accuracy,
        "attack": "pgd-20",
        "num_images": len(y),
        "eps": eps,
        "best_epoch": done.best_epoch,
        "epochs": done.epochs,
        "cpu_s": round(done.cpu_s.distil, 2),
        "watching_cpu_s": round(done.cpu_s.evaluate, 2),
    }


def main() -> None:
    """Make the rows that are missing; print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(RESULTS)
    there = {(r["case"], r["seed"], r["safeguard"]) for r in rows}
    for name, (data, recipe, eps) in cases(options.data_dir).items():
        for seed in range(options.seeds):
            for safeguard in (True,) if "shipped" in name else (False, True):
                if (name, seed, safeguard) in there:
                    continue
                made = row(name, data, recipe, eps, seed, safeguard)
                rows.append(made)
                write_rows(RESULTS, rows)
                print(
                    f"{name}, seed {seed}, safeguard {'on' if safeguard else 'off'}: "
                    f"last {made['watched'][-1]:.2f}, PGD-20 of the student handed out "
                    f"{made['robust_accuracy']:.3f}, {made['flags']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
