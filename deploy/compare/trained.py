"""Students of `takt compare` that are trained and not measured yet, on disk.

AutoAttack takes longer than a training. A compare that is cut meanwhile goes on with
measuring, and what trained in turns stays together: trained again later, on a machine
that is busier by then, a student would not compare with those it began with. Not here:
training and measuring (worker.py).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from common.durable import write_atomic
from common.errors import StorageError
from common.models.card import ModelCard

if TYPE_CHECKING:
    from torch import nn


class Story(BaseModel):
    """What a row says of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher_sha256: str  # of the release that was there
    epochs: int
    cpu_s: float
    attack_cpu_s: float
    val_robust_accuracy: float | None
    flags: tuple[str, ...]
    trained_with: tuple[str, ...]
    live_bytes: int = 0  # exchanged with a live teacher
    teacher_cpu_s: float | None = None  # that one's; None: not asked


class TrainedStudents:
    """A folder of students, by the identity of the row each will be."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; the first `save` makes it."""
        self.folder = folder

    def save(
        self, identity: str, model: "nn.Module", card: ModelCard, story: Story
    ) -> None:
        """Keep a student.

        Raises:
            StorageError: the folder cannot be written.
        """
        from common.models.files import save_model

        weights, told = self._paths(identity)
        save_model(weights, model, card)
        write_atomic(told, story.model_dump_json().encode())

    def load(
        self, identity: str, teacher_sha256: str
    ) -> "tuple[nn.Module, Story] | None":
        """Take up a student; None: there is none, of this teacher, or a damaged one."""
        from common.models.files import load_model

        weights, told = self._paths(identity)
        try:
            story = Story.model_validate_json(told.read_bytes())
            model, _ = load_model(weights)
        except (OSError, ValidationError, StorageError):
            return None
        return (model, story) if story.teacher_sha256 == teacher_sha256 else None

    def drop(self, identity: str) -> None:
        """Forget a student, whose row is written."""
        for path in self._paths(identity):
            path.unlink(missing_ok=True)

    def _paths(self, identity: str) -> tuple[Path, Path]:
        """Name the files of weights and story; the latter comes last."""
        stem = self.folder / identity
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")
