"""The state of an unfinished training on disk: one file, replaced atomically.

Safetensors with the `FitState` as JSON in its header. Resumed from it, a
training of so many epochs ends with the same student, bit for bit; one under a
CPU budget cannot, as its length is measured. Not here: what is in the tensors.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from common.durable import write_atomic
from common.report_bounds import MAX_CURVE
from common.tensor_file import encode_tensors, read_tensors
from edge.jobs.job import EpochPoint

_KEY = "takt.state"
# Of a curve's points, at most: those with accuracies, which two attempts may measure at
# sixteen milestones each, and the newest.
_ALWAYS_KEPT = 64


class FitState(BaseModel):
    """Where a training stands, beside its tensors."""

    model_config = ConfigDict(extra="forbid")

    attempt: int = 0  # 1: started again after a collapse
    epoch: int = 0  # done, all attempts
    step: int = 0  # done, in this attempt
    milestone: int = 0  # the last one passed
    distil_s: float = 0.0  # CPU-seconds, all attempts
    attack_s: float = 0.0
    evaluate_s: float = 0.0
    attempt_began_s: float = 0.0  # of distil_s
    attempt_began_epoch: int = 0
    doublings: int = 0  # of the attack's steps, see overfitting.py
    was_overfitted: bool = False  # at the last milestone, to the attack of then
    best_epoch: int = 0  # 0: none yet
    best_robust: float = -1.0
    last_robust: float = -1.0
    curve: list[EpochPoint] = []

    def add(self, point: EpochPoint) -> None:
        """Add an epoch to the curve, which keeps to what a report may hold.

        Of long trainings every second epoch is kept, of longer ones every fourth, and
        so on; and all those with accuracies, and the newest.
        """
        every = 1
        while point.epoch > every * (MAX_CURVE - _ALWAYS_KEPT):
            every *= 2
        if every > 1:
            self.curve = [
                p
                for p in self.curve
                if (p.epoch - 1) % every == 0 or p.clean_accuracy is not None
            ]
        self.curve.append(point)

    def retry(self) -> None:
        """Begin the next attempt; the time spent so far still counts."""
        self.attempt += 1
        self.attempt_began_s, self.attempt_began_epoch = self.distil_s, self.epoch
        self.step = self.milestone = self.best_epoch = 0
        self.best_robust = self.last_robust = -1.0


class CheckpointFile:
    """The checkpoint of one job."""

    def __init__(self, path: Path, job_digest: str = "") -> None:
        """Name the file; `job_digest` is of all that the checkpoint depends on."""
        self._path = path
        self._job_digest = job_digest

    def save(self, tensors: dict[str, Tensor], state: FitState) -> None:
        """Replace the checkpoint.

        Raises:
            StorageError: it cannot be written; the old one is as it was.
        """
        note = {"job": self._job_digest, "state": state.model_dump(mode="json")}
        data = encode_tensors(tensors, _KEY, note)
        write_atomic(self._path, data, point="child.checkpoint")

    def load(self) -> tuple[dict[str, Tensor], FitState] | None:
        """Read the checkpoint; None: there is none of this job that can be used.

        With a missing or damaged checkpoint, or one of another job, the training
        begins anew: that costs time only.
        """
        try:
            note, tensors = read_tensors(self._path, _KEY)
            if note["job"] != self._job_digest:
                return None
            state = FitState.model_validate(note["state"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return tensors, state
