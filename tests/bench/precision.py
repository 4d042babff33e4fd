"""Bytes of knowledge against robust accuracy: precisions of labels and of deltas.

    .venv/bin/python tests/bench/precision.py digits-same tiny small --seeds 0 1 2 3 4

For one teacher: its logits and deltas are encoded at each precision (precisions.py)
and decoded again, and the same student is trained on each for the same epochs: the
config's takt recipe, the same seed, so the same weights, order and noise to begin
with. Deltas are of that precision in the student's memory as well. Measured with
AutoAttack standard on test images, by which nothing is chosen here. The rows go to
results/precision.json as they come; what is there is not made again.
precision_table.py writes the page's table from them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from precisions import (
    DELTAS,
    LABELS,
    Floats,
    decode_deltas,
    decode_labels,
    encode_deltas,
    encode_labels,
)
from rows import read_rows, robustness, write_rows
from torch import Tensor

from cloud.storage import StorageDir
from common.config import RunConfig
from common.data.datasets import Dataset, load_dataset
from common.models.files import load_model
from common.models.zoo import num_parameters
from common.release import Arrays, encode_shard
from common.robustness.attacks import pgd
from common.robustness.evaluate import autoattack, clean_accuracy
from deploy.compare.teacher import prepare_stage
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.delta_memory import DeltaMemory
from edge.distill.fitting.training import Training
from edge.distill.knowledge import Knowledge
from edge.distill.task import Task

ROWS = Path(__file__).parent / "results" / "precision.json"
EPOCHS = {"digits": 80, "mnist": 26}  # by data set
BLOCK = 256

# Labels at 1-bit deltas, deltas at int8 labels, and what neither brings.
PAIRS = (
    *((labels, "1 bit") for labels in LABELS),
    *(("int8", deltas) for deltas in DELTAS if deltas != "1 bit"),
    ("none", "none"),
)


class TeacherOutput(NamedTuple):
    """A teacher's logits and deltas of the training images, in full precision."""

    data: Dataset
    logits: Floats  # (N, K)
    delta: Floats  # (N, C, H, W)


class PreciseMemory(DeltaMemory):
    """Deltas of a student, kept at some precision; see precisions.py."""

    def __init__(self, delta: Tensor, eps: float, kind: str) -> None:
        """Begin with deltas (N, C, H, W)."""
        self._delta, self._eps, self._kind = delta, eps, kind
        self._now = eps

    def recall(
        self, positions: Tensor, eps: float, index: Tensor | None = None
    ) -> Tensor:
        """Return the deltas of some samples at the eps of now."""
        self._now = eps
        return self._delta[positions] * (eps / self._eps)

    def keep(
        self, positions: Tensor, delta: Tensor, x: Tensor, index: Tensor | None = None
    ) -> None:
        """Store deltas of the eps that `recall` was last asked for."""
        grown = (delta * (self._eps / self._now)).numpy()
        arrays = encode_deltas(grown, self._eps, self._kind)
        shape = (x.shape[1], x.shape[2], x.shape[3])
        kept = decode_deltas(arrays, shape, self._eps, self._kind)
        self._delta[positions] = torch.from_numpy(kept)


def ask_teacher(config: RunConfig, work: Path) -> TeacherOutput:
    """Compute a teacher's logits and deltas; it is trained if there is none yet."""
    release = prepare_stage(config, work, lambda step, share: None)
    model, _ = load_model(StorageDir(release.parent).weights)
    data = load_dataset(config.dataset, seed=config.seed)
    x, y = data.train.tensors()
    attack, eps = config.knowledge.attack, config.threat.eps
    logits, deltas = [], []
    for first in range(0, len(x), BLOCK):
        part = x[first : first + BLOCK]
        x_adv = pgd(
            model.eval(),
            part,
            y[first : first + BLOCK],
            eps=eps,
            step_size=attack.step_size,
            steps=attack.steps,
            random_start=attack.random_start,
            generator=torch.Generator().manual_seed(first),
        )
        with torch.no_grad():
            logits.append(model(part).numpy())
        deltas.append((x_adv - part).numpy())
    return TeacherOutput(data, np.concatenate(logits), np.concatenate(deltas))


def train(
    output: TeacherOutput,
    config: RunConfig,
    student: str,
    labels: str,
    deltas: str,
    seed: int,
) -> dict[str, Any]:
    """Train one student and measure it: a row."""
    dataset, eps = config.dataset.name, config.threat.eps
    temperature = config.knowledge.temperature
    data = output.data
    of_labels = encode_labels(output.logits, labels, temperature)
    of_deltas = encode_deltas(output.delta, eps, deltas)
    soft = decode_labels(
        of_labels, labels, temperature, data.train.labels, data.num_classes
    )
    recipe = config.students[student].model_copy(update={"epochs": EPOCHS[dataset]})

    class OfPrecision(Training):
        """A training whose memory of deltas is of the precision of the shipped ones."""

        def begin(self) -> None:
            super().begin()
            if deltas in ("int8", "2 bit"):
                start = decode_deltas(of_deltas, data.sample_shape, eps, deltas)
                self.memory = PreciseMemory(torch.from_numpy(start), eps, deltas)

    training = OfPrecision(
        recipe,
        Task(
            train=Images.of(data.train),
            val=Images.of(data.val),
            knowledge=Knowledge(
                temperature=temperature,
                soft_labels=torch.from_numpy(soft),
                delta_signs=of_deltas.get("delta_signs"),
            ),
            num_classes=data.num_classes,
            eps=eps,
            seed=seed,
        ),
        clock=lambda: 0.0,
    )
    while training.progress() < 1:
        training.epoch(lambda: False)
    model = training.learner.student()
    x, y = data.test.tensors()
    count = min(len(x), 500)
    found = autoattack(model, x[:count], y[:count], eps=eps, seed=0)
    return {
        "dataset": dataset,
        "student": recipe.model,
        "num_parameters": num_parameters(model),
        "labels": labels,
        "deltas": deltas,
        "seed": seed,
        "label_bytes": _bytes(of_labels, len(soft)),
        "delta_bytes": _bytes(of_deltas, len(soft)),
        "epochs": recipe.epochs,
        "clean_accuracy": clean_accuracy(model, x, y),
        **robustness(found),
        "val_robust_accuracy": training.state.last_robust,
        "flags": [*found.flags, *(["retried"] if training.state.attempt else [])],
    }


def _bytes(arrays: Arrays, num_samples: int) -> float:
    """Count what a sample costs in a shard of these tensors, header included."""
    return round(len(encode_shard(arrays)) / num_samples, 3) if arrays else 0.0


def missing(
    rows: list[dict[str, Any]], dataset: str, students: list[str], seeds: list[int]
) -> Iterator[tuple[str, str, str, int]]:
    """List the students to train, a seed after the other."""
    names = ("dataset", "student", "labels", "deltas", "seed")
    done = {tuple(row[name] for name in names) for row in rows}
    for seed in seeds:
        for student in students:
            for labels, deltas in PAIRS:
                if (dataset, f"cnn_{student}", labels, deltas, seed) not in done:
                    yield student, labels, deltas, seed


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", choices=["digits-same", "mnist"])
    parser.add_argument("students", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=Path("runs/compare/work"))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides = {"dataset.data_dir": options.data_dir} if options.data_dir else {}
    config, _ = load_run_config(options.config, overrides)
    output = ask_teacher(config, options.work)
    rows = read_rows(ROWS)
    for job in missing(rows, config.dataset.name, options.students, options.seeds):
        student, labels, deltas, seed = job
        rows.append(train(output, config, student, labels, deltas, seed))
        write_rows(ROWS, rows)
        print(*job, rows[-1]["robust_accuracy"], flush=True)


if __name__ == "__main__":
    main()
