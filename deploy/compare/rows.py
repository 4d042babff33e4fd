"""The rows of `takt compare`: one trained student each, in one JSON file.

The file is a public interface, ``{"rows": [...]}``: fractions, one row a student.
It is replaced by rename as each row comes, so that it is whole at any time and the
next compare goes on where it ends. Not here: what is trained (grid.py).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.durable import locked, make_folder, write_atomic
from common.errors import StorageError, one_line

Key = tuple[str, int, str, str, int, float, int, bool]

# Fields that are written a second time, under the names that the tries have for them.
_SAME = {"attack_steps": "steps", "training_images": "num_train"}
# Fields that came later: at their defaults they are not written.
_LATER = ("teacher_cpu_s", "tuned", "step_size", "num_views", "held")


class Row(BaseModel):
    """One student: what it is, what it cost and how robust it became."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str
    student: str  # architecture
    num_parameters: int
    method: str
    seed: int
    cpu_s: float  # of training, the attack included, watching it not
    steps: int  # of the training's attack; 0: none
    epochs: int
    clean_accuracy: float = Field(ge=0, le=1)  # on the whole test split
    robust_accuracy: float = Field(ge=0, le=1)
    attack: str
    version: str
    num_images: int  # attacked, of the test split, stratified
    eps: float
    norm: str
    num_train: int  # images
    cpu_budget_s: float
    budget: str  # whole, fifth, tenth, see tuned.py; none: the cloud's student
    attack_cpu_s: float  # of cpu_s: making adversarial examples
    learning_rate: float
    pulled_bytes: int  # of knowledge; with a live teacher, all that was exchanged
    val_robust_accuracy: float | None  # PGD-5 at the end, on 128 validation images
    flags: tuple[str, ...]
    trained_with: tuple[str, ...] = ()  # methods that this one was interleaved with
    teacher_sha256: str | None  # None: the method has no teacher
    teacher_cpu_s: float | None = None  # of a live one, beside cpu_s; or None
    # Whether steps, step size, rate and views are the best of as many tries as every
    # method had (tuned.py), and what they are; of `shipped` and of an arm with a fixed
    # recipe, whether the other methods of its grid were tuned so.
    tuned: bool = False
    step_size: float | None = None  # of the attack, pixel scale
    num_views: int = 1
    # Which attacked images held, a bit each, the first one highest: hexadecimal.
    held: str = ""
    identity: str  # digest of all that decides the row: `Entry.digest`

    @property
    def key(self) -> Key:
        """Name the row; one of another recipe takes its place."""
        student = (self.dataset, self.num_train, self.student, self.method, self.seed)
        return (*student, self.cpu_budget_s, self.num_images, self.tuned)


class RowFile:
    """The rows on disk."""

    def __init__(self, path: Path) -> None:
        """Read the file; one that is missing has no rows yet.

        Raises:
            StorageError: it cannot be read, or is not rows of takt.
        """
        self.path = path
        self.rows: list[Row] = list(read_rows(path)) if path.exists() else []

    def has(self, digest: str) -> bool:
        """Return whether there is a row of exactly this entry of the plan."""
        return any(row.identity == digest for row in self.rows)

    def add(self, row: Row) -> None:
        """Add a row, or replace the one of the same name, and write the file.

        Raises:
            StorageError: it cannot be written; the old file is as it was.
        """
        others = [other for other in self.rows if other.key != row.key]
        self.rows = sorted([*others, row], key=lambda r: r.key)
        lines = ",\n".join(json.dumps(_tree(r)) for r in self.rows)
        data = f'{{"rows": [\n{lines}\n]}}\n'.encode()
        write_atomic(self.path, data, point="compare.rows")


def _tree(row: Row) -> dict[str, object]:
    """Return a row as JSON, without later fields that say nothing of it."""
    fields = Row.model_fields
    absent = {k for k in _LATER if getattr(row, k) == fields[k].default}
    tree = row.model_dump(mode="json", exclude=absent)
    return {**tree, **{name: tree[field] for name, field in _SAME.items()}}


def read_rows(path: Path) -> Sequence[Row]:
    """Read a file of rows.

    Raises:
        StorageError: it cannot be read, or is not rows of takt.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return [
            Row.model_validate({k: v for k, v in row.items() if k not in _SAME})
            for row in tree["rows"]
        ]
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as e:
        reason = one_line(e, 160)
        raise StorageError(
            f"{path} does not hold rows of this takt's compare ({reason}); give "
            "another --out, or move the file away"
        ) from e


@contextmanager
def sole_writer(*folders: Path) -> Iterator[None]:
    """Hold the right to write into folders, which are made if they are missing.

    Raises:
        StorageError: a folder cannot be made, or another compare holds it.
    """
    with ExitStack() as held:
        for folder in dict.fromkeys(folder.resolve() for folder in folders):
            lock = make_folder(folder) / ".lock"
            held.enter_context(locked(lock, busy=partial(_busy, folder)))
        yield


def _busy(folder: Path, holder: str) -> str:
    return (
        f"another takt compare (pid {holder}) is at work in {folder}; wait for its end "
        "or give other folders with --out and --work"
    )
