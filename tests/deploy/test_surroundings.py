"""A machine that lacks something: addresses, memory, space or a home is no bug."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import CapError, ClockError, ConfigError, StorageError, TaktError
from deploy.cli import cloud, pki
from deploy.runtime.surroundings import ADDRESS_SPACE_MIB, cause_of

SAMPLE = Path(__file__).parents[1] / "support" / "sample_result.json"


def takt_within(
    limit_mib: int, *arguments: str, cwd: Path
) -> "subprocess.CompletedProcess[str]":
    """Run a verb in a limited address space."""
    script = f'ulimit -v {limit_mib * 1024} && exec "$@"'
    argv = [sys.executable, "-m", "deploy.cli.main", *arguments]
    return subprocess.run(
        ["sh", "-c", script, "sh", *argv], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "verb", ["simulate", "compare", "cloud train -c digits", "cloud run -c digits"]
)
def test_what_needs_many_addresses_is_refused_at_once_where_they_are_limited(
    verb: str, tmp_path: Path
) -> None:
    done = takt_within(ADDRESS_SPACE_MIB - 1, *verb.split(), cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith("takt: the address space is limited to 8191 MiB")
    assert done.stderr.endswith("`ulimit -v unlimited`\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_too_few_processes_are_refused_before_ray_is_started() -> None:
    # Root is not bound by the limit, so another user is asked, who need read no file.
    program = (
        "import os, resource\n"
        "from deploy.runtime.surroundings import require_room_for_ray\n"
        "from common.errors import CapError\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))\n"
        "os.setuid(65534)\n"
        "try:\n"
        "    require_room_for_ray()\n"
        "except CapError as e:\n"
        "    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    said = done.stdout.decode()
    assert said.startswith("30 processes and threads are allowed here (by `ulimit -u`)")


def test_a_child_that_cannot_map_its_libraries_is_explained(tmp_path: Path) -> None:
    fit = "fit --memory-mib 500 --cpu-s 1 --limit 100"
    done = takt_within(1500, *fit.split(), cwd=tmp_path)
    assert done.returncode == 4
    last = done.stderr.splitlines()[-1]
    assert "limited to 1500 MiB" in last and "`ulimit -v unlimited`" in last


def test_the_doctor_names_the_limit_and_not_the_install(tmp_path: Path) -> None:
    done = takt_within(1500, "doctor", cwd=tmp_path)
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert done.returncode == 1
    assert lines["torch"].startswith("fail") and "ulimit -v" in lines["torch"]
    assert ".venv" not in lines["torch"]
    assert "limited to 1500 MiB" in lines["memory"]


@pytest.mark.slow  # matplotlib looks for all fonts of the machine
def test_a_home_that_takes_no_file_leaves_no_word_and_no_folder_of_a_library(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    (tmp_path / "result.json").write_bytes(SAMPLE.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", "report", str(tmp_path)],
        env={**os.environ, "HOME": "/proc", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "kind", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left", "/a/file"), StorageError, "/a/file"),
        (OSError(errno.EDQUOT, "Quota exceeded", "/a/file"), StorageError, "free some"),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            StorageError,
            "TMPDIR",
        ),
        (RuntimeError("Could not determine home directory."), ConfigError, "set HOME"),
        (KeyError("getpwuid(): uid not found: 12345"), ConfigError, "set HOME"),
        (MemoryError(), CapError, "smaller model"),
        (RuntimeError("can't start new thread"), CapError, "no further process"),
        (BlockingIOError(errno.EAGAIN, "Resource ..."), CapError, "no further process"),
        (ImportError("x.so: failed to map segment from shared object"), CapError, ""),
    ],
)
def test_a_librarys_exception_says_what_the_machine_lacks(
    error: Exception, kind: type[TaktError], fix: str
) -> None:
    cause = cause_of(error)
    assert type(cause) is kind
    assert fix in str(cause) and "\n" not in str(cause)


def test_what_a_refused_thread_brings_about_is_explained_by_it() -> None:
    try:
        try:
            raise RuntimeError("can't start new thread")
        finally:
            raise RuntimeError("cannot join thread before it is started")
    except RuntimeError as e:
        assert "no further process or thread" in str(cause_of(e))


def test_other_exceptions_stay_bugs() -> None:
    assert cause_of(KeyError("a name")) is None
    assert cause_of(OSError(errno.EBADF, "Bad file descriptor")) is None


@pytest.mark.parametrize(
    "verb",
    [
        lambda storage: pki.init(storage),
        lambda storage: pki.rotate("timestamp", storage),
        lambda storage: cloud.run("digits", storage),
        lambda storage: cloud.publish("digits", storage),
        lambda storage: cloud.serve("digits", storage),
    ],
)
def test_nothing_is_signed_at_a_time_before_takt_was_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    with pytest.raises(ClockError, match=r"1970-01-02 00:00 UTC is before .* set it"):
        verb(tmp_path / "storage")
    assert not (tmp_path / "storage").exists()
