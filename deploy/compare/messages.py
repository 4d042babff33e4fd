"""What `takt compare` and its worker processes exchange: jobs, updates, rows.

Free of torch: compare itself needs none while its workers train. Not here: doing a
job (worker.py), the fields of a row (rows.py).
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from common.config import RunConfig, StudentConfig
from deploy.compare.rows import Row


class Message(BaseModel):
    """One JSON object between compare and a worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RowJob(Message):
    """One student to train and measure."""

    release_dir: Path  # see teacher.py
    config: RunConfig  # of the run: its images, and which of them the teacher has
    student: str
    method: str  # the recipe's, or SHIPPED of grid.py
    recipe: StudentConfig
    temperature: float  # of the soft labels
    seed: int
    cpu_budget_s: float
    budget: str
    tuned: bool
    num_images: int
    digest: str  # of all that decides the row
    start: "RowJob | None" = None  # the shipped student that it begins with


def starts_of(jobs: Iterable[RowJob]) -> dict[str, RowJob]:
    """Collect the shipped students that some begin with, by their digest."""
    return {job.start.digest: job.start for job in jobs if job.start is not None}


class GroupJob(Message):
    """Students of one data set, whose trainings are interleaved."""

    jobs: tuple[RowJob, ...]
    trained: Path  # keeps those that are trained, until they are measured


class WorkerUpdate(Message):
    """How far a group is, one of its rows, or the error that ended it."""

    step: str = ""
    share: float = 0.0
    row: Row | None = None
    error_code: int = 0
    error: str = ""
