"""Fixtures that several test files share: data sets, and hypothesis' settings."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from common.config import DatasetConfig
from common.data.datasets import Dataset, load_dataset

# Before torch is imported: tiny models gain nothing from a second thread, and on a
# busy machine threads that wait for each other cost ten times the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: other work on the machine must not fail a property. Derandomised:
# a run of the suite is repeatable; the examples that failed once become tests.
hypothesis.settings.register_profile(
    "takt", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("takt")

DataDir = Callable[[str], Path]

_VERDICT = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave at once, with pytest's own verdict, where tests were drivers of Ray.

    Ray ends a process without a word, with exit code 1, when a thread of it asks a
    core worker that is gone (ray-project/ray#65184); once a run of 1,317 passed tests
    and no other ended so, after its last line.
    """
    verdict = config.stash.get(_VERDICT, None)
    if verdict is not None and "ray" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(verdict)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Where several workers run, begin with the files that start a Ray."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not _starts_ray(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Say which tests share a worker of pytest-xdist.

    A file's tests stay together for the sake of its fixtures. Files that start a Ray
    stay on one worker: two Rays would take each other's time, and ports.
    """
    from xdist.scheduler import LoadFileScheduling

    class FilesAndRay(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "ray" if _starts_ray(config.rootpath / file) else file

    return FilesAndRay(config, log)


@functools.cache
def _starts_ray(path: Path) -> bool:
    return "pytest.mark.ray" in path.read_text()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the verdict for the very end."""
    session.config.stash[_VERDICT] = int(exitstatus)


_FIRST_FILE = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar10/test",
}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> DataDir:
    """Give a folder that holds a named public data set, or skip the test.

    Looks in $TAKT_DATA_DIR, then unpacks that one set from ../shared/data beside
    the checkout. Nothing is downloaded.
    """
    given = os.environ.get("TAKT_DATA_DIR")
    unpack = Path(__file__).parents[2] / "shared" / "data" / "unpack.sh"
    unpacked = tmp_path_factory.mktemp("data")

    def find(name: str) -> Path:
        if given and Path(given, _FIRST_FILE[name]).is_dir():
            return Path(given)
        if not unpack.is_file():
            pytest.skip(f"{name} is neither in $TAKT_DATA_DIR nor at {unpack.parent}")
        subprocess.run(["sh", str(unpack), str(unpacked), name], check=True)
        return unpacked

    return find


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Give the embedded digits, with seed 0."""
    return load_dataset(DatasetConfig(), seed=0)
