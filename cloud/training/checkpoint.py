"""The state of a training between two epochs, and its file.

safetensors with the few numbers as JSON in the header; nothing is unpickled. No
random state is kept: an epoch draws from generators seeded by (seed, epoch,
rank). Not here: what the tensors mean (teacher.py).
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.durable import write_atomic
from common.errors import StorageError, one_line
from common.tensor_file import encode_tensors, read_tensors

_FILE, _KEY = "teacher-state.safetensors", "state"


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
    # Copies: parts of the state may share tensors, which a file cannot express.
    tensors = {
        name: value.detach().cpu().clone() for name, value in state.tensors.items()
    }
    write_atomic(folder / _FILE, encode_tensors(tensors, _KEY, numbers))


def load_checkpoint(folder: Path) -> TrainingState:
    """Read what `save_checkpoint` wrote.

    Raises:
        StorageError: the file is missing or damaged.
    """
    path = folder / _FILE
    try:
        numbers, tensors = read_tensors(path, _KEY)
        return TrainingState(
            epoch=numbers["epoch"],
            best_epoch=numbers["best_epoch"],
            best_score=numbers["best_score"],
            cpu_s=numbers["cpu_s"],
            tensors=tensors,
        )
    except (OSError, KeyError, ValueError) as e:
        reason = one_line(e, 160)
        raise StorageError(
            f"checkpoint {path} is missing or damaged: {reason}; remove the "
            "checkpoints folder to start again"
        ) from e
