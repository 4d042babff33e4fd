"""The script `takt` of an install: which interpreter it runs, on whose code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "cli" / "takt.sh"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The script beside an interpreter, as an install leaves them."""
    folder = tmp_path / "an environment" / "bin"
    folder.mkdir(parents=True)
    shutil.copy(SCRIPT, folder / "takt")
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    return folder / "takt"


def test_nothing_of_the_users_folder_or_pythonpath_is_imported(
    installed: Path, tmp_path: Path
) -> None:
    for name in ("common", "deploy", "random", "re"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the users')\n")
    done = subprocess.run(
        [installed, "exit-codes"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "SIGINT" in done.stdout


def test_it_finds_its_interpreter_through_links_and_hands_on_words_and_exit_codes(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "one").symlink_to("../two")
    (tmp_path / "two").symlink_to(installed)
    done = subprocess.run(
        ["far/one", "report", "a run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 8
    assert "no result at a run" in done.stderr


def test_file_names_are_utf_8_whatever_the_locale_says(
    installed: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [installed, "report", "caf\u00e9"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "en_US.ISO-8859-1", "PYTHONIOENCODING": ""},
        capture_output=True,
        encoding="utf-8",
    )
    assert "no result at caf\u00e9" in done.stderr


@pytest.mark.parametrize(
    "variable",
    [
        "PYTHONWARNINGS=error",
        "PYTHONINSPECT=1",
        "PYTHONPLATLIBDIR=x",
        "PYTHONDEVMODE=1",
    ],
)
def test_what_a_user_has_set_for_other_python_programs_does_not_reach_takt(
    installed: Path, variable: str
) -> None:
    name, _, value = variable.partition("=")
    (installed.parent / "python").write_text("#!/bin/sh\nenv\n")
    done = subprocess.run(
        [installed], env={**os.environ, name: value}, capture_output=True, text=True
    )
    found = done.stdout.splitlines()
    assert "PYTHONSAFEPATH=1" in found and variable not in found


def test_help_and_tables_keep_their_words_where_python_is_to_drop_docstrings(
    installed: Path,
) -> None:
    done = subprocess.run(
        [installed, "exit-codes"],
        env={**os.environ, "PYTHONOPTIMIZE": "2"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "A release was refused: signature" in done.stdout
