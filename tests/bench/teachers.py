"""Which teacher is the best for its students: candidates, by validation images.

    .venv/bin/python tests/bench/teachers.py CONFIG [--only NAME...] [--splits N]

Trains each candidate on each split, extracts its knowledge, distils students at
several temperatures of the soft labels, and measures all of them on the validation
images, by PGD-20 or, with --autoattack, by AutoAttack. Rows go to
results/teachers.json as they come; those that are there are not made again. Test
images are never touched.
"""

import argparse
import json
from pathlib import Path

import torch
from rows import read_rows, write_rows

from cloud.storage import StorageDir
from common.data.datasets import load_dataset
from deploy.compare.teacher import prepare_stage
from deploy.runtime.settings import load_run_config, parse_assignments
from deploy.selection.score import student_score, teacher_score
from edge.distill.knowledge import read_manifest

ROWS = Path(__file__).parent / "results" / "teachers.json"
SEEDS = (1001, 1002)  # of the students; no other comparison uses them

# What all begin with, whatever the config has taken over of them since.
TRADES = (
    'teacher.objective="trades"',
    "teacher.awp_gamma=0.0",
    "teacher.ema_decay=0.0",
)
BETA = {"digits-same": 6.0, "fashion-mnist": 6.0, "mnist": 3.0}
# What each has on top of that.
AWP, EMA = "teacher.awp_gamma=0.005", "teacher.ema_decay=0.99"
CANDIDATES: dict[str, dict[str, list[str]]] = {
    "digits-same": {
        "plain": [],
        "ema": [EMA],
        "awp-ema": [AWP, EMA],
        "beta3-ema": ["teacher.beta=3.0", EMA],
        "pgd-at-ls-ema": [
            'teacher.objective="pgd_at"',
            "teacher.label_smoothing=0.2",
            EMA,
        ],
        "mart-ema": ['teacher.objective="mart"', "teacher.beta=5.0", EMA],
        "shift-ema": ["teacher.shift=1", "teacher.epochs=36", EMA],
        "shift-awp-ema": ["teacher.shift=1", "teacher.epochs=36", AWP, EMA],
    },
    "fashion-mnist": {
        "plain": [],
        "awp-ema": [AWP, EMA],
        "beta3-awp-ema": ["teacher.beta=3.0", AWP, EMA],
        "flip-awp-ema": ["teacher.flip=true", "teacher.shift=1", AWP, EMA],
        "beta3-ema": ["teacher.beta=3.0", EMA],
        "pgd-at-ema": ['teacher.objective="pgd_at"', EMA],
        "flip-pgd-at-ema": [
            'teacher.objective="pgd_at"',
            "teacher.flip=true",
            "teacher.shift=1",
            EMA,
        ],
        "mart-ema": ['teacher.objective="mart"', "teacher.beta=5.0", EMA],
        "pgd-at-ls-ema": [
            'teacher.objective="pgd_at"',
            "teacher.label_smoothing=0.2",
            EMA,
        ],
    },
    "mnist": {
        "plain": [],
        "awp-ema": [AWP, EMA],
        "shift-awp-ema": ["teacher.shift=2", AWP, EMA],
        "pgd-at-ema": ['teacher.objective="pgd_at"', EMA],
    },
}
TEMPERATURES = {
    "digits-same": (0.5, 1.0),
    "fashion-mnist": (1.0, 0.5),
    "mnist": (1.0, 0.5),
}
# Students learn for so many times their config's epochs: as long as `compare`'s.
LONGER = {"digits-same": 2, "fashion-mnist": 1, "mnist": 1}


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", choices=sorted(CANDIDATES))
    parser.add_argument("--only", nargs="+", help="of the candidates")
    parser.add_argument("--splits", type=int, default=1, help="seeds 0 to N - 1")
    parser.add_argument("--autoattack", action="store_true", help="in PGD's place")
    parser.add_argument("--students", nargs="+", default=["tiny", "small"])
    parser.add_argument("--work", type=Path, default=Path("runs/teachers"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    candidates = CANDIDATES[options.config]
    for split in range(options.splits):
        for name in options.only or candidates:
            beta = f"teacher.beta={BETA[options.config]}"
            own = [*TRADES, beta, *candidates[name]]
            overrides = parse_assignments([*own, f"seed={split}"])
            if options.data_dir:
                overrides["dataset.data_dir"] = options.data_dir
            attack = "autoattack" if options.autoattack else "pgd20"
            add_rows(
                options.config, name, overrides, options.work, options.students, attack
            )


def add_rows(
    config_name: str,
    name: str,
    overrides: dict[str, object],
    work: Path,
    students: list[str],
    attack: str,
) -> None:
    """Make a candidate's missing rows on one split."""
    rows = read_rows(ROWS)
    config, _ = load_run_config(config_name, overrides)
    names = ("dataset", "candidate", "split", "student", "temperature", "attack")
    done = {tuple(row[key] for key in names) for row in rows}
    own_names = (config.dataset.name, name, overrides["seed"])
    wanted = [
        (student, temperature)
        for student in students
        for temperature in TEMPERATURES[config_name]
        if (*own_names, config.students[student].model, temperature, attack) not in done
    ]
    if not wanted:
        return
    release = prepare_stage(config, work, lambda step, share: None)
    dataset = load_dataset(config.dataset, seed=config.seed)
    own = teacher_score(
        StorageDir(release.parent).weights, dataset, eps=config.threat.eps
    )
    for student, temperature in wanted:
        recipe = config.students[student]
        longer = recipe.epochs * LONGER[config_name]
        found = student_score(
            recipe.model_copy(update={"epochs": longer}),
            read_manifest(release).model_copy(update={"temperature": temperature}),
            release,
            dataset,
            seeds=SEEDS,
            by_autoattack=attack == "autoattack",
        )
        rows.append(
            {
                "dataset": config.dataset.name,
                "candidate": name,
                "changes": {
                    key: value
                    for key, value in overrides.items()
                    if key.startswith("teacher.")
                },
                "split": overrides["seed"],
                "num_val": len(dataset.val),
                "teacher_clean": own.clean_accuracy,
                "teacher_pgd20": own.robust_accuracy,
                "student": recipe.model,
                "temperature": temperature,
                "student_seeds": list(SEEDS),
                "student_clean": found.clean_accuracy,
                "attack": attack,
                "student_robust": found.robust_accuracy,
            }
        )
        write_rows(ROWS, rows)
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
