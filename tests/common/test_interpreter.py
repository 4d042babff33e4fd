"""Python that takt starts, beside files of the user's that bear names of modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.interpreter import OWN_CODE, python

NAMES = ("common", "cloud", "edge", "deploy", "random", "json", "re", "typing")
IMPORT_ALL = "import common.errors, cloud, edge, deploy, random, json, re, typing"


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A folder in which everything that bears a name of ours ends its importer."""
    for name in NAMES:
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text(f"raise SystemExit('the user's {name}')\n")
    return tmp_path


def test_a_child_imports_nothing_from_its_working_directory_or_pythonpath(
    users_folder: Path,
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(users_folder)}
    done = subprocess.run(
        python("-c", f"{IMPORT_ALL}\nprint(common.__file__)"),
        cwd=users_folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parents[1] == Path(__file__).parents[2]


def test_what_others_start_with_the_variables_imports_nothing_of_the_users_either(
    users_folder: Path,
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(users_folder), **OWN_CODE}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=users_folder,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mode", ["0", "1"])
def test_a_child_takes_file_names_and_bytecode_as_its_parent_does(mode: str) -> None:
    ask = "import sys; print(sys.flags.utf8_mode, sys.dont_write_bytecode)"
    parent = (
        "import subprocess\nfrom common.interpreter import python\n"
        f"subprocess.run(python('-c', {ask!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent],
        env={**os.environ, "PYTHONUTF8": mode, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{mode} True\n"
