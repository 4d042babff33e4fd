"""Refused calls in the gateway's log: one peer's do not wash the rest away."""

import logging
from pathlib import Path

import grpc
import pytest
from gateway_site import member, status_of

from cloud.errors import BadRequestError
from cloud.gateway.refusal_log import EVERY_S, MAX_KINDS, RefusalLog
from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.errors import IdentityError, StorageError, TaktError

CALL = "/takt.v1.FleetService/Heartbeat"
REVOKED = IdentityError("node 'hub' is revoked")


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        """Start at zero."""
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def log(seconds: Seconds, caplog: pytest.LogCaptureFixture) -> RefusalLog:
    caplog.set_level(logging.INFO)
    return RefusalLog(clock=seconds)


def refuse(log: RefusalLog, error: Exception = REVOKED, peer: str = "hub") -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    log.note(error, denied, method=CALL, node=peer, peer=peer)


def test_five_hundred_refused_calls_of_a_revoked_node_are_two_lines_at_most(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with GatewayThread(storage=StorageDir(tmp_path)) as gateway:
        identity = member(gateway)
        gateway.running.authority.revoke("sensor")
        with identity.open(gateway.address) as stubs:
            for _ in range(500):
                code, _ = status_of(stubs.beat)
                assert code is grpc.StatusCode.PERMISSION_DENIED
        assert gateway.running.status.look().refused["PERMISSION_DENIED"] == 500
    said = [line for line in caplog.messages if "'sensor' is revoked" in line]
    assert 1 <= len(said) <= 2


def test_the_next_line_says_how_many_were_left_out(
    log: RefusalLog, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        refuse(log)
    seconds.now += EVERY_S
    refuse(log)
    first, second = caplog.messages
    assert first == f"{CALL} from hub refused: node 'hub' is revoked"
    assert second == first + " (and 4 more like it since the last line)"


@pytest.mark.parametrize(
    ("error", "peer"), [(BadRequestError("no such path"), "hub"), (REVOKED, "camera")]
)
def test_another_reason_and_another_peer_are_said_at_once(
    log: RefusalLog, caplog: pytest.LogCaptureFixture, error: TaktError, peer: str
) -> None:
    refuse(log)
    refuse(log, error, peer)
    assert len(caplog.messages) == 2


def test_what_is_remembered_is_bounded(log: RefusalLog) -> None:
    for number in range(MAX_KINDS + 10):
        refuse(log, peer=f"node-{number}")
    assert log.num_remembered() == MAX_KINDS


def test_a_bug_and_a_storage_that_fails_are_errors_and_a_bug_is_said_in_full(
    log: RefusalLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        full = StorageError("the disk is full")
        log.note(full, grpc.StatusCode.UNAVAILABLE, method=CALL, node="", peer="hub")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as e:
            log.note(e, grpc.StatusCode.INTERNAL, method=CALL, node="", peer="hub")
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "the disk is full" in caplog.messages[0]
    assert "Traceback" in caplog.text


def test_enrolments_that_are_refused_are_named_each_time(
    log: RefusalLog, caplog: pytest.LogCaptureFixture
) -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    for _ in range(3):
        log.note(REVOKED, denied, method=CALL, node="", peer="hub")
    assert len(caplog.messages) == 3
