"""Students of `takt compare` that are trained and not measured yet, on disk.

AutoAttack takes longer than a training. A compare that is cut meanwhile goes on with
measuring, and what trained in turns stays together: trained again later, on a machine
that is busier by then, a student would not compare with those it began with. Not here:
training and measuring (compare_worker.py).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from common.durable import write_atomic

if TYPE_CHECKING:
    from torch import nn

_KEY = "takt.trained"


class Story(BaseModel):
    """What a row says of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str  # architecture
    sample_shape: tuple[int, int, int]  # (C, H, W)
    num_classes: int
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

    def save(self, identity: str, model: "nn.Module", story: Story) -> None:
        """Keep a student.

        Raises:
            StorageError: the folder cannot be written.
        """
        import safetensors.torch

        tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
        data = safetensors.torch.save(tensors, {_KEY: story.model_dump_json()})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(identity), data)

    def load(
        self, identity: str, teacher_sha256: str
    ) -> "tuple[nn.Module, Story] | None":
        """Take up a student; None: there is none, of this teacher, or a damaged one."""
        import safetensors

        from common.models import build_model

        path = self._path(identity)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                story = Story.model_validate_json(file.metadata()[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if story.teacher_sha256 != teacher_sha256:
                return None
            channels, size, _ = story.sample_shape
            model = build_model(
                story.model,
                in_channels=channels,
                image_size=size,
                num_classes=story.num_classes,
            )
            model.load_state_dict(tensors)
        except (
            OSError,
            KeyError,
            TypeError,
            RuntimeError,
            ValidationError,
            safetensors.SafetensorError,
        ):
            return None
        return model.eval(), story

    def drop(self, identity: str) -> None:
        """Forget a student, whose row is written."""
        self._path(identity).unlink(missing_ok=True)

    def _path(self, identity: str) -> Path:
        return self.folder / f"{identity}.safetensors"
