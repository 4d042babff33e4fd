"""What a node says of itself: the line of its status, and why it did not start."""

import logging
from pathlib import Path

import pytest

from common.config import ProfileConfig
from common.errors import IdentityError
from deploy.cli.edge import describe_status
from edge.config import EdgeConfig
from edge.daemon import run_daemon
from edge.state import Status, read_status


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
