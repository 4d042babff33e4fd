"""Port forwarding between a node's network and the gateway: what passes, what not."""

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from edge_site import EdgeSite, edge_site

from common.errors import AddressError, ConfigError
from deploy.containers.port_forward import Forward, listen, main, parse_forward
from edge.daemon.enrolment import enroll


@contextmanager
def forwarding(target: str) -> Iterator[int]:
    """Forward to host:port in a loop of its own; yield its port."""
    host, _, port = target.rpartition(":")
    loop = asyncio.new_event_loop()
    opening = listen(Forward(0, host, int(port)), "127.0.0.1")
    server = loop.run_until_complete(opening)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_a_node_enrols_through_a_forwarded_port_and_verifies_the_gateway_behind_it(
    site: EdgeSite,
) -> None:
    assert site.gateway is not None
    with forwarding(site.gateway.enroll_address) as port:
        config = site.node_config("porch", enroll=f"127.0.0.1:{port}")
        assert enroll(config, site.allow("porch")).node == "porch"


def test_a_forward_to_nowhere_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    with (
        forwarding(f"127.0.0.1:{closed}") as port,
        socket.create_connection(("127.0.0.1", port), 10) as caller,
        contextlib.suppress(ConnectionResetError),
    ):
        assert caller.recv(1) == b""


def test_bytes_pass_both_ways_until_one_side_ends() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        forwarding(f"127.0.0.1:{server.getsockname()[1]}") as port,
        socket.create_connection(("127.0.0.1", port), 10) as caller,
    ):
        there, _ = server.accept()
        with there:
            caller.sendall(b"question")
            assert there.recv(100) == b"question"
            there.sendall(b"answer")
            assert caller.recv(100) == b"answer"
        assert caller.recv(100) == b""


def test_a_stop_closes_both_sides_of_what_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"127.0.0.1:{server.getsockname()[1]}"
        with contextlib.ExitStack() as stack:
            with forwarding(target) as port:
                caller = socket.create_connection(("127.0.0.1", port), 10)
                stack.enter_context(caller)
                there = stack.enter_context(server.accept()[0])
                caller.sendall(b"question")
                assert there.recv(100) == b"question"
            gc.collect()  # an end that was left open is a warning, and so a failure
            for end in (caller, there):
                with contextlib.suppress(ConnectionResetError):
                    assert end.recv(1) == b""


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        forward = Forward(taken.getsockname()[1], "127.0.0.1", 1)
        with pytest.raises(AddressError, match="cannot listen"):
            asyncio.run(listen(forward, "127.0.0.1"))


def test_a_forward_is_read_with_its_two_ports() -> None:
    assert parse_forward("7443=head:8443") == Forward(7443, "head", 8443)


@pytest.mark.parametrize("text", ["", "7443", "7443=head", "x=head:1", "1=:1"])
def test_a_forward_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="PORT=HOST:PORT"):
        parse_forward(text)


def test_without_a_forward_the_program_ends_with_the_code_for_a_wrong_option() -> None:
    assert main([]) == ConfigError.exit_code
