"""Connections that cost others nothing: bounded for an address, a port, and in time."""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_site import DEADLINE_S, enrolment, make_key, member, request_for
from waiting import WAIT_S, until

from cloud.gateway.connections import Connections
from cloud.gateway.listeners import ENROLLING, NODES, Bounds
from cloud.gateway.probe import check_gateway
from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.address import parse_address
from common.config import GatewayConfig
from common.pb import takt_pb2 as pb

STRANGER, OTHER = "127.0.0.2", "127.0.0.3"  # Linux has all of 127/8 on loopback


@contextlib.contextmanager
def connected(
    port: int, number: int, *, source: str = STRANGER
) -> Iterator[list[socket.socket]]:
    """Open connections that say nothing, one after the other."""
    with contextlib.ExitStack() as stack:
        ends = []
        for _ in range(number):
            end = socket.create_connection(("127.0.0.1", port), 5, (source, 0))
            end.setblocking(False)
            ends.append(stack.enter_context(end))
        yield ends


def is_closed(end: socket.socket) -> bool:
    """Tell whether the other side has ended a connection on which it says nothing."""
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def num_closed(ends: list[socket.socket]) -> int:
    return sum(map(is_closed, ends))


@contextlib.contextmanager
def gateway_with(
    folder: Path, bounds: Bounds = NODES, *, most: int = 256
) -> Iterator[GatewayThread]:
    config = GatewayConfig(max_connections_per_address=most)
    storage = StorageDir(folder)
    with GatewayThread(storage=storage, config=config, bounds=bounds) as gateway:
        yield gateway


@pytest.mark.parametrize("port", ["address", "enroll_address"])
def test_an_address_with_too_many_connections_loses_its_newest_and_nodes_go_on(
    tmp_path: Path, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None ends by itself meanwhile.
    enrolling = replace(ENROLLING, handshake_s=DEADLINE_S)
    monkeypatch.setattr("cloud.gateway.server.ENROLLING", enrolling)
    with (
        gateway_with(tmp_path, Bounds(handshake_s=DEADLINE_S), most=8) as gateway,
        member(gateway).open(gateway.address) as stubs,
    ):
        stubs.beat()
        number = parse_address(getattr(gateway, port)).port
        with connected(number, 20) as ends:
            until("those beyond it are closed", lambda: num_closed(ends) == 12)
            # Which twelve is open: one look may have seen all of them at once.
            first = [end for end in ends if not is_closed(end)]
            with connected(number, 3) as newest:
                until("the newest are closed", lambda: num_closed(newest) == 3)
            assert num_closed(first) == 0
            stubs.beat()
            with connected(number, 1, source=OTHER) as (another,):
                assert not is_closed(another)


def test_a_port_takes_no_more_connections_than_its_bound_and_nodes_go_on(
    tmp_path: Path,
) -> None:
    with (
        gateway_with(
            tmp_path, Bounds(connections=10, handshake_s=DEADLINE_S)
        ) as gateway,
        member(gateway).open(gateway.address) as stubs,
    ):
        stubs.beat()
        with connected(parse_address(gateway.address).port, 30) as ends:
            until("those beyond it are closed", lambda: num_closed(ends) == 21)
            stubs.beat()
        until("there is room again", lambda: answers(gateway))


def answers(gateway: GatewayThread) -> bool:
    """Tell whether a new connection is served."""
    with member(gateway, "camera").open(gateway.address) as stubs:
        try:
            stubs.beat()
        except grpc.RpcError:
            return False
    return True


def test_a_handshake_that_does_not_come_ends_the_connection(tmp_path: Path) -> None:
    with (
        gateway_with(tmp_path, Bounds(handshake_s=0.2)) as gateway,
        connected(parse_address(gateway.address).port, 1) as (end,),
    ):
        until("it is closed", lambda: is_closed(end))


def test_a_connection_without_a_call_is_closed_and_made_again_when_it_is_needed(
    tmp_path: Path,
) -> None:
    with gateway_with(tmp_path, Bounds(idle_s=2.0)) as gateway:
        states: list[grpc.ChannelConnectivity] = []

        def was_left() -> bool:
            ready, idle = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE
            return ready in states and idle in states[states.index(ready) :]

        with member(gateway).channel(gateway.address) as channel:
            channel.subscribe(states.append)
            beat: Any = channel.unary_unary("/takt.v1.FleetService/Heartbeat")
            beat(b"\x0a\x04idle", timeout=DEADLINE_S)
            until("it is closed", was_left)
            beat(b"\x0a\x04idle", timeout=DEADLINE_S)


def test_a_look_that_fails_does_not_make_old_connections_new_ones() -> None:
    """Without it the ones that came first were taken for the newest, and closed."""
    names: list[str] = []

    def listing() -> list[str]:
        if not names:
            raise OSError(errno.EMFILE, "Too many open files")
        return names

    with (
        socket.create_server(("127.0.0.1", 0)) as mine,
        connected(mine.getsockname()[1], 3) as ends,
        contextlib.ExitStack() as accepted,
    ):
        port = mine.getsockname()[1]
        connections = Connections({port: 3}, listing=listing)
        taken = [accepted.enter_context(mine.accept()[0]) for _ in range(3)]
        names[:] = [str(each.fileno()) for each in taken]
        assert connections.sweep() == 0
        names.clear()
        assert connections.sweep() == 0
        with connected(port, 1) as (late,):
            newest = accepted.enter_context(mine.accept()[0])
            names[:] = [str(each.fileno()) for each in (newest, *taken)]
            assert connections.sweep() == 1
            until("it is closed", lambda: is_closed(late))
        assert num_closed(ends) == 0


def test_only_connections_to_the_ports_are_counted_and_the_newest_go() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mine,
        socket.create_server(("127.0.0.1", 0)) as others,
        connected(mine.getsockname()[1], 3) as ends,
        connected(mine.getsockname()[1], 2, source=OTHER) as more,
        connected(others.getsockname()[1], 5) as elsewhere,
        contextlib.ExitStack() as accepted,
    ):
        for server in (mine, others):
            for _ in range(5):
                accepted.enter_context(server.accept()[0])
        connections = Connections({mine.getsockname()[1]: 2})
        assert connections.sweep() == 1
        assert connections.sweep() == 0
        until("one is closed", lambda: num_closed(ends + more + elsewhere) == 1)
        with connected(mine.getsockname()[1], 1) as (late,):
            accepted.enter_context(mine.accept()[0])
            assert connections.sweep() == 1
            until("it is closed", lambda: is_closed(late))
        assert num_closed(more + elsewhere) == 0


def end_from(port: int, to: int) -> socket.socket:
    """Connect from a port of the stranger's, whatever else is connected from there."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.bind((STRANGER, port))
    end.connect(("127.0.0.1", to))
    end.setblocking(False)
    return end


def test_a_connection_that_comes_again_from_the_same_port_is_counted_again() -> None:
    """A peer that reset it, and was back before the next look, had no bound."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mine,
        connected(mine.getsockname()[1], 1) as (first,),
        contextlib.ExitStack() as accepted,
    ):
        port = mine.getsockname()[1]
        connections = Connections({port: 1})
        accepted.enter_context(mine.accept()[0])
        assert connections.sweep() == 0
        source = 0
        for _ in range(3):
            with end_from(source, port) as late, mine.accept()[0]:
                source = late.getsockname()[1]
                assert connections.sweep() == 1
                reset = struct.pack("ii", 1, 0)
                late.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        assert not is_closed(first)


def test_a_connection_to_each_port_from_the_same_port_are_two() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as nodes,
        socket.create_server(("127.0.0.1", 0)) as enrolling,
        contextlib.ExitStack() as accepted,
    ):
        ports = [server.getsockname()[1] for server in (nodes, enrolling)]
        connections = Connections(dict.fromkeys(ports, 1))
        source = 0
        ends = []
        for _ in range(2):
            for server, port in zip((nodes, enrolling), ports, strict=True):
                end = accepted.enter_context(end_from(source, port))
                accepted.enter_context(server.accept()[0])
                source = end.getsockname()[1]
                ends.append(end)
            source = 0
        assert connections.sweep() == 2
        assert [num_closed(ends[i::2]) for i in (0, 1)] == [1, 1]


def test_an_address_does_not_fill_the_enrolment_port_of_a_gateway_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = replace(ENROLLING, handshake_s=2 * WAIT_S)
    monkeypatch.setattr("cloud.gateway.server.ENROLLING", patient)
    storage = StorageDir(tmp_path)
    with GatewayThread(storage=storage) as gateway:
        port = parse_address(gateway.enroll_address).port
        with connected(port, ENROLLING.connections) as ends:
            until("there is room", lambda: num_closed(ends) > 128)
            assert check_gateway(storage) == gateway.address
            token, key = gateway.running.authority.allow("hub"), make_key()
            request = pb.EnrollRequest(
                node="hub", token=token, csr_pem=request_for("hub", key)
            )
            with enrolment(gateway) as fleet:
                assert fleet.Enroll(request, timeout=DEADLINE_S).certificate_pem
            assert num_closed(ends) < ENROLLING.connections
