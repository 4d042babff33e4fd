"""What peers of the status page may take: places, time, lines of the log."""

import contextlib
import logging
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from waiting import WAIT_S, until

from cloud.gateway.status import Status
from cloud.gateway.status_page import MAX_ANSWERED, StatusPage

NUM_PEERS = 100
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closed at once, what is unsent dropped


def no_status() -> Status:
    raise RuntimeError("a bug of ours")


@contextlib.contextmanager
def page(request_s: float = WAIT_S) -> Iterator[StatusPage]:
    page = StatusPage(no_status, "127.0.0.1", 0, request_s=request_s)
    try:
        yield page
    finally:
        page.close()


def connect(page: StatusPage) -> socket.socket:
    peer = socket.create_connection((page.host, page.port), WAIT_S)
    peer.setblocking(False)
    return peer


def is_closed(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def num_answering() -> int:
    """Count the threads that answer somebody."""
    return sum("process_request" in each.name for each in threading.enumerate())


def is_answered(page: StatusPage) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{page.host}:{page.port}/", timeout=WAIT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def test_slow_peers_take_a_bounded_number_of_threads() -> None:
    """Each had one: 300 of them made 302."""
    with page() as slow, contextlib.ExitStack() as opened:
        peers = [opened.enter_context(connect(slow)) for _ in range(NUM_PEERS)]
        last = peers[-1]
        until("the last one is closed, or has a thread", lambda: is_over(last))
        assert num_answering() == MAX_ANSWERED
        assert sum(map(is_closed, peers)) == NUM_PEERS - MAX_ANSWERED
        for peer in peers:
            peer.close()
        until("there is room again", lambda: is_answered(slow))


def is_over(last: socket.socket) -> bool:
    return is_closed(last) or num_answering() == NUM_PEERS


def test_a_request_that_trickles_in_is_cut_off() -> None:
    """Each byte began the time anew."""
    with page(request_s=0.2) as hasty, connect(hasty) as peer:

        def is_cut_off() -> bool:
            with contextlib.suppress(OSError):
                peer.send(b"G")
            return is_closed(peer)

        until("it is cut off", is_cut_off)


def test_a_peer_that_resets_its_connection_leaves_one_line_of_a_debug_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with page() as quiet:
        peer = connect(quiet)
        peer.send(b"GET /")
        until("it is being answered", lambda: num_answering() == 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        peer.close()
        until("that is over", lambda: num_answering() == 0)
    assert capfd.readouterr().err == ""
    (line,) = [r for r in caplog.records if "ConnectionResetError" in r.getMessage()]
    assert line.levelno == logging.DEBUG
    assert "\n" not in line.getMessage()


def test_a_bug_behind_the_page_is_one_line_of_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with page() as broken:
        assert is_answered(broken)
        until("its line", lambda: "RuntimeError: a bug of ours" in caplog.text)
        until("the answer's end", lambda: num_answering() == 0)
    assert capfd.readouterr().err == ""
