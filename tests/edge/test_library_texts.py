"""What takt reads in texts of libraries is what their present versions write.

Each entry of a table of texts is met here by an error that the real library raises, so
that a new version with other words is noticed. (Those of pydantic: test_explain.py.)
"""

import contextlib
import errno
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc._cython import cygrpc

from cloud.pki.authority import Authority
from common.errors import OUT_OF_MEMORY_TEXTS, is_out_of_memory
from edge.link.failures import PLAINTEXT, REASONS, REFUSALS, reason

Act = Callable[[socket.socket], object]
ALERT = bytes([0x15, 3, 3, 0, 2, 2])  # a fatal one of TLS 1.2; its number follows
# By the numbers of RFC 8446.
ALERTS = {
    40: "HANDSHAKE_FAILURE",
    42: "CERTIFICATE",
    44: "CERTIFICATE",
    45: "CERTIFICATE",
    46: "CERTIFICATE",
    48: "UNKNOWN_CA",
    49: "ACCESS_DENIED",
    116: "CERTIFICATE",
}

SHORT_MS = 500  # of an attempt to connect that is to end by itself


@contextlib.contextmanager
def listening(act: Act | None, backlog: int = 8) -> Iterator[str]:
    """Do `act` with every connection; None: take none."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        kept = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while act is not None:
                    connection, _ = server.accept()
                    kept.append(connection)
                    act(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()  # or it keeps a connection that nobody closes
    for connection in kept:
        connection.close()


def answering(reply: bytes) -> Act:
    def act(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_RDWR)

    return act


def silent(connection: socket.socket) -> None:
    """Take a connection and say nothing."""


def resetting(connection: socket.socket) -> None:
    connection.recv(4096)
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> grpc.ChannelCredentials:
    authority = Authority(tmp_path_factory.mktemp("pki"))
    authority.init()
    return grpc.ssl_channel_credentials(root_certificates=authority.ca_pem())


def failure(
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    proxy: str = "",
    attempt_ms: int = 20_000,
    **call: Any,
) -> str:
    """Make a call that fails, by attempts to connect so long; return gRPC's text."""
    options = [
        ("grpc.enable_http_proxy", int(bool(proxy))),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", attempt_ms),
        *([("grpc.http_proxy", f"http://{proxy}")] if proxy else []),
    ]
    if credentials is None:
        channel = grpc.insecure_channel(address, options=options)
    else:
        channel = grpc.secure_channel(address, credentials, options=options)
    with channel, pytest.raises(grpc.RpcError) as caught:
        method: Any = channel.unary_unary("/takt/None")
        method(b"", **{"timeout": 30.0, **call})
    return str(caught.value.details())


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def from_a_full_backlog() -> str:
    """Connect where connections are neither taken nor refused.

    Two deadlines of gRPC end at the same time there, and either may come first; tried
    until it is the one whose text is asked for.
    """
    for _ in range(20):
        found = at_a_full_backlog()
        if "handshaker" in found.lower():
            break
    return found


def at_a_full_backlog() -> str:
    with listening(None, backlog=0) as address, contextlib.ExitStack() as stack:
        host, _, port = address.rpartition(":")
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, int(port)))
        return failure(address, attempt_ms=SHORT_MS)


def from_server(
    act: Act, tls: grpc.ChannelCredentials | None = None, **options: Any
) -> str:
    with listening(act) as address:
        return failure(address, tls, **options)


def from_proxy(reply: bytes) -> str:
    with listening(answering(reply)) as proxy:
        return failure("gateway.example:7443", proxy=proxy)


def in_the_library(text: str) -> str:
    """Find what only minutes of silence would provoke, in gRPC's compiled code."""
    code = Path(cygrpc.__file__).read_bytes().lower()
    return text if text.encode() in code else f"gRPC has no {text!r}"


def unreachable_host() -> str:
    """Put the system's word for it where gRPC has put another of the system's."""
    network = failure("255.255.255.255:7443")  # no TCP to a broadcast address
    assert os.strerror(errno.ENETUNREACH) in network
    return network.replace(
        os.strerror(errno.ENETUNREACH), os.strerror(errno.EHOSTUNREACH)
    )


PROVOKED: dict[str, Callable[[grpc.ChannelCredentials], str]] = {
    "proxy returned response code": lambda _: from_proxy(b"HTTP/1.1 403 No\r\n\r\n"),
    "expected 'h'": lambda _: from_proxy(b"220 mail.example ESMTP\r\n"),
    "connection refused": lambda _: failure(closed_port()),
    "misformatted domain name": lambda _: failure(f"{'x' * 64}.example:7443"),
    "errors resolving": lambda _: failure("no-such.invalid:7443"),
    "endpoint closing": lambda tls: from_server(
        lambda _: None, tls, attempt_ms=SHORT_MS
    ),
    "tcp handshaker shutdown": lambda _: from_a_full_backlog(),
    "connection reset": lambda tls: from_server(resetting, tls),
    "socket closed": lambda tls: from_server(answering(b""), tls),
    "network is unreachable": lambda _: failure("255.255.255.255:7443"),
    "no route to host": lambda _: unreachable_host(),
    "invalid argument": lambda _: failure("[fe80::1]:7443"),
    "timed out": lambda _: from_server(silent, attempt_ms=SHORT_MS),
    "ping timeout": lambda _: in_the_library("ping timeout"),
    "keepalive timeout": lambda _: in_the_library("keepalive timeout"),
    "deadline": lambda _: failure(closed_port(), timeout=0.1, wait_for_ready=True),
    "handshake": lambda tls: from_server(answering(b"HTTP/1.1 400 No\r\n\r\n"), tls),
}


def test_every_text_of_grpc_that_is_read_is_provoked_here() -> None:
    assert [text for text, _ in REASONS] == list(PROVOKED)


@pytest.mark.parametrize(("text", "meaning"), REASONS)
def test_grpc_still_writes_the_text_and_it_is_read_as_meant(
    text: str, meaning: str, tls: grpc.ChannelCredentials
) -> None:
    details = PROVOKED[text](tls)
    if text == "invalid argument" and text not in details.lower():
        pytest.skip("no IPv6 here")
    assert text in details.lower()
    assert reason(details) == meaning


def ssl_reason(act: Act) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with listening(act) as address:
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), 30) as raw,
            pytest.raises(ssl.SSLError) as caught,
        ):
            context.wrap_socket(raw)
    return str(caught.value.reason)


def test_openssl_names_a_server_without_tls_as_it_is_read() -> None:
    found = {
        ssl_reason(answering(reply))
        for reply in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            bytes.fromhex("000012040000000000") + bytes(18),  # SETTINGS of HTTP/2
            b"SSH-2.0-OpenSSH_9.2\r\n",
            bytes.fromhex("160303ffff") + bytes(100),
        )
    }
    assert found == set(PLAINTEXT)


def test_openssl_names_a_refused_certificate_as_it_is_read() -> None:
    assert set(ALERTS.values()) == set(REFUSALS)
    for number, part in ALERTS.items():
        found = ssl_reason(answering(ALERT + bytes([number])))
        assert "ALERT" in found and part in found


def _too_much_for_cuda() -> object:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.empty(2**50, dtype=torch.uint8, device="cuda")


def _too_much_for_a_vector() -> object:
    images: Any = torch.zeros(1).expand(2**50)
    return images.split(1)


OUT_OF_MEMORY: dict[str, Callable[[], object]] = {
    "bad_alloc": _too_much_for_a_vector,
    "can't allocate": lambda: torch.empty(2**60, dtype=torch.uint8),
    "out of memory": _too_much_for_cuda,
}


def test_every_text_of_memory_that_ran_out_is_provoked_here() -> None:
    assert set(OUT_OF_MEMORY_TEXTS) == set(OUT_OF_MEMORY)


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_an_allocation_that_fails_in_torch_is_known_by_its_text(text: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        OUT_OF_MEMORY[text]()
    assert text in str(caught.value).lower()
    assert is_out_of_memory(caught.value)


def test_onednn_that_fails_without_a_reason_counts_as_memory_that_ran_out() -> None:
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create anything else"))
