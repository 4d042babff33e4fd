"""What the daemon and its distillation child exchange: a job, and its result.

The daemon writes a `DistilJob` and starts ``python -m edge.distill JOB.json``
inside the caps; the child leaves, in the job's work folder:

    checkpoint.safetensors   at each milestone; a restarted child goes on from it
    progress.jsonl           one `EpochPoint` a line, an epoch a line
    student.safetensors      the student with its model card
    outcome.json             a `DistilResult`, written last

Torch-free, as the daemon is. Not here: the training (edge.distill.run), the caps.
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config import DatasetConfig, OwnImagesConfig, ProfileConfig
from common.errors import StorageError, one_line
from common.records import CpuSeconds, CurvePoint, Evaluation

CHECKPOINT = "checkpoint.safetensors"
PROGRESS = "progress.jsonl"
RESULT = "outcome.json"
_ROUNDING = 1e-9  # of differences of fractions


class Message(BaseModel):
    """One JSON file between daemon and child: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LiveLink(Message):
    """How a child reaches the live teacher: as its node, under its node's caps."""

    gateway: str  # host:port
    identity_dir: Path
    profile: ProfileConfig | None  # its bandwidth and delay; None: no limits
    deadline_s: float = Field(gt=0)
    stall_s: float = Field(gt=0)
    proxy: str | None = None  # the key of edge.toml


class DistilJob(Message):
    """One student to distil from one pulled release."""

    release_dir: Path  # manifest.json and the shards under their file names
    student: str = Field(min_length=1)  # a recipe of the manifest
    dataset: DatasetConfig  # the node's own: only name and data_dir are used
    work_dir: Path
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1)
    batch_size: int | None = Field(default=None, ge=2)  # None: the recipe's
    cpu_budget_s: float | None = Field(default=None, gt=0)  # None: the recipe's epochs
    # For a method that asks the live teacher, or own images that are shared with it.
    live: LiveLink | None = None
    own: OwnImagesConfig | None = None  # images of the node's own
    answers: Path | None = None  # keeps the teacher's answers about them
    # What a comparison leaves out: the teacher (its labels; the release's images have
    # their true ones), or the release as a whole (own images alone).
    without: Literal["", "teacher", "release"] = ""
    # Robust accuracy on the release's images that training may lose of the starting
    # weights'; where it loses more, these are the student.
    max_forgetting: float = Field(default=0.02, ge=0, le=1)
    serving: Path | None = None  # the student that serves: measured on the same images


class EpochPoint(CurvePoint):
    """A curve's newest point, and how many epochs there will be."""

    epochs: int = Field(ge=1)  # an estimate while a CPU budget is running


class RobustAccuracies(Message):
    """Robust accuracies of another student on the same images as the new one's.

    Of the release's starting weights before any training, or of the one that serves.
    """

    own_robust: float | None = None  # on the node's own validation images
    release_robust: float | None = None  # on the release's


def has_forgotten(
    before: float | None, now: float | None, max_forgetting: float
) -> bool:
    """Tell whether more robust accuracy on the release's images is lost than may be.

    Args:
        before: a fraction; None: not measured, like `now`, and nothing is lost.
        now: the same of the newer student.
        max_forgetting: of the difference.
    """
    if before is None or now is None:
        return False
    return before - now > max_forgetting + _ROUNDING


class DistilResult(Message):
    """What came of a job; the student itself is in a file beside it."""

    student: str
    architecture: str
    num_parameters: int
    method: str
    seed: int
    batch_size: int
    epochs: int  # trained
    best_epoch: int  # whose weights were kept
    clean_accuracy: float  # on the node's whole validation split
    robust: tuple[Evaluation, ...]  # PGD on the node's validation split
    curve: tuple[EpochPoint, ...]
    cpu_s: CpuSeconds
    live_bytes: int = Field(default=0, ge=0)  # exchanged with the live teacher
    # "collapsed": one constant class, never to be promoted; "as_shipped": the release's
    # starting weights, which training did not improve.
    flags: tuple[str, ...] = ()
    own_images: int = Field(default=0, ge=0)  # of the node's own, trained on
    own_labelled: int = Field(default=0, ge=0)  # of which with labels
    # On the validation images of the release: against forgetting.
    release_clean_accuracy: float | None = None
    release_robust: tuple[Evaluation, ...] = ()
    # The starting weights as shipped, by the same measurements.
    shipped: RobustAccuracies | None = None
    serving: RobustAccuracies | None = None  # of the job's `serving`, likewise
    notes: tuple[str, ...] = ()  # what a user should know of the images, one line each
    weights_sha256: str  # of student.safetensors

    @property
    def collapsed(self) -> bool:
        """Whether the student predicts (nearly) always the same class."""
        return "collapsed" in self.flags


MessageT = TypeVar("MessageT", bound=Message)


def read_message(path: Path, model: type[MessageT]) -> MessageT:
    """Read a job or a result.

    Raises:
        StorageError: the file is missing, unreadable or not of that shape.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror or e}") from e
    except ValidationError as e:
        raise StorageError(
            f"{path} is not a {model.__name__}: {one_line(e)}; remove it"
        ) from e


def read_progress(path: Path) -> list[EpochPoint]:
    """Read the epochs so far; a missing file is none, a torn last line is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    points = []
    for line in lines[:-1]:  # what follows the last newline is still being written
        try:
            points.append(EpochPoint.model_validate_json(line))
        except ValidationError:
            break
    return points
