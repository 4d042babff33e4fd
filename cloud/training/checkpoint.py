"""The state of a training between two epochs, and its file.

safetensors with the few numbers as JSON in the header; nothing is unpickled. No
random state is kept: an epoch draws from generators seeded by (seed, epoch,
rank). Not here: what the tensors mean (teacher.py).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from common.durable import write_atomic
from common.errors import StorageError

_FILE = "teacher-state.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next epoch depends on.

    Attributes:
        epoch: epochs done.
        best_epoch: the one that is kept; 0 before any.
        best_score: the highest robust accuracy on the validation images.
        cpu_s: of rank 0, since the first epoch.
        tensors: named "<part>.<name>", for instance "model.head.weight".
    """

    epoch: int
    best_epoch: int
    best_score: float
    cpu_s: float
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """Take one part's tensors, without the prefix."""
        prefix = f"{name}."
        return {
            key[len(prefix) :]: value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Write a state into a folder, atomically.

    Raises:
        StorageError: the folder cannot be written.
    """
    numbers = {
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_score": state.best_score,
        "cpu_s": state.cpu_s,
    }
    tensors = {
        name: value.detach().cpu().clone().contiguous()
        for name, value in state.tensors.items()
    }
    data = safetensors.torch.save(tensors, {"state": json.dumps(numbers)})
    write_atomic(folder / _FILE, data)


def load_checkpoint(folder: Path) -> TrainingState:
    """Read what `save_checkpoint` wrote.

    Raises:
        StorageError: the file is missing or damaged.
    """
    path = folder / _FILE
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            numbers = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return TrainingState(
            epoch=numbers["epoch"],
            best_epoch=numbers["best_epoch"],
            best_score=numbers["best_score"],
            cpu_s=numbers["cpu_s"],
            tensors=tensors,
        )
    except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as e:
        reason = " ".join(str(e).split())[:160]
        raise StorageError(
            f"checkpoint {path} is missing or damaged: {reason}; remove the "
            "checkpoints folder to start again"
        ) from e
