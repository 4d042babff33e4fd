"""The command that runs every gate: its groups of tests, its last lines, the stubs."""

import itertools
import os
import shutil
from pathlib import Path

import pytest

from deploy.dev.gates import (
    Summary,
    gate_environment,
    groups_of,
    stubs_are_current,
    take_deadline,
    worker_options,
)

ROOT = Path(__file__).resolve().parents[2]


def titles(*options: str) -> list[str]:
    return [group.title for group in groups_of(options)[0]]


def test_the_default_group_leaves_out_what_is_slow_or_needs_more() -> None:
    (group,), rest = groups_of([])
    assert group.markers == "not slow and not docker and not gpu"
    assert rest == []


def test_switches_bring_groups_in_after_the_default_tests() -> None:
    assert titles("--slow") == ["default tests", "slow tests"]
    assert titles("--slow", "--docker") == [
        "default tests",
        "container tests",
        "slow tests",
    ]
    assert titles("--all")[-1] == "GPU tests"


def test_every_test_is_in_exactly_one_group() -> None:
    for slow, docker, gpu in itertools.product((False, True), repeat=3):
        marks = {"slow": slow, "docker": docker, "gpu": gpu}
        # An expression of pytest's -m reads as one of Python's.
        chosen = [g for g in groups_of(["--all"])[0] if eval(g.markers or "", marks)]
        assert len(chosen) == 1, marks


def test_switches_do_not_reach_pytest_and_other_options_do() -> None:
    assert groups_of(["--slow", "-k", "caps", "--docker"])[1] == ["-k", "caps"]


def test_default_and_slow_tests_run_on_several_cores_unless_options_choose_some() -> (
    None
):
    default, containers, slow = groups_of(["--docker", "--slow"])[0]
    assert worker_options(slow, [], cores=2) == worker_options(default, [], cores=2)
    assert worker_options(default, [], cores=2)[:2] == ["-n", "2"]
    assert worker_options(default, [], cores=64)[:2] == ["-n", "4"]
    assert worker_options(default, [], cores=1) == []
    assert worker_options(default, ["--pdb"], cores=2) == []
    assert worker_options(containers, [], cores=2) == []


def test_markers_that_the_user_chose_are_left_alone() -> None:
    (group,), rest = groups_of(["-m", "gpu"])
    assert group.markers is None
    assert rest == ["-m", "gpu"]


def test_the_time_to_begin_is_taken_out_of_the_options() -> None:
    options = ["--slow", "--begin-before", "12", "-x"]
    assert take_deadline(options) == (12.0, ["--slow", "-x"])
    assert take_deadline(["--slow"]) == (None, ["--slow"])


@pytest.mark.parametrize("options", [["--begin-before"], ["--begin-before", "soon"]])
def test_a_time_to_begin_that_is_no_number_is_refused(options: list[str]) -> None:
    with pytest.raises(ValueError, match="takes a Unix time in seconds"):
        take_deadline(options)


def test_the_last_lines_say_what_passed_what_failed_and_what_did_not_run() -> None:
    seconds = iter([0.0, 3.0, 3.0, 10.0])
    summary = Summary(lambda: next(seconds))
    with summary.entry("ruff check") as entry:
        entry.passed = True
    with summary.entry("default tests"):
        pass
    summary.leave_out("slow tests", "its time to begin has passed")
    assert summary.failed
    assert summary.lines() == [
        "takt test: ruff check: passed in 3 s",
        "takt test: default tests: FAILED in 7 s",
        "takt test: slow tests: did not run; its time to begin has passed",
    ]


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
