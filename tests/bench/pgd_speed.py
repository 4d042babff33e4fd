"""PGD steps a second: takt's attack beside torchattacks' and foolbox's.

    python -m venv VENV && VENV/bin/pip install -e . torchattacks foolbox
    OMP_NUM_THREADS=1 VENV/bin/python tests/bench/pgd_speed.py

Neither package is a dependency of takt. The same models, images and settings, 10 steps,
one thread, the three attacks in turns; medians of CPU-seconds, measured in one process.
takt's models are laid out as a node trains them (channels last), the others attack them
as they are built. The rows go to results/pgd_speed.json. Not here: how strong the
attacks are (tests/common compares them).
"""

import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rows import write_rows
from torch import Tensor, nn

from common.models.forward import channels_last
from common.models.zoo import build_model
from common.robustness.attacks import pgd

ROWS = Path(__file__).parent / "results" / "pgd_speed.json"
BATCH, STEPS, EPS, ROUNDS = 128, 10, 0.1, 5
CASES = (
    ("cnn_tiny", 1, 28),
    ("cnn_small", 1, 28),
    ("cnn_tiny", 3, 32),
    ("cnn_small", 3, 32),
)

Attack = Callable[[], object]


def attacks(name: str, channels: int, size: int) -> dict[str, Attack]:
    """Make an attack of each library on the same weights and images."""
    x = torch.rand(BATCH, channels, size, size)
    y = torch.arange(BATCH) % 10
    built = {"in_channels": channels, "image_size": size, "num_classes": 10}

    def model() -> nn.Module:
        torch.manual_seed(0)
        return build_model(name, **built).eval()

    own = channels_last(model(), name)
    for_torchattacks = import_module("torchattacks").PGD(
        model(), eps=EPS, alpha=EPS / 4, steps=STEPS, random_start=True
    )
    return {
        "takt": lambda: pgd(
            own, x, y, eps=EPS, step_size=EPS / 4, steps=STEPS, random_start=True
        ),
        "torchattacks": lambda: for_torchattacks(x, y),
        "foolbox": of_foolbox(model(), x, y),
    }


def of_foolbox(model: nn.Module, x: Tensor, y: Tensor) -> Attack:
    """Make foolbox's attack: the perturbation alone, as the others compute."""
    foolbox: Any = import_module("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(
        abs_stepsize=EPS / 4, steps=STEPS, random_start=True
    )
    criterion = foolbox.criteria.Misclassification(y)
    return lambda: attack.run(wrapped, x, criterion, epsilon=EPS)


def main() -> None:
    """Make a row for each model and library."""
    torch.set_num_threads(1)
    rows = []
    for name, channels, size in CASES:
        torch.manual_seed(1)
        chosen = attacks(name, channels, size)
        seconds: dict[str, list[float]] = {library: [] for library in chosen}
        for _ in range(ROUNDS):
            for library, attack in chosen.items():
                began = time.process_time()
                attack()
                seconds[library].append(time.process_time() - began)
        for library, values in seconds.items():
            row = {
                "model": name,
                "images": f"{channels}x{size}x{size}",
                "batch_size": BATCH,
                "library": library,
                "version": None if library == "takt" else version(library),
                "steps_per_cpu_s": round(STEPS / median(values), 1),
                "speed_of_takt": round(median(values) / median(seconds["takt"]), 2),
                "rounds": ROUNDS,
                "torch": torch.__version__,
            }
            rows.append(row)
            print(row, flush=True)
    write_rows(ROWS, rows)


if __name__ == "__main__":
    main()
