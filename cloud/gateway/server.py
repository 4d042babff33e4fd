"""The gateway: two gRPC sockets in front of a run's storage folder.

The node port asks for a client certificate and serves releases, the fleet and the live
teacher; the enrolment port has TLS without client certificates and serves `Enroll`
(gRPC for Python cannot make client certificates optional on one port). Both answer
health checks. Runs inside any asyncio loop: a Ray Serve replica
(`cloud.gateway.ray_serve`) or a thread (`GatewayThread`). Not here: the methods
(`release_service`, `fleet_service`, `teacher_service`, `health`), and who may call them
(`authorization`).
"""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc.aio

from cloud.fleet.database import Fleet, sqlite_url
from cloud.gateway.addresses import (
    Addresses,
    certificate_names,
    page_host,
    reachable,
)
from cloud.gateway.authorization import Authorization
from cloud.gateway.certificate_ends import CertificateEnds
from cloud.gateway.condition import PARTS, Condition
from cloud.gateway.connections import Connections
from cloud.gateway.fleet_service import FleetServicer, enrolment_handler
from cloud.gateway.health import Health
from cloud.gateway.interceptor import Admission, Interceptor
from cloud.gateway.listeners import (
    ENROLLING,
    NODES,
    PING_INTERVAL_S,
    Bounds,
    ServerCertificate,
    listen,
    make_server,
    most_of_address,
)
from cloud.gateway.live_teacher import LiveTeacher
from cloud.gateway.messages import FIRST_MESSAGE_S
from cloud.gateway.quarantine import Quarantine
from cloud.gateway.refusals import Refusals
from cloud.gateway.release_service import ReleaseServicer, VersionFeed
from cloud.gateway.status import StatusSource
from cloud.gateway.status_page import StatusPage
from cloud.gateway.teacher_service import TeacherServicer
from cloud.gateway.traffic import Traffic
from cloud.pki.authority import Authority, Lifetimes
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.address import join
from common.clock import Clock, utc_now
from common.config import GatewayConfig
from common.errors import AddressError, TaktError
from common.pb import takt_pb2, takt_pb2_grpc

logger = logging.getLogger(__name__)

SERVICES = tuple(s.full_name for s in takt_pb2.DESCRIPTOR.services_by_name.values())
TEACHER_SERVICE = "takt.v1.TeacherService"


@dataclass(frozen=True)
class RunningGateway:
    """A started gateway; `stop` ends it.

    Attributes:
        address: host:port of the node port.
        enroll_address: host:port of the enrolment port.
        authority: of the project.
        repository: that is served.
        fleet: what nodes have reported.
        condition: what an operator must mend, if anything.
        certificate: of the gateway itself.
        status: all of it, as the status page shows it.
        background: tasks that run as long as the gateway does.
    """

    address: str
    enroll_address: str
    authority: Authority
    repository: ReleaseRepository
    fleet: Fleet
    condition: Condition
    certificate: ServerCertificate
    status: StatusSource
    background: tuple["asyncio.Task[NoReturn]", ...]
    _sockets: tuple[tuple[str, int], ...]
    _servers: "_Servers"
    _page: StatusPage | None

    async def check(self) -> None:
        """Check that the gateway works, or that another one might.

        A missing key, a full disk or a database that refuses would stop its successor,
        too: `condition` has them.

        Raises:
            AddressError: a port does not answer.
            TaktError: a background task has ended, with its reason.
        """
        for task in self.background:
            if task.done():
                why = "cancelled" if task.cancelled() else task.exception()
                raise TaktError(f"{task.get_name()} ended: {why}")
        for host, port in self._sockets:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError as e:
                raise AddressError(f"{join(host, port)} does not answer: {e}") from e
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def stop(self, grace_s: float = 2.0) -> None:
        """Drain and stop: watches end cleanly, other calls have `grace_s` seconds."""
        await self._servers.stop(grace_s)
        if self._page is not None:
            await asyncio.to_thread(self._page.close)
        for task in self.background:
            task.cancel()
        await asyncio.gather(*self.background, return_exceptions=True)
        try:
            await asyncio.to_thread(self.fleet.close)
        except TaktError as e:
            logger.error("the last heartbeats are lost: %s", e)


@dataclass(frozen=True)
class _Servers:
    """The servers of both ports, and what ends with them."""

    nodes: grpc.aio.Server
    enrolling: grpc.aio.Server
    feed: VersionFeed
    health: Health

    async def stop(self, grace_s: float) -> None:
        """Drain; the enrolment port last, which answers probes until then."""
        await self.health.drain()
        await self.feed.close()
        await self.nodes.stop(grace_s)
        await self.enrolling.stop(grace_s)


async def start_gateway_server(
    *,
    storage: StorageDir,
    config: GatewayConfig,
    channel: str = "",
    teacher: LiveTeacher | None = None,
    clock: Clock = utc_now,
    ping_interval_s: float = PING_INTERVAL_S,
    first_message_s: float = FIRST_MESSAGE_S,
    bounds: Bounds = NODES,
) -> RunningGateway:
    """Start serving a run's storage folder from the running loop.

    Makes the authority and an empty repository where there are none. With port 0 a
    free port is taken once and kept in ``gateway.json``, so that a restarted gateway
    has the addresses that its nodes are configured with.

    Args:
        storage: has the authority, the repository, its keys and the fleet's database.
        config: where to listen.
        channel: that nodes follow by default.
        teacher: the live teacher; None: `Query` is not served.
        clock: the wall clock, UTC.
        ping_interval_s: see `make_server`.
        first_message_s: see `Interceptor`.
        bounds: of the node port.

    Raises:
        AddressError: a port is taken, or the host is not this machine's.
        ConfigError: a host name is none.
        StorageError: the storage cannot be read or written.
    """
    lifetimes = Lifetimes.of(config.node_days, config.server_days)
    authority = Authority(storage.pki, clock=clock, lifetimes=lifetimes)
    authority.init()
    repository = ReleaseRepository(storage.repository, storage.keys, clock=clock)
    repository.create()
    fleet = Fleet(sqlite_url(storage.fleet), clock=clock)
    authorization = Authorization(
        authority, max_calls_per_node=config.max_streams_per_node, clock=clock
    )
    traffic, quarantine = Traffic(), Quarantine()
    servers = _make_servers(
        authorization,
        repository,
        traffic,
        clock=clock,
        bounds=bounds,
        ping_interval_s=ping_interval_s,
        first_message_s=first_message_s,
    )
    fleet_service = FleetServicer(fleet, authority, quarantine)
    takt_pb2_grpc.add_FleetServiceServicer_to_server(fleet_service, servers.nodes)
    takt_pb2_grpc.add_TeacherServiceServicer_to_server(
        TeacherServicer(teacher), servers.nodes
    )
    servers.enrolling.add_generic_rpc_handlers(
        (enrolment_handler(authority, repository, channel), servers.health.handler())
    )
    kept = Addresses.load(storage)
    try:
        await servers.health.serving(
            name for name in SERVICES + PARTS if teacher or name != TEACHER_SERVICE
        )
        await servers.feed.refresh()
        certificate = ServerCertificate(authority, certificate_names(config))
        certificates = CertificateEnds(
            authority,
            fleet,
            lambda: certificate.present.certificate,
            node_life=lifetimes.node,
            clock=clock,
        )
        condition = Condition(storage, repository, fleet, servers.health, certificates)
        source = StatusSource(
            storage,
            repository,
            fleet,
            condition=condition,
            certificates=certificates,
            quarantine=quarantine,
            traffic=traffic,
            clock=clock,
        )
        addresses = await listen(
            storage,
            config,
            certificate=certificate,
            nodes=servers.nodes,
            enrolling=servers.enrolling,
        )
        page = _open_page(config, source, kept)
        if page is not None:
            addresses = replace(
                addresses,
                status_host=reachable(page.host),
                status_port=page.port,
            )
        addresses.save(storage)  # once: who waits for the file finds all of it
    except BaseException:
        await servers.stop(0)
        fleet.close()
        raise
    logger.info("serving nodes at %s, %s", addresses.address, addresses.enroll_address)
    host = addresses.reachable_host
    connections = Connections(
        most_of_address(addresses, config.max_connections_per_address)
    )
    return RunningGateway(
        addresses.address,
        addresses.enroll_address,
        authority,
        repository,
        fleet,
        condition,
        certificate,
        source,
        (
            asyncio.create_task(servers.feed.run(), name="the watch on the repository"),
            asyncio.create_task(authorization.sweep(), name="the sweep of open calls"),
            asyncio.create_task(authorization.note_used(), name="the note of renewals"),
            asyncio.create_task(fleet_service.run(), name="the writing of heartbeats"),
            asyncio.create_task(condition.run(), name="the look at the condition"),
            asyncio.create_task(certificate.run(), name="the look at the certificate"),
            asyncio.create_task(connections.run(), name="the sweep of connections"),
        ),
        ((host, addresses.port), (host, addresses.enroll_port)),
        servers,
        page,
    )


def _make_servers(
    authorization: Authorization,
    repository: ReleaseRepository,
    traffic: Traffic,
    *,
    clock: Clock,
    bounds: Bounds,
    ping_interval_s: float,
    first_message_s: float,
) -> _Servers:
    """Make both servers; the node port has releases and health checks already."""

    def around(admission: Admission) -> Interceptor:
        return Interceptor(admission, traffic=traffic, first_message_s=first_message_s)

    servers = _Servers(
        nodes=make_server(
            around(authorization.authorize),
            ping_interval_s=ping_interval_s,
            bounds=bounds,
        ),
        enrolling=make_server(
            around(Refusals(clock).brake),
            ping_interval_s=ping_interval_s,
            bounds=ENROLLING,
        ),
        feed=VersionFeed(repository),
        health=Health(),
    )
    releases = ReleaseServicer(repository.root, servers.feed, traffic)
    takt_pb2_grpc.add_ReleaseServiceServicer_to_server(releases, servers.nodes)
    servers.nodes.add_generic_rpc_handlers((servers.health.handler(),))
    return servers


def _open_page(
    config: GatewayConfig, source: StatusSource, kept: Addresses | None
) -> StatusPage | None:
    if not config.status_page:
        return None
    kept_port = kept.status_port if kept else 0
    return StatusPage(
        source.look, page_host(config), config.status_port, kept_port=kept_port
    )


class GatewayThread:
    """A gateway in a thread of this process, for tests and small programs.

    A context manager; made again on the same storage it keeps its ports.
    """

    running: RunningGateway  # its coroutines belong to `loop`
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        *,
        storage: StorageDir,
        config: GatewayConfig | None = None,
        **arguments: Any,
    ) -> None:
        """Take what `start_gateway_server` takes."""
        self._arguments = arguments
        self._arguments |= {"storage": storage, "config": config or GatewayConfig()}

    def __enter__(self) -> Self:
        """Start; see `start_gateway_server` for what it raises."""
        self._grace_s = 0.0
        started: Future[RunningGateway] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="gateway"
        )
        self._thread.start()
        self.running = started.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop at once."""
        self.stop()

    @property
    def address(self) -> str:
        """Return host:port of the node port."""
        return self.running.address

    @property
    def enroll_address(self) -> str:
        """Return host:port of the enrolment port."""
        return self.running.enroll_address

    def stop(self, grace_s: float = 0.0) -> None:
        """Stop the server and its thread; open calls have `grace_s` seconds."""
        if self._thread.is_alive():
            self._grace_s = grace_s
            self.loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    async def _serve(self, started: "Future[RunningGateway]") -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            gateway = await start_gateway_server(**self._arguments)
        except BaseException as e:
            started.set_exception(e)
            return
        started.set_result(gateway)
        await self._stopping.wait()
        await gateway.stop(self._grace_s)
