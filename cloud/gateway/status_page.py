"""The gateway's status over HTTP: `/` for people, `/status.json`, `/metrics`.

Plain HTTP without a login, so bound to loopback unless the config says otherwise;
it tells nothing secret, but the names of nodes. Prometheus' own library writes the
metrics. Few are answered at a time, each for so long and no longer. Not here: what is
shown (`cloud.gateway.status`).
"""

import contextlib
import io
import json
import logging
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cloud.gateway.addresses import bind_error
from cloud.gateway.status import Status, as_metrics, as_text, as_tree
from common.address import join
from common.errors import AddressError

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
REQUEST_S = 10.0  # from the connection on, until it has been answered
MAX_ANSWERED = 16  # connections at a time; more are closed at once
Environ = dict[str, Any]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_s = REQUEST_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Those that are being answered, each with its end by the monotonic clock.
        self._answered: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless too many are being answered."""
        if len(self._answered) >= MAX_ANSWERED:
            logger.debug("status page: too many peers, closed %s", client_address)
            self.shutdown_request(request)
            return
        self._answered[request] = time.monotonic() + self.request_s
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, answered or not."""
        self._answered.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off, twice a second, those whose time is over: their threads end."""
        now = time.monotonic()
        for request, end in tuple(self._answered.items()):
            if now > end:
                with contextlib.suppress(OSError):  # it has been closed meanwhile
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line why a connection ended early."""
        error = sys.exception()
        logger.debug("status page: %s: %r", client_address, error)

    def server_bind(self) -> None:
        """Bind without asking a name server for the host's full name."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), port
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Errors(io.StringIO):
    """Takes tracebacks of wsgiref; the log gets the last line of each."""

    def flush(self) -> None:
        lines = self.getvalue().split("\n")
        self.seek(self.truncate(0))
        if any(lines):
            logger.error("status page: %s", [line for line in lines if line][-1])


class _Quiet(WSGIRequestHandler):
    def get_stderr(self) -> Any:
        return _Errors()

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.debug("status page: %s", format % arguments)


class _Source(Collector):
    def __init__(self, look: Callable[[], Status]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        return as_metrics(self._look())


class StatusPage:
    """A small HTTP server, in threads of its own.

    Attributes:
        host: that it is bound to.
        port: likewise.
    """

    def __init__(
        self,
        look: Callable[[], Status],
        host: str,
        port: int,
        *,
        kept_port: int = 0,
        request_s: float = REQUEST_S,
    ) -> None:
        """Bind and serve.

        Args:
            look: returns the present status, from any thread.
            host: an address of this machine.
            port: 0: the kept one, else a free one.
            kept_port: of the last time; 0: none.
            request_s: for a request and its answer, from the connection on.

        Raises:
            AddressError: the port is taken, or the host is not this machine's.
        """
        if not port and kept_port and bind_error(host, kept_port) is None:
            port = kept_port
        registry = CollectorRegistry()
        registry.register(_Source(look))
        metrics: Any = make_wsgi_app(registry)

        def application(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path == "/metrics":
                return metrics(environ, start)  # type: ignore[no-any-return]
            if path == "/status.json":
                body = json.dumps(as_tree(look()), indent=1) + "\n"
                return _answer(start, "200 OK", "application/json", body)
            if path == "/":
                return _answer(start, "200 OK", "text/plain", as_text(look()))
            text = "expected /, /status.json or /metrics\n"
            return _answer(start, "404 Not Found", "text/plain", text)

        server_class = _ServerV6 if ":" in host else _Server
        try:
            self._server = make_server(
                host, port, application, server_class=server_class, handler_class=_Quiet
            )
        except OSError as e:
            raise AddressError(
                f"the status page cannot listen on {join(host, port)}: {e.strerror}; "
                "set gateway.status_host and gateway.status_port to an address of this "
                "machine and a port that is free, or gateway.status_page = false"
            ) from e
        self._server.request_s = request_s
        self.host = host
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="status-page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def read_status(host: str, port: int) -> dict[str, Any] | None:
    """Ask a status page of this machine for its JSON; None where none answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        url = f"http://{join(host, port)}/status.json"
        with opener.open(url, timeout=ANSWER_S) as answer:
            tree = json.load(answer)
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _answer(
    start: Callable[..., Any], status: str, kind: str, body: str
) -> Iterable[bytes]:
    data = body.encode()
    headers = [
        ("Content-Type", f"{kind}; charset=utf-8"),
        ("Content-Length", str(len(data))),
        ("X-Content-Type-Options", "nosniff"),
    ]
    start(status, headers)
    return [data]
