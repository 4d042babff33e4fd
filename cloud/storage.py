"""The cloud's storage folder: its layout, and what a cloud job leaves in it for others.

    teacher.safetensors  teacher.json  progress.jsonl    the teacher, one line an epoch
    checkpoints/            of its training, unless they are in an object store
    candidates/<digest>/    a storage folder for each candidate of [choice]
    knowledge/              shards, index.json, recipe.json, progress.jsonl
    starting/               weights-<student>.safetensors, <student>.json,
                            <student>.progress; where a release has fewer images, also
                            knowledge/ of all of them
    keys/  repository/      release signing keys, the signed TUF repository
    pki/                    the authority, the gateway's certificate, allow.json
    trail.log               what was done with trust, hash-chained
    fleet.sqlite            what nodes report
    gateway.json  gateway.log    where the gateway listens, and its log
    failure.json            from a failed job's end to the next one's start
    logs/ray/               of a local Ray

Everything that the cloud keeps lies below this one folder; on several machines it is
shared. Not here: what is in the files (their owners), a node's folder (edge.state), a
run's folder (deploy.simulation.run_folder).
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from common.durable import make_folder, storing, write_atomic
from common.errors import BUG, StorageError, TaktError, error_of, one_line

# Also the names in a checkpoint and in an object store, which are no storage folders.
WEIGHTS = "teacher.safetensors"
CARD = "teacher.json"
PROGRESS = "progress.jsonl"


class StorageDir:
    """The paths of a storage folder."""

    def __init__(self, root: Path) -> None:
        """Name the paths; nothing is made or read."""
        self.root = root
        self.weights = root / WEIGHTS
        self.card = root / CARD
        self.progress = root / PROGRESS
        self.checkpoints = root / "checkpoints"
        self.candidates = root / "candidates"
        self.knowledge = root / "knowledge"
        self.knowledge_index = self.knowledge / "index.json"
        self.knowledge_recipe = self.knowledge / "recipe.json"
        self.knowledge_progress = self.knowledge / PROGRESS
        self.starting = root / "starting"
        self.keys = root / "keys"
        self.repository = root / "repository"
        self.pki = root / "pki"
        self.ca = self.pki / "ca.crt"
        self.trail = root / "trail.log"
        self.fleet = root / "fleet.sqlite"
        self.addresses = root / "gateway.json"
        self.gateway_log = root / "gateway.log"
        self.failure = root / "failure.json"
        self.ray_logs = root / "logs" / "ray"

    def resolve(self) -> "StorageDir":
        """Return the same folder by its absolute path."""
        return StorageDir(self.root.resolve())

    def candidate(self, digest: str) -> "StorageDir":
        """Return the storage folder of one candidate for the teacher.

        Args:
            digest: names its config, see `teacher_digest`.
        """
        return StorageDir(self.candidates / digest)

    def starting_progress(self, student: str) -> Path:
        """Name the file that says how far the starting weights of a recipe are."""
        return self.starting / f"{student}.progress"

    def create(self, *folders: Path) -> None:
        """Make the folder itself, and some of those in it.

        Raises:
            StorageError: one cannot be made.
        """
        for folder in (self.root, *folders):
            make_folder(folder)

    def check_project(self) -> None:
        """Check that this is a project's folder, as the gateway and its nodes need it.

        Raises:
            StorageError: it has no authority; the folder may be mistyped.
        """
        if not _is_there(self.ca):
            raise StorageError(
                f"{self.root} has no project (no {self.ca.relative_to(self.root)}); "
                "give the project's folder with --storage, or make one with `takt pki "
                "init`"
            )

    def check_there(self) -> None:
        """Check that there is a folder, for one who waits for what a job puts into it.

        Raises:
            StorageError: there is none; it may be mistyped.
        """
        if not self.root.is_dir():
            raise StorageError(
                f"there is no folder {self.root}; give the cloud job's folder with "
                "--storage, or start the job first"
            )

    def check_teacher(self) -> None:
        """Check that a finished teacher lies here.

        Raises:
            StorageError: there is none, or it cannot be read.
        """
        for path in (self.weights, self.card):
            try:
                path.open("rb").close()
            except OSError as e:
                raise StorageError(
                    f"cannot read {path}: {e.strerror}; give the job's folder with "
                    "--storage, or train the teacher first (`takt cloud train`)"
                ) from e

    def check_published(self) -> None:
        """Check that a release was published here.

        Raises:
            StorageError: none was; the folder may be mistyped.
        """
        if not _is_there(self.repository):
            raise StorageError(
                f"{self.root} has no release yet (no {self.repository.name}/); give "
                "the project's folder with --storage, or publish with `takt cloud "
                "publish`"
            )

    def check_servable(self) -> None:
        """Check that there is a project, or a release, for nodes to be served.

        Raises:
            StorageError: there is neither; the folder may be mistyped.
        """
        if not _is_there(self.ca):
            self.check_published()

    def training_has_begun(self) -> bool:
        """Tell whether a teacher was trained for an epoch, be it a candidate."""
        candidates = (StorageDir(path) for path in self.candidates.glob("*"))
        return any(each.progress.exists() for each in (self, *candidates))

    def last_written(self) -> float:
        """Return when a job last wrote a file here; 0: never.

        The gateway's files and the fleet's database do not count: the heartbeats of
        nodes keep them new.
        """
        apart = (self.fleet.name, self.addresses.stem)
        newest = 0.0
        for folder, _, names in os.walk(self.root):  # skips what is removed meanwhile
            for name in names:
                if not name.startswith(apart):
                    with suppress(FileNotFoundError):
                        newest = max(newest, Path(folder, name).stat().st_mtime)
        return newest

    @contextmanager
    def recorded_failure(self) -> Iterator[Callable[[], None]]:
        """Remove failure.json; write what ends the body to it.

        Yields:
            Is called when the job's work is done: to be stopped is no failure then.
        """
        with storing(self.failure):
            self.failure.unlink(missing_ok=True)
        done = Event()
        try:
            yield done.set
        except TaktError as e:
            self._record_failure(e.exit_code, str(e))
            raise
        except Exception as e:
            self._record_failure(BUG, f"{type(e).__name__}: {one_line(e)}")
            raise
        except BaseException:  # a signal
            if not done.is_set():
                self._record_failure(
                    TaktError.exit_code,
                    "it was stopped by a signal; the same command goes on from there",
                )
            raise

    def _record_failure(self, code: int, message: str) -> None:
        """Write failure.json; where that fails, the job's own error says more."""
        tree = {"code": code, "message": message}
        with suppress(StorageError):
            write_atomic(self.failure, json.dumps(tree, indent=1).encode())

    def raise_failure(self) -> None:
        """Raise the error that failure.json holds, if there is one.

        Raises:
            TaktError: the last job failed; of the same class, with its message.
        """
        try:
            tree = json.loads(self.failure.read_bytes())
            code, message = int(tree["code"]), str(tree["message"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        raise error_of(code)(f"the cloud job failed: {message}")


def _is_there(path: Path) -> bool:
    """Tell whether a path exists; one that may not be read counts as existing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # who reads it says what is wrong
    return True
