"""What a node says of itself: the line of its status, and why it did not start."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from transfer_site import write_transfer_release
from typer.testing import CliRunner

from common.config import ProfileConfig
from common.errors import ConfigError, IdentityError
from deploy.cli.edge import app, describe_shipped, describe_status
from edge.config import EdgeConfig
from edge.daemon import run_daemon
from edge.state import StateDir, Status, read_status


def test_a_release_that_was_refused_is_said_with_the_reason_cut_short() -> None:
    reason = "digest of a shard is wrong" + "; x" * 500
    line = describe_status(
        Status(node="n", state="idle", version=3, outcome="refused", message=reason)
    )
    assert line.startswith(
        "n: idle, release 3, the last release was refused, digest of a shard is wrong"
    )
    assert len(line) < 400


def test_a_name_in_a_status_does_not_steer_the_terminal() -> None:
    line = describe_status(Status(node="n", message="cannot read a\x1b[2J\nb.png"))
    assert line == r"n: enrolled, cannot read a\x1b[2J\nb.png"


def test_a_release_that_was_promoted_is_the_ordinary_case() -> None:
    line = describe_status(
        Status(node="n", state="idle", version=3, outcome="promoted")
    )
    assert line == "n: idle, release 3"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transfer_release(tmp_path_factory.mktemp("release"))


def test_a_status_says_what_the_cloud_measured_of_the_student_that_was_shipped(
    release: Path, tmp_path: Path
) -> None:
    state, config = tmp_path / "state", tmp_path / "edge.toml"
    StateDir(state).create()
    shutil.copytree(release, StateDir(state).releases / "1")
    StateDir(state).write_status(Status(node="n", state="idle", version=1))
    config.write_text(
        'node = "n"\nstudent = "tiny"\ngateway = "127.0.0.1:9"\n'
        f'state_dir = "{state}"\n'
        "profile = { cpus = 1, memory_mib = 500, bandwidth_kib_s = 100 }\n"
    )
    said = CliRunner().invoke(app, ["status", "--config", str(config)])
    assert said.stdout.splitlines() == [
        "n: idle, release 1",
        "release 1 ships tiny: clean 50.0 %, 50.0 % (PGD 5 steps, Linf, eps 0.15, "
        "60 images), on the cloud's validation images",
    ]


def test_a_release_without_the_nodes_student_ships_nothing_to_tell_of(
    release: Path,
) -> None:
    assert describe_shipped(release, "adaad") == ""


def test_a_release_that_is_still_being_pulled_is_not_told_of(tmp_path: Path) -> None:
    assert describe_shipped(tmp_path / "2", "tiny") == ""


def test_a_node_in_a_folder_whose_name_no_record_can_hold_is_refused(
    tmp_path: Path,
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    done = CliRunner().invoke(app, ["once", "--config", str(folder / "edge.toml")])
    assert isinstance(done.exception, ConfigError)
    assert r"caf\xe9/edge.toml is not UTF-8" in str(done.exception)


@pytest.mark.parametrize("once", [True, False])
def test_a_node_that_is_not_enrolled_says_so_once(
    once: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = EdgeConfig(
        node="n",
        student="tiny",
        gateway="127.0.0.1:9",
        profile=ProfileConfig(cpus=1.0, memory_mib=500, bandwidth_kib_s=100),
        state_dir=tmp_path,
    )
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(IdentityError, match="is missing; run `takt edge enroll`"),
    ):
        run_daemon(config, once=once)
    assert not caplog.records
    assert "is missing" in read_status(tmp_path).message
