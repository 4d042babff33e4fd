"""The command that runs every gate: which tests it takes, and that stubs count."""

import os
import shutil
from pathlib import Path

import pytest

from deploy.dev.gates import gate_environment, pytest_options, stubs_are_current

ROOT = Path(__file__).resolve().parents[2]


def test_the_default_suite_leaves_out_what_is_slow_or_needs_more() -> None:
    assert pytest_options([]) == ["-m", "not slow and not docker and not gpu"]


def test_slow_and_all_bring_tests_in_and_do_not_reach_pytest() -> None:
    assert pytest_options(["--slow"]) == ["-m", "not docker and not gpu"]
    assert pytest_options(["--docker"]) == ["-m", "not slow and not gpu"]
    assert pytest_options(["--all"]) == []


def test_other_options_go_to_pytest_and_chosen_markers_are_left_alone() -> None:
    assert pytest_options(["-k", "caps"])[2:] == ["-k", "caps"]
    assert pytest_options(["-m", "gpu"]) == ["-m", "gpu"]


def test_a_changed_or_missing_stub_is_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copytree(ROOT / "common" / "pb", tmp_path / "common" / "pb")
    environment = gate_environment(os.environ)
    assert stubs_are_current(tmp_path, environment)
    stub = tmp_path / "common" / "pb" / "takt_pb2.pyi"
    stub.write_text(stub.read_text() + "# by hand\n")
    (stub.parent / "takt_pb2_grpc.py").unlink()
    assert not stubs_are_current(tmp_path, environment)
    told = capfd.readouterr().out
    assert "takt_pb2.pyi" in told and "takt_pb2_grpc.py" in told
    assert "proto/generate.sh" in told
