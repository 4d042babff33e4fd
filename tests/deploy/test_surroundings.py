"""A machine that lacks something: addresses, memory, space or a home is no bug."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import CapError, ConfigError, StorageError, TaktError
from deploy.runtime.surroundings import ADDRESS_SPACE_MIB, cause_of


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
        (ImportError("x.so: failed to map segment from shared object"), CapError, ""),
    ],
)
def test_a_librarys_exception_says_what_the_machine_lacks(
    error: Exception, kind: type[TaktError], fix: str
) -> None:
    cause = cause_of(error)
    assert type(cause) is kind
    assert fix in str(cause) and "\n" not in str(cause)


def test_other_exceptions_stay_bugs() -> None:
    assert cause_of(KeyError("a name")) is None
    assert cause_of(OSError(errno.EBADF, "Bad file descriptor")) is None
