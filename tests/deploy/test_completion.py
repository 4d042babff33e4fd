"""Completion: each shell's own script, asked as that shell would ask it.

bash runs its script for real. What the scripts of zsh and fish ask of `takt` is asked
here without these shells, which few machines have.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from waiting import WAIT_S

import deploy.cli
from deploy.cli.main import COMPLETION_VARIABLE

SCRIPT = Path(deploy.cli.__file__).with_name("takt.sh")


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """Put the entry point beside an interpreter, as an install does."""
    python, takt = tmp_path / "python", tmp_path / "takt"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    takt.write_text(SCRIPT.read_text())
    for file in (python, takt):
        file.chmod(0o755)
    return takt


def said(folder: Path, *command: str, **environment: str) -> str:
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**os.environ, "PATH": path, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("called", ["takt", "./takt"])
def test_bash_completes_the_verbs_of_a_group_whatever_takt_is_called_by(
    entry: Path, called: str
) -> None:
    script = said(entry.parent, "takt", **{COMPLETION_VARIABLE: "source_bash"})
    assert script.rstrip().endswith("complete -o default -F _takt_completion takt")
    asked = f"COMP_WORDS=({called} pki in); COMP_CWORD=2; _takt_completion {called}"
    shown = said(
        entry.parent, "bash", "-c", f'{script}\n{asked}\necho "${{COMPREPLY[*]}}"'
    )
    assert shown.split() == ["init", "invite"]


@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "takt pki in"}),
        (
            "fish",
            {
                "_TYPER_COMPLETE_ARGS": "takt pki in",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            },
        ),
    ],
)
def test_what_the_scripts_of_other_shells_ask_is_answered(
    entry: Path, shell: str, environment: dict[str, str]
) -> None:
    script = said(entry.parent, "takt", **{COMPLETION_VARIABLE: f"source_{shell}"})
    for name in (COMPLETION_VARIABLE, *environment):
        assert name in script
    asked = {COMPLETION_VARIABLE: f"complete_{shell}", **environment}
    shown = said(entry.parent, "takt", **asked)
    assert "init" in shown and "invite" in shown and "rotate" not in shown


def test_the_version_is_said_with_those_of_the_libraries(entry: Path) -> None:
    shown = said(entry.parent, "takt", "--version")
    assert shown.startswith(f"takt {version('takt')} (Python ")
    assert f"torch {version('torch')}" in shown
