"""What a call of an admitted node asks of the authority: its certificate once."""

import asyncio
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clocks import Clock
from gateway_site import signed_by

from cloud.gateway.authorization import Authorization, caller
from cloud.pki.authority import Authority, Lifetimes
from common.errors import IdentityError

METHOD = "/takt.v1.FleetService/Heartbeat"


class Counting(Authority):
    """Counts how often it is asked."""

    num_asked = 0

    def check(self, certificate_pem: bytes) -> str:
        """Count, and check."""
        self.num_asked += 1
        return super().check(certificate_pem)


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Counting:
    lifetimes = Lifetimes(node=timedelta(days=30))
    authority = Counting(tmp_path / "pki", clock=clock, lifetimes=lifetimes)
    authority.init()
    return authority


def calls(
    authorization: Authorization, certificate_pem: bytes, times: int = 1
) -> list[str]:
    """Make so many calls; return who made each, as it is said inside of it."""

    async def call() -> str:
        peer = {"x509_pem_cert": (certificate_pem,)}
        context: Any = SimpleNamespace(auth_context=lambda: peer)
        with authorization.authorize(METHOD, context):
            return caller().node

    async def all_calls() -> list[str]:
        return [await call() for _ in range(times)]

    return asyncio.run(all_calls())


def test_a_certificate_is_checked_at_its_first_call_and_when_the_list_has_changed(
    authority: Counting, clock: Clock
) -> None:
    sensor = signed_by(authority, "sensor").certificate_pem
    authorization = Authorization(authority, max_calls_per_node=1, clock=clock)
    assert calls(authorization, sensor, times=5) == ["sensor"] * 5
    assert authority.num_asked == 1
    camera = signed_by(authority, "camera").certificate_pem
    assert calls(authorization, sensor, times=2) == ["sensor"] * 2
    assert calls(authorization, camera, times=2) == ["camera"] * 2
    assert authority.num_asked == 3


def test_a_node_revoked_by_another_process_is_refused_once_the_list_was_looked_at(
    authority: Counting, clock: Clock
) -> None:
    sensor = signed_by(authority, "sensor").certificate_pem
    authorization = Authorization(authority, max_calls_per_node=1, clock=clock)
    calls(authorization, sensor)
    Authority(authority.folder, clock=clock).revoke("sensor")
    authority.allow_list.entries()  # as the sweep does, twice a second
    with pytest.raises(IdentityError, match="'sensor' is revoked"):
        calls(authorization, sensor)


@pytest.mark.parametrize("days", [-1, 31])
def test_a_certificate_out_of_its_time_is_refused_though_it_was_admitted(
    authority: Counting, clock: Clock, days: int
) -> None:
    sensor = signed_by(authority, "sensor").certificate_pem
    authorization = Authorization(authority, max_calls_per_node=1, clock=clock)
    calls(authorization, sensor)
    clock.now += timedelta(days=days)
    with pytest.raises(IdentityError, match="is valid from"):
        calls(authorization, sensor)
