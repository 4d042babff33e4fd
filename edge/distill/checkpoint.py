"""The state of an unfinished training on disk: one file, replaced atomically.

Safetensors with the `FitState` as JSON in its header. Resumed from it, a
training of so many epochs ends with the same student, bit for bit; one under a
CPU budget cannot, as its length is measured. Not here: what is in the tensors.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from common.durable import write_atomic
from common.tensor_file import encode_tensors, read_tensors
from edge.jobs.job import CurvePoint

_KEY = "takt.state"


class FitState(BaseModel):
    """Where a training stands, beside its tensors."""

    model_config = ConfigDict(extra="forbid")

    identity: str  # of the job: a checkpoint of another one is not taken up
    attempt: int = 0  # 1: started again after a collapse
    epoch: int = 0  # done, all attempts
    step: int = 0  # done, in this attempt
    milestone: int = 0  # the last one passed
    distil_s: float = 0.0  # CPU-seconds, all attempts
    attack_s: float = 0.0
    evaluate_s: float = 0.0
    attempt_began_s: float = 0.0  # of distil_s
    attempt_began_epoch: int = 0
    doublings: int = 0  # of the attack's steps, see safeguard.py
    has_parted: bool = False  # that attack from a strong one, at the last milestone
    best_epoch: int = 0  # 0: none yet
    best_robust: float = -1.0
    last_robust: float = -1.0
    curve: list[CurvePoint] = []

    def retry(self) -> None:
        """Begin the next attempt; what was spent stays spent."""
        self.attempt += 1
        self.attempt_began_s, self.attempt_began_epoch = self.distil_s, self.epoch
        self.step = self.milestone = self.best_epoch = 0
        self.best_robust = self.last_robust = -1.0


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: FitState) -> None:
    """Replace the checkpoint.

    Raises:
        StorageError: it cannot be written; the old one is as it was.
    """
    data = encode_tensors(tensors, _KEY, state.model_dump(mode="json"))
    write_atomic(path, data, point="child.checkpoint")


def load_checkpoint(
    path: Path, identity: str
) -> tuple[dict[str, Tensor], FitState] | None:
    """Read the checkpoint of this job; None when there is none that can be used.

    A missing, damaged or foreign checkpoint costs time, never the student: the
    training then begins anew.
    """
    try:
        note, tensors = read_tensors(path, _KEY)
        state = FitState.model_validate(note)
    except (OSError, ValueError):
        return None
    return (tensors, state) if state.identity == identity else None
