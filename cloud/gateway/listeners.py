"""The gateway's two sockets: their gRPC options, TLS and ports.

Not here: what is served on them (`cloud.gateway.server`).
"""

import asyncio
import logging
import resource
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio

from cloud.gateway.addresses import Addresses, advertised, bind_error
from cloud.gateway.messages import MAX_QUERY_BYTES
from cloud.pki.authority import Authority
from cloud.storage import StorageDir
from common.address import join
from common.config import GatewayConfig
from common.errors import AddressError, TaktError

logger = logging.getLogger(__name__)

KEPT_PORT_WAIT_S = 5.0  # for a stopping gateway that still holds the port
MAX_CALLS = 4096  # of all nodes together
# Of enrolling nodes, which are unknown yet: a signing request is small, and soon
# answered.
MAX_ENROLLING_CALLS, MAX_ENROLLING_BYTES = 256, 64 * 1024
# Of each port, of all peers together; less where few files may be open.
MAX_CONNECTIONS, MAX_ENROLLING_CONNECTIONS = 4096, 256
HANDSHAKE_S = 20.0  # gRPC's default: 120
IDLE_S, ENROLLING_IDLE_S = 300.0, 60.0  # without a call; heartbeats come every 5 s
PING_INTERVAL_S = 10.0
RENEWAL_CHECK_S = 60.0

_OPTIONS = (
    # Off (default on): two gateways on one port would share the calls at random.
    ("grpc.so_reuseport", 0),
    # Nodes may ping with no call open (default: they are disconnected for it).
    ("grpc.keepalive_permit_without_calls", 1),
    # Milliseconds. Detects nodes that disappeared without closing (default: 2 hours).
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Calls on one connection (default: no bound); the quota of a node is lower.
    ("grpc.max_concurrent_streams", 128),
)


@dataclass(frozen=True)
class Bounds:
    """What the peers of one port may take, all together.

    Attributes:
        calls: open at a time; more are refused.
        connections: open at a time; more are closed at once.
        share_of_files: they take no more than one in so many of the files that this
            process may have open.
        message_bytes: of what a peer sends.
        handshake_s: for TLS, from the connection on.
        idle_s: without a call, before a connection is closed.
    """

    calls: int = MAX_CALLS
    connections: int = MAX_CONNECTIONS
    share_of_files: int = 2
    message_bytes: int = MAX_QUERY_BYTES
    handshake_s: float = HANDSHAKE_S
    idle_s: float = IDLE_S

    def max_connections(self) -> int:
        """Return `connections`, or fewer where this process may open few files."""
        # The other port, the database and what is served are open files, too.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return min(self.connections, max(1, files // self.share_of_files))


NODES = Bounds()
ENROLLING = Bounds(
    MAX_ENROLLING_CALLS,
    MAX_ENROLLING_CONNECTIONS,
    8,
    MAX_ENROLLING_BYTES,
    HANDSHAKE_S,
    ENROLLING_IDLE_S,
)


def make_server(
    interceptor: grpc.aio.ServerInterceptor,
    *,
    ping_interval_s: float,
    bounds: Bounds,
) -> grpc.aio.Server:
    """Make a server; see `listen` for its port.

    Args:
        interceptor: around every call.
        ping_interval_s: the shortest time between a peer's keepalive pings that is
            allowed (gRPC's default: 300 s, then "too_many_pings").
        bounds: of what all peers of the port may take together.
    """
    ping_interval = int(ping_interval_s * 1000)
    options: tuple[tuple[str, Any], ...] = (
        *_OPTIONS,
        ("grpc.http2.min_ping_interval_without_data_ms", ping_interval),
        ("grpc.max_receive_message_length", bounds.message_bytes),
        ("grpc.max_allowed_incoming_connections", bounds.max_connections()),
        ("grpc.server_handshake_timeout_ms", int(bounds.handshake_s * 1000)),
        ("grpc.max_connection_idle_ms", int(bounds.idle_s * 1000)),
    )
    return grpc.aio.server(
        interceptors=[interceptor],
        options=options,
        maximum_concurrent_rpcs=bounds.calls,
    )


def most_of_address(addresses: Addresses, most: int) -> dict[int, int]:
    """Return how many connections an address may hold, by port.

    Args:
        addresses: of the gateway.
        most: as the config has it. The enrolment port, to which anybody may connect,
            is not filled by fewer than four addresses.
    """
    of_enrolling = max(1, ENROLLING.max_connections() // 4)
    return {addresses.port: most, addresses.enroll_port: min(most, of_enrolling)}


class ServerCertificate:
    """The gateway's certificate, which is renewed while its sockets use it.

    A TLS handshake takes the one of that moment; open connections keep theirs, and
    streams on them go on.
    """

    def __init__(self, authority: Authority, hosts: tuple[str, ...]) -> None:
        """Read it, or have it made, for these names and addresses.

        Raises:
            ConfigError: a host is neither a name nor an address.
            StorageError: the authority cannot be read, or nothing written.
        """
        self._authority = authority
        self._hosts = hosts
        self.present = authority.server_credentials(hosts)

    async def run(self) -> NoReturn:
        """Renew it in the last third of its life; look once a minute, for ever."""
        while True:
            await asyncio.sleep(RENEWAL_CHECK_S)
            try:
                await self.look()
            except TaktError as e:
                logger.error("cannot renew the gateway's certificate: %s", e)

    async def look(self) -> None:
        """Take what lies in the authority's folder now, renewed if it is time.

        Raises:
            StorageError: the authority cannot be read, or nothing written.
        """
        found = await asyncio.to_thread(self._authority.server_credentials, self._hosts)
        if found != self.present:
            self.present = found
            logger.info("new connections get another certificate of the gateway")

    def tls(self, *, nodes_only: bool) -> grpc.ServerCredentials:
        """Make TLS credentials; with `nodes_only` every peer needs a certificate."""
        used = self.present

        def configuration() -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(used.key, used.certificate)],
                root_certificates=used.ca if nodes_only else None,
            )

        def fetch() -> Any:
            # Called by gRPC before each handshake. None, which its stubs do not know
            # of: as before.
            nonlocal used
            if used == self.present:
                return None
            used = self.present
            return configuration()

        return grpc.dynamic_ssl_server_credentials(
            configuration(), fetch, require_client_authentication=nodes_only
        )


async def listen(
    storage: StorageDir,
    config: GatewayConfig,
    *,
    certificate: ServerCertificate,
    nodes: grpc.aio.Server,
    enrolling: grpc.aio.Server,
) -> Addresses:
    """Bind and start both servers, and save their addresses.

    Args:
        storage: takes gateway.json, and may hold that of the last time: its ports
            are taken again where the config leaves the choice.
        config: the wanted host and ports.
        certificate: of the gateway.
        nodes: the server of the node port.
        enrolling: the server of the enrolment port.

    Raises:
        AddressError: a wanted port is taken, or the host is not this machine's.
    """
    kept = Addresses.load(storage)
    port = await _bind(
        nodes,
        config.host,
        config.port,
        kept_port=kept.port if kept else 0,
        credentials=certificate.tls(nodes_only=True),
    )
    enroll_port = await _bind(
        enrolling,
        config.host,
        config.enroll_port,
        kept_port=kept.enroll_port if kept else 0,
        credentials=certificate.tls(nodes_only=False),
    )
    await nodes.start()
    await enrolling.start()
    return advertised(config, port, enroll_port)


async def _bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    *,
    kept_port: int,
    credentials: grpc.ServerCredentials,
) -> int:
    """Bind the wanted port, or the kept one, or any; return which."""
    if port:
        return _add(server, host, port, credentials)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + KEPT_PORT_WAIT_S
    while kept_port:
        try:
            return _add(server, host, kept_port, credentials)
        except AddressError as e:
            if loop.time() > deadline:
                logger.warning("%s; taking a free one, as port 0 allows", e)
                break
        await asyncio.sleep(0.1)
    return _add(server, host, 0, credentials)


def _add(
    server: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials,
) -> int:
    # Tried first: gRPC's own error has few details, and it logs a lot.
    error = bind_error(host, port)
    if error is not None:
        raise error
    try:
        return server.add_secure_port(join(host, port), credentials)
    except RuntimeError as e:
        raise AddressError(
            f"cannot listen on {join(host, port)}: {e}; set gateway.host and "
            "gateway.port to an address of this machine that is free"
        ) from e
