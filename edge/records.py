"""The small JSON records of a node's state folder.

Not here: where they lie and how they are written (edge/state.py).
"""

from pydantic import BaseModel, ConfigDict, Field

from common.release import Evaluation


class Record(BaseModel):
    """One JSON file of the state folder; fields of later takts are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CapStatus(Record):
    """Which method holds the caps, and whether firmly."""

    method: str
    hard: bool


class Status(Record):
    """What the daemon does now (status.json)."""

    node: str
    # Then idle, pulling, verifying, distilling, evaluating, promoting, backing-off or
    # stopped.
    state: str = "enrolled"
    version: int = 0  # of the release being worked on, or worked on last; 0: none
    progress: float = 0.0  # of that state's work, in [0, 1]
    message: str = ""
    student: str = ""  # name of the recipe
    epoch: int = 0
    epochs: int = 0
    cpu_s: float = 0.0  # of the distillation
    clean_accuracy: float | None = None  # on validation images, last measured
    robust_accuracy: float | None = None
    cap: CapStatus | None = None
    pulled_bytes: int = 0  # payload, since the daemon started
    peak_memory_mib: float = 0.0  # of the distillation
    outcome: str = ""  # of the last release: promoted, kept, refused, failed
    pid: int = 0
    time: float = 0.0  # seconds since 1970, UTC


class Promoted(Record):
    """A student that was good enough to serve (students/<version>/promoted.json)."""

    channel: str
    version: int
    student: str
    folder: str  # in students/
    weights_sha256: str
    dataset: str
    fingerprint: str
    eps: float
    clean_accuracy: float
    robust: tuple[Evaluation, ...]


class Current(Record):
    """What was handled last and what serves (current.json)."""

    channel: str = ""
    version: int = Field(default=0, ge=0)  # handled last; 0: none
    manifest_sha256: str = ""  # of that release
    student: str = ""  # name of the recipe it was handled with
    outcome: str = ""
    message: str = ""
    promoted: Promoted | None = None  # serves; None: no student yet
