"""result.json, the public record of a run: its models, its reader, its writer.

The schema is an interface: other programs read it, and the terminal table and
`report.html` show nothing that is not in it, or in the files of details that it names
(deploy/report/details.py). Accuracies are fractions. What was not measured is absent
from the file, never 0. It does not measure anything and
does not decide what a good result is, except for the one-sentence verdict in
`deploy/report/wording.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from common.durable import write_atomic
from common.errors import StorageError, one_line
from common.records import Cap, CpuSeconds, CurvePoint, Evaluation, Profile, Record
from common.regular_file import is_folder

SCHEMA = 1
VALIDATION = "validation_split"  # flag of what was not measured on the test split
RESULT_NAME = "result.json"

Fraction = float | None


class Failure(Record):
    """Why a run failed: takt's exit code and the line that the user saw."""

    code: int
    message: str


class DatasetFacts(Record):
    """Which images; `num_train` is what the students learn from."""

    name: str
    fingerprint: str
    num_train: int
    num_test: int
    notes: tuple[str, ...] | None = None  # what a user should know; absent: nothing
    # By split ("validation", "test") without an image of theirs; absent: there are none
    absent_classes: dict[str, tuple[str, ...]] | None = None


class Threat(Record):
    """The threat model of the run."""

    norm: str
    eps: float


class TeacherResult(Record):
    """The teacher: clean accuracy on the test split, robust ones as flagged."""

    architecture: str
    num_parameters: int
    clean_accuracy: Fraction = None
    robust: tuple[Evaluation, ...] = ()
    trial: bool | None = None  # true: two epochs on CPUs, asked for by teacher.trial

    @property
    def autoattack(self) -> Evaluation | None:
        """Give AutoAttack's figure, or None where it was not measured."""
        return find_autoattack(self.robust)


class ReleaseFacts(Record):
    """The published release; `bytes` counts its shards, and its starting weights."""

    channel: str
    version: int
    bytes: int
    num_samples: int
    bytes_per_sample: dict[str, float]


class Student(Record):
    """A promoted student; `path` is relative to the run's folder."""

    architecture: str
    num_parameters: int
    path: str | None = None


class NotMeasured(Record):
    """An empty object: what stands in the file where nothing was measured."""


class OwnImages(Record):
    """The images that a node has and its cloud has not."""

    images: int | None = None  # absent: those of a folder
    classes: tuple[int, ...] | None = None  # its own, counted from 0; absent: all
    labelled: Fraction = None  # share of the drawn ones
    shift: str | None = None  # what its camera does; its figures are of such images
    share_images: bool | None = None  # the gateway's teacher was asked about them
    trained_on: int | None = None  # as reported: without those it measures on
    trained_on_labelled: int | None = None  # of these


class Reference(Record):
    """What a node's student is to be seen beside, on the same test images.

    `kind` is "own_only" (the node's own images alone, from scratch, for the student's
    CPU-seconds, in its memory), "shipped" (the release's starting weights as they are,
    no training) or "natural" (the same model and images, no attack, in a quarter of
    the CPU-seconds). `state` is "trained", "shipped" or "failed".
    """

    kind: str
    method: str
    student: Student | None = None
    clean_accuracy: Fraction = None
    robust: tuple[Evaluation, ...] = ()
    own_class_robust: tuple[Evaluation, ...] | None = None
    cpu_s: CpuSeconds | NotMeasured = Field(
        default=NotMeasured(), union_mode="left_to_right"
    )
    state: str
    details: str | None = None  # of a natural twin, as of its node

    @property
    def autoattack(self) -> Evaluation | None:
        """Give AutoAttack's figure, or None where it was not measured."""
        return find_autoattack(self.robust)


class NodeResult(Record):
    """One node's student, or a baseline trained in the place of one.

    `clean_accuracy` and AutoAttack's figure are of the test split; an evaluation
    flagged "validation_split" is the node's own. `state` is "promoted", "kept",
    "refused", "failed", or the last state of a node that never reported.
    """

    name: str
    profile: Profile
    cap: Cap | None = None
    student: Student | None = None
    method: str
    seed: int
    clean_accuracy: Fraction = None
    robust: tuple[Evaluation, ...] = ()
    cpu_s: CpuSeconds | NotMeasured = Field(
        default=NotMeasured(), union_mode="left_to_right"
    )
    peak_memory_mib: float | None = None
    pulled_bytes: int | None = None
    state: str
    curve: tuple[CurvePoint, ...] = ()
    data: OwnImages | None = None  # absent: no images of its own
    # AutoAttack on the test images of the node's own classes; absent: all are its own.
    own_class_robust: tuple[Evaluation, ...] | None = None
    references: tuple[Reference, ...] | None = None
    # Training did not improve the starting weights: they are the student. Absent: no.
    as_shipped: bool | None = None
    details: str | None = None  # what the page draws of it, see deploy.report.details
    # As the node measured it on the release's validation images, where the evaluation
    # flagged "validation_split" in `robust` is of its own. Absent: it has no others.
    release_clean_accuracy: Fraction = None
    release_robust: tuple[Evaluation, ...] | None = None
    notes: tuple[str, ...] | None = None  # on its images, one line each; absent: none

    @property
    def autoattack(self) -> Evaluation | None:
        """Give AutoAttack's figure, or None where it was not measured."""
        return find_autoattack(self.robust)

    @property
    def measured_cpu_s(self) -> CpuSeconds | None:
        """Give the CPU-seconds, or None where they were not measured."""
        return None if isinstance(self.cpu_s, NotMeasured) else self.cpu_s


class Machine(Record):
    """What the run ran on; versions of parts that were not there are absent."""

    cores: int
    memory_mib: int
    gpu: str | None = None
    python: str
    torch: str | None = None
    ray: str | None = None


@dataclass(frozen=True)
class Accuracies:
    """One model on the test split; not a part of the file, but what fills it."""

    clean_accuracy: float
    robust: Evaluation
    own_classes: Evaluation | None = None  # the same, on a node's own classes alone


class RunResult(Record):
    """The whole of result.json; see the design, section 8."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    run_id: str
    takt_version: str
    status: Literal["ok", "failed"]
    verdict: str
    error: Failure | None = None
    dataset: DatasetFacts | None = None
    threat: Threat
    teacher: TeacherResult | None = None
    release: ReleaseFacts | None = None
    nodes: tuple[NodeResult, ...] = ()
    baselines: tuple[NodeResult, ...] | None = None  # only with --compare
    timings_s: dict[str, float] = Field(default_factory=dict)
    machine: Machine

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True
    )

    @property
    def teacher_autoattack(self) -> Evaluation | None:
        """Give AutoAttack's figure of the teacher, or None: it has none."""
        return None if self.teacher is None else self.teacher.autoattack


def find_autoattack(robust: tuple[Evaluation, ...]) -> Evaluation | None:
    """Pick AutoAttack's evaluation, by the cloud, out of several.

    What a node says of itself is its claim, whatever attack it names.
    """
    measured = (e for e in robust if VALIDATION not in e.flags)
    return next((e for e in measured if e.attack == "autoattack"), None)


def to_json(result: RunResult) -> str:
    """Serialise: absent for what was not measured; `error` is always there."""
    tree: dict[str, Any] = result.model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    tree.setdefault("error", None)
    order = ["schema", "run_id", "takt_version", "status", "verdict", "error"]
    head = {key: tree.pop(key) for key in order}
    return json.dumps({**head, **tree}, indent=1, allow_nan=False) + "\n"


def write_result(result: RunResult, run_dir: Path) -> Path:
    """Write `run_dir`/result.json by rename, so that readers see all or nothing.

    Raises:
        StorageError: the folder cannot be written to.
    """
    path = run_dir / RESULT_NAME
    write_atomic(path, to_json(result).encode())
    return path


def read_result(run_dir: Path) -> RunResult:
    """Read a run's result.

    Args:
        run_dir: the run's folder, or the result.json in it.

    Raises:
        StorageError: there is none, or it is damaged or of another schema.
    """
    path = run_dir / RESULT_NAME if is_folder(run_dir) else run_dir
    try:
        tree = json.loads(path.read_bytes())
    except OSError as e:
        raise StorageError(
            f"no result at {path}: {e.strerror}; expected a run's folder, for "
            "instance runs/digits-20260101-120000"
        ) from e
    except ValueError as e:
        raise StorageError(
            f"{path} is no JSON, or damaged; give a run's folder, for instance "
            "runs/digits-20260101-120000, or run the simulation again"
        ) from e
    found = tree.get("schema") if isinstance(tree, dict) else None
    if found != SCHEMA:
        raise StorageError(
            f"{path} has schema {found!r}, this takt reads {SCHEMA}; use the takt "
            "that wrote it"
        )
    try:
        return RunResult.model_validate(tree)
    except ValidationError as e:
        raise StorageError(
            f"{path} is damaged: {one_line(e)}; run the simulation again"
        ) from e
