"""The gateway's own certificate is renewed while it serves; streams go on."""

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clocks import Clock
from cryptography import x509
from gateway_site import DEADLINE_S, member, put_file
from waiting import WAIT_S

from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.address import parse_address
from common.config import GatewayConfig
from common.pb import takt_pb2 as pb

SIZE = 4 * 1024 * 1024


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = datetime.now(UTC) - timedelta(days=300)
    return clock


@pytest.fixture
def gateway(tmp_path: Path, clock: Clock) -> Iterator[GatewayThread]:
    """Start a gateway 300 days ago."""
    storage = StorageDir(tmp_path / "storage")
    storage.create()
    with GatewayThread(storage=storage, clock=clock) as gateway:
        put_file(gateway.running.repository, "targets/long", bytes(SIZE))
        clock.now = datetime.now(UTC)
        yield gateway


def look(gateway: GatewayThread) -> None:
    done = asyncio.run_coroutine_threadsafe(
        gateway.running.certificate.look(), gateway.loop
    )
    done.result(WAIT_S)


def served(address: str) -> x509.Certificate:
    host, port = parse_address(address)
    return x509.load_pem_x509_certificate(
        ssl.get_server_certificate((host, port), timeout=WAIT_S).encode()
    )


def test_both_ports_present_the_renewed_certificate_to_new_connections(
    gateway: GatewayThread,
) -> None:
    addresses = (gateway.address, gateway.enroll_address)
    old = {served(address) for address in addresses}
    look(gateway)
    new = {served(address) for address in addresses}
    assert len(old) == len(new) == 1
    assert new.pop().not_valid_after_utc > old.pop().not_valid_after_utc


def test_an_open_stream_survives_the_renewal(gateway: GatewayThread) -> None:
    with member(gateway).open(gateway.address) as stubs:
        request = pb.FetchRequest(path="targets/long")
        stream = stubs.releases.Fetch(request, timeout=DEADLINE_S)
        received = len(next(stream).data)
        look(gateway)
        assert served(gateway.address).not_valid_before_utc > datetime.now(
            UTC
        ) - timedelta(days=1)
        received += sum(len(message.data) for message in stream)
    assert received == SIZE


def test_a_node_that_connects_afterwards_trusts_the_renewed_certificate(
    gateway: GatewayThread,
) -> None:
    look(gateway)
    with member(gateway).open(gateway.address) as stubs:
        stubs.beat()


def test_a_look_too_early_changes_nothing(gateway: GatewayThread, clock: Clock) -> None:
    clock.now -= timedelta(days=299)
    before = served(gateway.address)
    look(gateway)
    assert served(gateway.address) == before


def test_lives_are_those_of_the_config(tmp_path: Path) -> None:
    storage = StorageDir(tmp_path / "storage")
    storage.create()
    config = GatewayConfig(node_days=2, server_days=5)
    with GatewayThread(storage=storage, config=config) as gateway:
        node = x509.load_pem_x509_certificate(member(gateway).certificate_pem)
        lives = [
            c.not_valid_after_utc - datetime.now(UTC)
            for c in (node, served(gateway.address))
        ]
    assert [round(life / timedelta(days=1)) for life in lives] == [2, 5]
