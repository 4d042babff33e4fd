"""A node's state folder: its layout, its lock, and its small JSON records.

    edge.toml  identity/  metadata/ (TUF)  cache/ (verified files, by digest)
    releases/<version>/   work/<version>/   students/<version>/   outbox/
    images.seen           files of own images of the last distillation with a result
    images.tried          of one that failed since
    answers.sqlite        what the live teacher said about them
    current.json          which release was handled last, which student serves
    status.json           what the daemon does now; for people and `takt edge status`

current.json is replaced last and durably: a restart continues from it. status.json is
replaced atomically but not synced: after a power cut it is rewritten, and a sync each
second would wear the flash. Not here: who writes when
(edge/daemon/node.py), the student folders (edge/daemon/promotion.py).
"""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from common.clock import utc_now
from common.durable import locked, make_folder, storing, write_atomic
from common.errors import StorageError
from common.export.card import Format
from common.ownership import require_own_folder
from common.records import Cap, Evaluation, Record

STUDENT, PROMOTED = "student.safetensors", "promoted.json"  # in a student's folder
_RENAMED = (  # replaced through temp file, fsync and rename
    "edge.identity.key",
    "edge.identity.ca",
    "edge.identity.root",
    "edge.identity.crt",
    "edge.renewal.key",
    "edge.renewal.ca",
    "edge.renewal.crt",
    "edge.cache",
    "edge.release",
    "edge.student",
    "edge.report",
    "edge.seen",
    "edge.current",
    "edge.outbox",
)
_MOVED = ("edge.cache", "edge.student", "edge.outbox")  # written before, elsewhere
# Every moment of the daemon's durable steps at which a test may kill it; the job's
# own ("edge.job") is one with the start of the child.
FAULT_POINTS = (
    *(f"{name}.{when}_rename" for name in _RENAMED for when in ("before", "after")),
    "edge.renewal.answered",
    "edge.renewal.half_placed",
    "edge.renewal.placed",
    *(f"{name}.half_written" for name in _RENAMED if name not in _MOVED),
    "edge.metadata.refreshed",
    "edge.part.written",
    "edge.release.linked",
    "edge.sent.before_unlink",
)


class Status(Record):
    """What the daemon does now (status.json)."""

    node: str
    # Then idle, pulling, verifying, distilling, evaluating, promoting, exporting,
    # backing-off or stopped.
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
    cap: Cap | None = None
    pulled_bytes: int = 0  # payload, since the daemon started
    peak_memory_mib: float = 0.0  # of the distillation
    # Of the student that serves, on the release's validation images; None: the
    # accuracies above are of these, or there is none.
    release_robust_accuracy: float | None = None
    outcome: str = ""  # of the last release: promoted, kept, refused, failed
    notes: tuple[str, ...] = ()  # of its distillation, on the images: one line each
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
    release_robust: tuple[Evaluation, ...] = ()  # on the release's validation images
    # The most robust that a student of this release, promoted here, was on these.
    release_best: float | None = None  # None: not known, as before there was the field


class Current(Record):
    """What was handled last and what serves (current.json)."""

    channel: str = ""
    version: int = Field(default=0, ge=0)  # handled last; 0: none
    manifest_sha256: str = ""  # of that release
    student: str = ""  # name of the recipe it was handled with
    outcome: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()  # what a user should know of the images, one line each
    data_sha256: str = ""  # of the table [data] that it was handled with
    images_sha256: str = ""  # of images.seen
    # Of images.tried, where it had no result; else None.
    tried_sha256: str | None = None
    promoted: Promoted | None = None  # serves; None: no student yet


class StateDir:
    """The paths of a state folder, and its files' readers and writers."""

    def __init__(self, root: Path) -> None:
        """Name the paths; nothing is made or read."""
        self.root = root
        self.identity = root / "identity"
        self.metadata = root / "metadata"
        self.cache = root / "cache"
        self.releases = root / "releases"
        self.work = root / "work"
        self.students = root / "students"
        self.outbox = root / "outbox"
        self.answers = root / "answers.sqlite"  # the teacher's, about own images
        self.seen_images = root / "images.seen"  # see NewImages
        self.tried_images = root / "images.tried"
        self.current = root / "current.json"
        self.status = root / "status.json"

    def create(self) -> None:
        """Make the folders that a daemon needs.

        Raises:
            StorageError: one cannot be made or written.
        """
        for folder in (
            *(self.metadata, self.cache, self.releases),
            *(self.work, self.students, self.outbox),
        ):
            make_folder(folder)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StorageError(
                    f"{folder} is not writable by uid {os.getuid()}; fix its owner or "
                    "permissions"
                )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process; the kernel unlocks it at the process's end.

        Raises:
            StorageError: another daemon has locked it, another user may change what
                lies in it, or it cannot be made or written.
        """
        require_own_folder(make_folder(self.root))

        def busy(holder: str) -> str:
            return (
                f"{self.root} is in use by another takt daemon (pid {holder}); stop "
                "it, or give this one its own state_dir"
            )

        with locked(self.root / "lock", busy=busy):
            yield

    def place(self) -> str:
        """Identify this path on this machine since it started; a copy is elsewhere."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            boot = ""
        where = f"{boot}:{socket.gethostname()}:{self.root.resolve()}"
        return hashlib.sha256(os.fsencode(where)).hexdigest()[:16]

    def read_current(self) -> Current:
        """Read current.json; if damaged or missing, rebuild it from the students.

        A student whose file is damaged does not count; the newest undamaged one
        takes its place, and the release will be handled again.
        """
        try:
            current = Current.model_validate_json(self.current.read_bytes())
        except (OSError, ValidationError):
            return Current(promoted=self._newest_intact())
        if current.promoted and not self.is_intact(current.promoted):
            return Current(promoted=self._newest_intact())
        return current

    def write_current(self, current: Current) -> None:
        """Replace current.json, durably.

        Raises:
            StorageError: disk full or not writable; the old one stays.
        """
        data = current.model_dump_json(indent=1).encode()
        write_atomic(self.current, data, point="edge.current")

    def write_status(self, status: Status) -> None:
        """Replace status.json, atomically.

        Raises:
            StorageError: disk full or not writable; the old one stays.
        """
        part = self.root / ".status.json.part"
        stamped = status.model_copy(
            update={"pid": os.getpid(), "time": utc_now().timestamp()}
        )
        with storing(self.status):
            part.write_bytes(stamped.model_dump_json(indent=1).encode())
            part.replace(self.status)

    def whole_students(self) -> list[Promoted]:
        """List the students whose file is undamaged, oldest first.

        A folder that a kill has left, half made or half removed, is none.
        """
        found = []
        for card in self.students.glob(f"*/{PROMOTED}"):
            with contextlib.suppress(OSError, ValidationError):
                promoted = Promoted.model_validate_json(card.read_bytes())
                if promoted.folder == card.parent.name and self.is_intact(promoted):
                    found.append((card.stat().st_mtime, promoted))
        return [promoted for _, promoted in sorted(found, key=lambda item: item[0])]

    def _newest_intact(self) -> Promoted | None:
        return next(reversed(self.whole_students()), None)

    def student_file(self, promoted: Promoted) -> Path:
        """Name the safetensors file of a promoted student."""
        return self.students / promoted.folder / STUDENT

    def exported_file(self, promoted: Promoted, format: Format) -> Path:
        """Name the ONNX file of a promoted student; it need not exist."""
        return self.students / promoted.folder / f"{format}.onnx"

    def is_intact(self, promoted: Promoted) -> bool:
        """Check whether a student's file is there and undamaged."""
        with contextlib.suppress(OSError):
            return sha256_of(self.student_file(promoted)) == promoted.weights_sha256
        return False


def student_folders(version: int, weights_sha256: str) -> tuple[str, str]:
    """Name where a student may lie in students/.

    Args:
        version: of its release.
        weights_sha256: of its file.

    Returns:
        The usual name, and that where a student of another channel has it.
    """
    return str(version), f"{version}-{weights_sha256[:8]}"


def read_status(state_dir: Path) -> Status:
    """Read a daemon's status.json.

    Raises:
        StorageError: no daemon ever ran there, or status.json is damaged.
    """
    path = StateDir(state_dir).status
    try:
        return Status.model_validate_json(path.read_bytes())
    except FileNotFoundError as e:
        raise StorageError(
            f"{path} is missing; no daemon ran there yet: `takt edge run`"
        ) from e
    except OSError as e:
        raise StorageError(
            f"cannot read {path}: {e.strerror or e}; fix its permissions"
        ) from e
    except ValidationError as e:
        raise StorageError(
            f"{path} is damaged; the daemon rewrites it when it starts"
        ) from e


def is_at_work(status: Status) -> bool:
    """Check whether the daemon that wrote a status still runs, on this machine."""
    return status.state != "stopped" and Path(f"/proc/{status.pid}").is_dir()


def sha256_of(path: Path) -> str:
    """Digest a file of any size.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
