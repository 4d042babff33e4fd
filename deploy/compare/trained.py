"""Students of `takt compare` that are trained and not measured yet, on disk.

AutoAttack takes longer than a training. A compare that is cut meanwhile goes on with
measuring, from the last batch of an attack on, and what was trained interleaved stays
together: trained again later, on a machine that is busier by then, a student would not
compare with the others. So do the checkpoints of one that is cut while it trains. Not
here: training (training.py), measuring (worker.py).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from common.durable import storing, write_atomic
from common.errors import StorageError
from common.models.card import ModelCard

if TYPE_CHECKING:
    from torch import nn


class TrainingSummary(BaseModel):
    """What a row needs to know of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher_sha256: str  # of the release that was there
    epochs: int
    cpu_s: float
    attack_cpu_s: float
    val_robust_accuracy: float | None
    flags: tuple[str, ...]
    trained_with: tuple[str, ...]
    live_bytes: int = 0  # exchanged with a live teacher
    teacher_cpu_s: float | None = None  # that one's; None: there is none


class TrainedStudents:
    """A folder of students, by the digest of their rows."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; the first `save` makes it."""
        self.folder = folder

    def save(
        self, digest: str, model: "nn.Module", card: ModelCard, summary: TrainingSummary
    ) -> None:
        """Write a student.

        Raises:
            StorageError: the folder cannot be written.
        """
        from common.models.files import save_model

        weights, summary_file = self._paths(digest)
        save_model(weights, model, card)
        write_atomic(summary_file, summary.model_dump_json().encode())
        with storing(checkpoint := self.checkpoint(digest)):
            checkpoint.unlink(missing_ok=True)

    def load(
        self, digest: str, teacher_sha256: str
    ) -> "tuple[nn.Module, TrainingSummary] | None":
        """Read a student; None: there is none of this teacher, or it is damaged."""
        from common.models.files import load_model

        weights, summary_file = self._paths(digest)
        try:
            summary = TrainingSummary.model_validate_json(summary_file.read_bytes())
            model, _ = load_model(weights)
        except (OSError, ValidationError, StorageError):
            return None
        return (model, summary) if summary.teacher_sha256 == teacher_sha256 else None

    def drop(self, digest: str) -> None:
        """Delete a student whose row is written."""
        for path in (*self._paths(digest), self.attack(digest)):
            path.unlink(missing_ok=True)

    def attack(self, digest: str) -> Path:
        """Name the file that keeps how far AutoAttack is with a student."""
        return (self.folder / digest).with_suffix(".autoattack")

    def checkpoint(self, digest: str) -> Path:
        """Name the file of a student that is not trained to its end.

        `save` deletes it.
        """
        return (self.folder / digest).with_suffix(".checkpoint")

    def _paths(self, digest: str) -> tuple[Path, Path]:
        """Name the files of weights and summary; the latter comes last."""
        stem = self.folder / digest
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")
