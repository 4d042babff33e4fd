"""Where a teacher's training keeps its state: a folder on any filesystem of pyarrow.

A folder that all machines see, or, by its URL, an object store that all of them
reach: ``s3://BUCKET/FOLDER``, ``gs://...``, ``hdfs://...``, ``file:///FOLDER``, with
the options that pyarrow reads from it (``?region=...&endpoint_override=...``).
Credentials come from the environment, as for the filesystem's own tools. Not here: what
is kept (`cloud.training.job`, `cloud.training.worker`).
"""

from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from common.config.store_url import EXPECTED, check_store_url
from common.durable import write_atomic
from common.errors import ConfigError, StorageError, one_line

_TEST_FILE = ".takt-may-write"


@dataclass(frozen=True)
class Store:
    """A folder on a filesystem; travels to the workers by pickle.

    Attributes:
        filesystem: that holds it.
        folder: its path there, without the URL's scheme.
        url: its name in messages.
    """

    filesystem: fs.FileSystem
    folder: str
    url: str

    def within(self, name: str) -> "Store":
        """Return a folder of this one."""
        return Store(self.filesystem, f"{self.folder}/{name}", f"{self.url} ({name})")

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None where there is no such file.

        Raises:
            StorageError: the filesystem does not answer, or refuses.
        """
        try:
            with self.filesystem.open_input_stream(f"{self.folder}/{name}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._error("read from", e) from e

    def write(self, name: str, data: bytes) -> None:
        """Replace a file in one step.

        Raises:
            StorageError: the filesystem does not answer, or refuses.
        """
        if isinstance(self.filesystem, fs.LocalFileSystem):
            write_atomic(Path(self.folder, name), data)
            return
        try:  # an object appears only when it is complete
            with self.filesystem.open_output_stream(f"{self.folder}/{name}") as file:
                file.write(data)
        except OSError as e:
            raise self._error("write to", e) from e

    def prepare(self) -> None:
        """Make the folder, and make sure that it can be written.

        Raises:
            StorageError: it cannot.
        """
        try:
            self.filesystem.create_dir(self.folder, recursive=True)
            path = f"{self.folder}/{_TEST_FILE}"
            self.filesystem.open_output_stream(path).close()
            self.filesystem.delete_file(path)
        except OSError as e:
            raise self._error("write to", e) from e

    def _error(self, action: str, error: OSError) -> StorageError:
        reason = " ".join((error.strerror or str(error)).split())[:200]
        return StorageError(
            f"cannot {action} {self.url}: {reason}; make the bucket or folder, and "
            "give this machine and the workers credentials that may write there"
        )


def open_store(url: str) -> Store:
    """Find the filesystem of a URL; nothing is written yet.

    Raises:
        ConfigError: it is not the URL of a folder on a filesystem that pyarrow knows.
    """
    shown = check_store_url(url)
    try:
        filesystem, folder = fs.FileSystem.from_uri(url)
    except (OSError, ValueError, NotImplementedError) as e:
        reason = one_line(e, 160)
        raise ConfigError(f"teacher.store = '{shown}': {reason}; {EXPECTED}") from e
    return Store(filesystem, folder.rstrip("/"), shown)


def local_store(folder: Path) -> Store:
    """Return a folder of this machine, or one that all machines have mounted."""
    return Store(fs.LocalFileSystem(), str(folder), str(folder))
