"""The gateway as a Ray Serve application, which restarts it when it dies.

One `GatewayReplica` holds the gateway's own sockets (`cloud.gateway.server`): Serve's
gRPC proxy has neither TLS nor back-pressure, so no proxy is started. Calls of the live
teacher, where there is one, go from there to `TeacherReplica`s, which batch them. Not
here: the gateway's services; starting Ray (`cloud.cluster.local`).
"""

import asyncio
import logging
import logging.handlers
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve

from cloud.cluster.asking import ask, asking
from cloud.gateway.addresses import Addresses, check_ports
from cloud.gateway.live_teacher import Batch, FileTeacher, LiveTeacher, Shapes
from cloud.gateway.server import start_gateway_server
from cloud.storage import StorageDir
from common.config import GatewayConfig
from common.errors import ClusterError, StorageError, TaktError, one_line
from common.logs import LineFormatter

logger = logging.getLogger(__name__)

APPLICATION = "takt"
_LOG_BYTES = 4 * 1024 * 1024
_DRAIN_S = 2.0
_STOP_S = 60.0


class GatewayReplica:
    """The gateway inside a Serve replica."""

    async def __init__(  # type: ignore[misc]
        self, storage: str, config_json: str, channel: str, teacher: Any = None
    ) -> None:
        """Start serving; Serve calls this again after a crash.

        Args:
            storage: the run's storage folder.
            config_json: of the `GatewayConfig`.
            channel: that nodes follow by default.
            teacher: handle of the teacher's deployment; None: no live teacher.
        """
        folder = StorageDir(Path(storage))
        _log_to(folder.gateway_log)
        live = None
        if teacher is not None:
            live = LiveTeacher(
                teacher.shapes.remote, teacher.query.remote, teacher.pull_back.remote
            )
        try:
            self._gateway = await start_gateway_server(
                storage=folder,
                config=GatewayConfig.model_validate_json(config_json),
                channel=channel,
                teacher=live,
            )
        except TaktError as e:
            logger.error("the gateway did not start: %s", e)
            raise

    async def check_health(self) -> None:
        """Raise when the gateway does not work; Serve replaces it then."""
        await self._gateway.check()

    async def __del__(self) -> None:
        """Drain; Serve awaits this before it ends the replica."""
        gateway = getattr(self, "_gateway", None)  # absent: it never started
        if gateway is not None:
            await gateway.stop(_DRAIN_S)


class TeacherReplica:
    """The teacher inside a Serve replica; queries of several nodes share a batch."""

    def __init__(self, path: str) -> None:
        """Answer from a safetensors file, which may be written, or replaced, later."""
        self._teacher = FileTeacher(Path(path))
        # Its annotations allow for a single argument only.
        batched: Any = serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
        self._query = batched(self._answer)
        self._pull_back = batched(self._gradients)

    def shapes(self) -> Shapes:
        """Return the shapes of the teacher's input and output."""
        return self._teacher.shapes()

    async def query(self, x: Batch) -> Batch:
        """Return logits (N, K) for x (N, C, H, W)."""
        logits: Batch = await self._query(x)
        return logits

    async def pull_back(self, x: Batch, cotangent: Batch) -> Batch:
        """Return dL/dx (N, C, H, W) for dL/dlogits (N, K) at x."""
        gradient: Batch = await self._pull_back(x, cotangent)
        return gradient

    async def _answer(self, batches: list[Batch]) -> list[Batch]:
        logits = await asyncio.to_thread(self._teacher.query, np.concatenate(batches))
        return _split(logits, batches)

    async def _gradients(
        self, batches: list[Batch], cotangents: list[Batch]
    ) -> list[Batch]:
        gradients = await asyncio.to_thread(
            self._teacher.pull_back, np.concatenate(batches), np.concatenate(cotangents)
        )
        return _split(gradients, batches)


def _split(joined: Batch, like: list[Batch]) -> list[Batch]:
    """Split what was computed for all batches into the rows of each."""
    return np.split(joined, np.cumsum([len(x) for x in like])[:-1])


def start_gateway(
    config: GatewayConfig,
    storage: StorageDir,
    *,
    channel: str,
    live_teacher: bool = False,
) -> Addresses:
    """Start the gateway on the Ray that this process is connected to.

    Args:
        config: where to listen.
        storage: the run's storage folder; every machine of the cluster that may run
            the gateway sees it under this path.
        channel: that nodes follow by default.
        live_teacher: serve `TeacherService` from storage/teacher.safetensors, now or
            when it is there; costs a process with torch in it.

    Returns:
        The addresses, which are in storage/gateway.json as well.

    Raises:
        AddressError: a wanted port is taken, or the host is not this machine's.
        ClusterError: Serve did not start the gateway.
        StorageError: the storage cannot be made, or the gateway wrote no addresses to
            it: it is not shared.
    """
    check_ports(config)
    storage.create()
    storage = storage.resolve()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options: dict[str, Any] = {
        "max_ongoing_requests": 100,
        "ray_actor_options": {"num_cpus": 0},
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": 10,
        "graceful_shutdown_wait_loop_s": 0.1,
    }
    teacher = None
    if live_teacher:
        deployment = serve.deployment(name="teacher", **options)(TeacherReplica)
        teacher = deployment.bind(str(storage.weights))
    # On this machine, also after a restart: nodes are configured with its address.
    here = {_this_machine(): 0.001}
    options["ray_actor_options"] = {"num_cpus": 0, "resources": here}
    gateway = serve.deployment(name="gateway", **options)(GatewayReplica)
    app = gateway.bind(str(storage.root), config.model_dump_json(), channel, teacher)
    with asking(), ExitStack() as on_failure:
        on_failure.callback(stop_gateway)  # the cluster may not be takt's own
        try:
            serve.start(proxy_location="Disabled", logging_config=_QUIET)
            serve.run(app, name=APPLICATION, route_prefix=None, logging_config=_QUIET)
        except Exception as e:  # Serve raises plain RuntimeErrors
            raise ClusterError(
                "Ray Serve did not start the gateway: "
                f"{one_line(e, 300)}; see {storage.gateway_log}"
            ) from e
        addresses = Addresses.load(storage)
        if addresses is None:
            raise StorageError(
                f"the gateway runs but {storage.root} has no gateway.json; give a "
                "folder that every machine of the cluster sees under the same path"
            )
        on_failure.pop_all()
    return addresses


def stop_gateway(*, limit_s: float = _STOP_S) -> None:
    """Drain and stop the gateway; fine when there is none, or no Ray any more.

    Serve itself, and what others run on it, is left alone.

    Args:
        limit_s: most that it may take.
    """

    def delete() -> None:
        if APPLICATION in serve.status().applications:
            serve.delete(APPLICATION)

    try:
        ask(delete, limit_s=limit_s)
    except Exception as e:  # Ray's own; it must not replace what ended a run
        logger.warning("the gateway was not stopped in order: %s", one_line(e))


_QUIET = {"log_level": "WARNING", "enable_access_log": False}


def _this_machine() -> str:
    """Return the name of the resource that only this machine's Ray node has."""
    me = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    mine = next(node for node in nodes if node["NodeID"] == me)
    names = [name for name in mine["Resources"] if name.startswith("node:")]
    return str(next(name for name in names if "internal" not in name))


def _log_to(path: Path) -> None:
    """Write takt's log records of this process to a file of bounded size."""
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_LOG_BYTES, backupCount=1
    )
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cloud")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
