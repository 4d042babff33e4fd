"""A gateway and its ports: kept, refused, named, pinged."""

import asyncio
import socket
from pathlib import Path

import grpc
import pytest
from gateway_site import member, status_of, stubs_of
from waiting import WAIT_S

from cloud.gateway.listeners import PING_INTERVAL_S
from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.config import GatewayConfig
from common.errors import AddressError, TaktError
from common.pb import takt_pb2 as pb


def test_a_restarted_gateway_comes_back_on_the_same_ports(tmp_path: Path) -> None:
    with GatewayThread(storage=StorageDir(tmp_path)) as first:
        identity = member(first)
        with identity.open(first.address) as stubs:
            stubs.beat()
    with GatewayThread(storage=StorageDir(tmp_path)) as second:
        assert second.address == first.address
        assert second.enroll_address == first.enroll_address
        with identity.open(second.address) as stubs:
            stubs.beat()


def test_a_port_in_use_is_named_with_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for config in (GatewayConfig(port=port), GatewayConfig(enroll_port=port)):
            gateway = GatewayThread(storage=StorageDir(tmp_path), config=config)
            with pytest.raises(AddressError, match=rf"port {port} on .* gateway\.port"):
                gateway.__enter__()


def test_two_gateways_do_not_share_a_port(own: GatewayThread, tmp_path: Path) -> None:
    port = int(own.address.rpartition(":")[2])
    other = GatewayThread(
        storage=StorageDir(tmp_path / "b"), config=GatewayConfig(port=port)
    )
    (tmp_path / "b").mkdir()
    with pytest.raises(AddressError, match="in use"):
        other.__enter__()


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_is_named(tmp_path: Path, host: str) -> None:
    gateway = GatewayThread(
        storage=StorageDir(tmp_path), config=GatewayConfig(host=host)
    )
    with pytest.raises(AddressError, match=rf"{host}.*address of this machine"):
        gateway.__enter__()


def test_a_gateway_is_reached_by_the_name_on_its_certificate(tmp_path: Path) -> None:
    config = GatewayConfig(host="0.0.0.0", names=("localhost",))
    with GatewayThread(storage=StorageDir(tmp_path), config=config) as gateway:
        assert gateway.address.startswith("localhost:")
        with member(gateway).open(gateway.address) as stubs:
            stubs.beat()


def test_a_node_that_pings_at_rest_is_not_sent_away(tmp_path: Path) -> None:
    """The same settings at shorter times: the node's own is three times the bound.

    Here it is twenty times, so that a gateway that is late does not see two at once.

    A gateway with gRPC's own bound sends this peer away after five seconds.
    """
    with GatewayThread(storage=StorageDir(tmp_path), ping_interval_s=0.05) as gateway:
        identity = member(gateway)
        credentials = grpc.ssl_channel_credentials(
            identity.ca_pem, identity.key_pem, identity.certificate_pem
        )
        options = [
            ("grpc.keepalive_time_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        with grpc.secure_channel(gateway.address, credentials, options) as channel:
            watch = stubs_of(channel).releases.Watch
            request = pb.WatchRequest(channel="digits")
            code, _ = status_of(lambda: list(watch(request, timeout=8)))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert PING_INTERVAL_S <= 10  # the node's own is 30


def test_a_gateway_knows_whether_it_is_well(own: GatewayThread) -> None:
    def check() -> None:
        asyncio.run_coroutine_threadsafe(own.running.check(), own.loop).result(WAIT_S)

    check()
    own.loop.call_soon_threadsafe(own.running.background[0].cancel)
    with pytest.raises(TaktError, match="watch on the repository ended: cancelled"):
        check()
