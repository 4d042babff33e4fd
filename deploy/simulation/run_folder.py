"""The folder of one run: its name and its layout.

    result.json  report.html  config.toml  students/<node>.safetensors  logs/*.log
    cloud/ (the storage of the cloud side)  nodes/<name>/ (a node's state folder)
    references/<name>/<kind>/ (trainings to compare with)
    details/<name>/student.json natural.json (of a student and its natural twin)
    tensorboard/<model>/ (curves, where tensorboardX is installed)

Not here: what is in result.json, and the layouts inside cloud/ and nodes/.
"""

import time
from pathlib import Path

from cloud.storage import StorageDir
from common.durable import make_folder, storing, write_atomic
from common.errors import StorageError
from deploy.runtime.paths import require_utf_8


class RunFolder:
    """The paths of a run."""

    def __init__(self, path: Path, *, storage: Path | None = None) -> None:
        """Name the paths; nothing is made.

        Args:
            path: the folder.
            storage: of a cloud side that is elsewhere; None: in the folder.
        """
        self.path = path
        self.config = path / "config.toml"
        self.students = path / "students"
        self.logs = path / "logs"
        self.cloud = StorageDir(storage or path / "cloud")
        self.nodes = path / "nodes"
        self.references = path / "references"

    @property
    def run_id(self) -> str:
        """The run's name: the folder's."""
        return self.path.name

    def details_of(self, node: str, kind: str) -> str:
        """Name the file of what the page draws of a model, relative to the folder."""
        return f"details/{node}/{kind}.json"

    def log(self, name: str) -> Path:
        """Name the log of one part."""
        return self.logs / f"{name}.log"


def create_run(
    runs_dir: Path, channel: str, config_text: str, *, storage: Path | None = None
) -> RunFolder:
    """Make the folder of a new run, ``<channel>-<date>-<time>``.

    Two runs of the same second get different folders.

    Args:
        runs_dir: made if missing.
        channel: of the run's config.
        config_text: written to config.toml.
        storage: see `RunFolder`; it is not made.

    Raises:
        ConfigError: its path is not UTF-8.
        StorageError: the folder cannot be made or written.
    """
    require_utf_8(runs_dir)
    stem = f"{channel}-{time.strftime('%Y%m%d-%H%M%S')}"
    make_folder(runs_dir)
    with storing(runs_dir):
        for number in range(1, 1000):
            path = runs_dir / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue
        else:
            raise StorageError(f"{runs_dir} has a thousand runs called {stem}")
        run = RunFolder(path.resolve(), storage=storage)
        inside = (run.cloud.root, run.nodes) if storage is None else ()
        for folder in (run.students, run.logs, *inside):
            folder.mkdir()
    write_atomic(run.config, config_text.encode())
    return run
