"""The gateway: two gRPC sockets in front of a run's storage folder.

The node port asks for a client certificate and serves releases, the fleet and the live
teacher; the enrolment port is server TLS only and serves `Enroll` alone (gRPC for
Python cannot make client certificates optional on one port). Runs inside any asyncio
loop: a Ray Serve replica (`cloud.gateway.ray_serve`) or a thread (`GatewayThread`). Not
here: what the methods do (`cloud.gateway.release_service`,
`cloud.gateway.fleet_service`) and who may call them (`cloud.gateway.authorization`).
"""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc.aio

from cloud.fleet.database import Fleet, sqlite_url
from cloud.gateway.addresses import certificate_names, join
from cloud.gateway.authorization import Admission, Interceptor, errors_as_status
from cloud.gateway.fleet_service import (
    FleetServicer,
    TeacherServicer,
    enrolment_handler,
)
from cloud.gateway.listeners import (
    MAX_NEWCOMER_BYTES,
    MAX_NEWCOMERS,
    PING_INTERVAL_S,
    listen,
    make_server,
)
from cloud.gateway.live_teacher import LiveTeacher
from cloud.gateway.release_service import Board, ReleaseServicer, keep_fresh
from cloud.pki.authority import Authority
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.clock import Clock, utc_now
from common.config import GatewayConfig
from common.errors import AddressError, TaktError
from common.pb import takt_pb2_grpc

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningGateway:
    """A started gateway; `stop` ends it."""

    address: str  # host:port of the node port
    enroll_address: str
    authority: Authority
    repository: ReleaseRepository
    fleet: Fleet
    _sockets: tuple[tuple[str, int], ...]
    _servers: tuple[grpc.aio.Server, ...]
    _board: Board
    _chores: tuple["asyncio.Task[NoReturn]", ...]

    async def check(self) -> None:
        """Make sure that the gateway does its work.

        Raises:
            AddressError: a port does not answer.
            TaktError: a chore has died, with its reason.
        """
        for chore in self._chores:
            if chore.done():
                why = "cancelled" if chore.cancelled() else chore.exception()
                raise TaktError(f"{chore.get_name()} ended: {why}")
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
        await self._board.close()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        self.fleet.close()


async def start_gateway_server(
    *,
    storage: StorageDir,
    config: GatewayConfig,
    channel: str = "",
    teacher: LiveTeacher | None = None,
    clock: Clock = utc_now,
    ping_interval_s: float = PING_INTERVAL_S,
) -> RunningGateway:
    """Start serving a run's storage folder from the running loop.

    Makes the authority and an empty repository where there are none. With port 0 a
    free port is taken once and kept in ``gateway.json``, so that a restarted gateway
    comes back where its nodes look for it.

    Args:
        storage: the folder with pki/, repository/, keys/ and fleet.sqlite.
        config: where to listen.
        channel: what nodes are told at enrolment to follow.
        teacher: the live teacher; None: `Query` is not served.
        clock: the wall clock, UTC.
        ping_interval_s: see `make_server`.

    Raises:
        AddressError: a port is taken, or the host is not this machine's.
        ConfigError: a host name is none.
        StorageError: the storage cannot be read or written.
    """
    authority = Authority(storage.pki, clock=clock)
    authority.init()
    repository = ReleaseRepository(storage.repository, storage.keys, clock=clock)
    repository.create()
    fleet = Fleet(sqlite_url(storage.fleet), clock=clock)
    board = Board(repository)
    admission = Admission(authority, max_calls_per_node=config.max_streams_per_node)
    nodes = make_server(
        Interceptor(errors_as_status, admission.admit), ping_interval_s=ping_interval_s
    )
    takt_pb2_grpc.add_ReleaseServiceServicer_to_server(
        ReleaseServicer(repository.root, board), nodes
    )
    takt_pb2_grpc.add_FleetServiceServicer_to_server(FleetServicer(fleet), nodes)
    takt_pb2_grpc.add_TeacherServiceServicer_to_server(TeacherServicer(teacher), nodes)
    newcomers = make_server(
        Interceptor(errors_as_status),
        ping_interval_s=ping_interval_s,
        max_calls=MAX_NEWCOMERS,
        max_message_bytes=MAX_NEWCOMER_BYTES,
    )
    newcomers.add_generic_rpc_handlers(
        (enrolment_handler(authority, repository, channel),)
    )
    try:
        await board.look()
        addresses = await listen(
            storage,
            config,
            credentials=authority.server_credentials(certificate_names(config)),
            nodes=nodes,
            newcomers=newcomers,
        )
    except BaseException:
        await asyncio.gather(nodes.stop(0), newcomers.stop(0))
        fleet.close()
        raise
    chores = (
        asyncio.create_task(board.run(), name="the watch on the repository"),
        asyncio.create_task(admission.sweep(), name="the sweep of open calls"),
        asyncio.create_task(keep_fresh(repository), name="the signing chore"),
    )
    logger.info("nodes: %s, enrolment: %s", addresses.address, addresses.enroll_address)
    host = addresses.reachable_host
    return RunningGateway(
        addresses.address,
        addresses.enroll_address,
        authority,
        repository,
        fleet,
        ((host, addresses.port), (host, addresses.enroll_port)),
        (nodes, newcomers),
        board,
        chores,
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
