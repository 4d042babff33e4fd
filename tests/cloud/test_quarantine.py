"""Nodes that lie, and daemons with a copied identity: whose reports are refused."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from edge_site import edge_site
from gateway_site import DEADLINE_S, Identity, Stubs, member, status_of

from cloud.errors import BadRequestError, ThrottledError
from cloud.gateway.quarantine import (
    MAX_LIES,
    QUARANTINE_S,
    QUIET_S,
    WINDOW_S,
    Quarantine,
)
from cloud.gateway.server import GatewayThread
from common.errors import IdentityError
from common.pb import takt_pb2 as pb
from common.records import PLACE_METADATA

HONEST, LIE = pb.ReportRequest(seed=1), pb.ReportRequest(peak_memory_mib=-1)


class Seconds:
    """A monotonic clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def call_of(place: str = "", peer: str = "ipv4:192.0.2.7:5") -> Any:
    """Make what a servicer sees of a call."""
    return SimpleNamespace(
        invocation_metadata=lambda: ((PLACE_METADATA, place),) if place else (),
        peer=lambda: peer,
    )


def report(stubs: Stubs, message: pb.ReportRequest, place: str = "") -> None:
    stubs.fleet.Report(
        message,
        timeout=DEADLINE_S,
        metadata=((PLACE_METADATA, place),) if place else None,
    )


def test_a_node_that_lies_is_not_listened_to_for_a_while(
    own: GatewayThread, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        member(own).open(own.address) as liar,
        member(own, "camera").open(own.address) as honest,
        caplog.at_level(logging.WARNING),
    ):
        for _ in range(MAX_LIES):
            assert status_of(lambda: report(liar, LIE))[0] is (
                grpc.StatusCode.INVALID_ARGUMENT
            )
        code, message = status_of(lambda: report(liar, HONEST))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"'sensor' sent {MAX_LIES} impossible messages" in message
        report(honest, HONEST)
    assert [row.node for row in own.running.fleet.reports()] == ["camera"]
    assert "node 'sensor' is in quarantine" in caplog.text


def lie(quarantine: Quarantine, node: str = "sensor") -> None:
    with pytest.raises(BadRequestError), quarantine.around(node, call_of()):
        raise BadRequestError("impossible")


def test_a_quarantine_ends() -> None:
    clock = Seconds()
    quarantine = Quarantine(clock)
    for _ in range(MAX_LIES):
        lie(quarantine)
    clock.now = QUARANTINE_S - 1
    with pytest.raises(ThrottledError), quarantine.around("sensor", call_of()):
        pass
    clock.now = QUARANTINE_S
    with quarantine.around("sensor", call_of()):
        pass


def test_true_messages_between_them_excuse_no_lies_and_time_does() -> None:
    clock = Seconds()
    quarantine = Quarantine(clock)
    for number in range(MAX_LIES):
        clock.now = number * WINDOW_S / (MAX_LIES - 1)
        lie(quarantine)
    with quarantine.around("sensor", call_of()):
        pass
    clock.now += 1
    lie(quarantine)
    with pytest.raises(ThrottledError), quarantine.around("sensor", call_of()):
        pass


def test_the_second_of_two_daemons_with_a_copied_identity_is_refused_and_named(
    own: GatewayThread,
) -> None:
    identity: Identity = member(own)
    with identity.open(own.address) as first, identity.open(own.address) as second:
        report(first, HONEST, place="aaaa")
        code, message = status_of(lambda: report(second, HONEST, place="bbbb"))
        report(first, HONEST, place="aaaa")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "'sensor' is at work already" in message
    assert "place aaaa, here bbbb" in message


def test_a_node_may_move_once_its_old_place_has_been_quiet() -> None:
    clock = Seconds()
    quarantine = Quarantine(clock)
    with quarantine.around("sensor", call_of("aaaa")):
        pass
    clock.now = QUIET_S - 1
    with (
        pytest.raises(IdentityError, match="at work already, at ipv4:192"),
        quarantine.around("sensor", call_of("bbbb")),
    ):
        pass
    clock.now = QUIET_S
    with quarantine.around("sensor", call_of("bbbb")):
        pass


def test_a_daemon_of_a_copied_folder_is_refused_and_a_restarted_one_is_not(
    tmp_path: Path,
) -> None:
    beat = pb.HeartbeatRequest(state="idle")
    with edge_site(tmp_path) as site:
        config = site.join("sensor")
        copy = config.model_copy(update={"state_dir": tmp_path / "copy"})
        for _ in range(2):
            with site.syncing(config) as (link, _):
                link.heartbeat(beat)
        shutil.copytree(config.state_dir, copy.state_dir)
        with (
            site.syncing(copy) as (link, _),
            pytest.raises(IdentityError, match="'sensor' is at work already"),
        ):
            link.heartbeat(beat)
