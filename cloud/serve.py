"""The gateway as a Ray Serve application, which restarts it when it dies.

One `GatewayReplica` holds the gateway's own sockets (`cloud.gateway`): Serve's gRPC
proxy has neither TLS nor back-pressure, so no proxy is started at all. Calls to the
live teacher, where there is one, go from there to batched `TeacherReplica`s. Not
here: what the gateway serves; starting Ray (`cloud.cluster`).
"""

import asyncio
import logging
import logging.handlers
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve

from cloud.addresses import Addresses, why_taken
from cloud.gateway import start_gateway_server
from cloud.services import LiveTeacher
from common.config import GatewayConfig
from common.errors import AddressError, ClusterError, StorageError, TaktError

logger = logging.getLogger(__name__)

APPLICATION = "takt"
LOG_FILE = "gateway.log"
_LOG_BYTES = 4 * 1024 * 1024
_DRAIN_S = 2.0
Batch = NDArray[np.float32]


class GatewayReplica:
    """The gateway inside a Serve replica."""

    async def __init__(  # type: ignore[misc]
        self, storage: str, config_json: str, channel: str, teacher: Any = None
    ) -> None:
        """Start serving; Serve calls this again after a crash.

        Args:
            storage: the run's storage folder.
            config_json: of the `GatewayConfig`.
            channel: that nodes follow unless told otherwise.
            teacher: handle of the teacher's deployment; None: no live teacher.
        """
        _log_to(Path(storage) / LOG_FILE)
        live = None
        if teacher is not None:
            sample_shape = await teacher.sample_shape.remote()
            live = LiveTeacher(teacher.query.remote, sample_shape)
        try:
            self._gateway = await start_gateway_server(
                storage=Path(storage),
                config=GatewayConfig.model_validate_json(config_json),
                channel=channel,
                teacher=live,
            )
        except TaktError as e:
            logger.error("the gateway did not start: %s", e)
            raise

    async def check_health(self) -> None:
        """Let Serve replace a gateway that does not do its work."""
        await self._gateway.check()

    async def __del__(self) -> None:
        """Drain; Serve awaits this before it ends the replica."""
        gateway = getattr(self, "_gateway", None)  # absent: it never started
        if gateway is not None:
            await gateway.stop(_DRAIN_S)


class TeacherReplica:
    """The teacher inside a Serve replica; queries of several nodes share a batch."""

    def __init__(self, path: str) -> None:
        """Load the teacher from its safetensors file."""
        from common.models import load_model

        self._model, card = load_model(Path(path))
        self._shape = (card.in_channels, card.image_size, card.image_size)
        self._batched = serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)(
            self._answer
        )

    def sample_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of what the teacher takes."""
        return self._shape

    async def query(self, x: Batch) -> Batch:
        """Return logits (N, K) for x (N, C, H, W)."""
        return await self._batched(x)

    async def _answer(self, batches: list[Batch]) -> list[Batch]:
        lengths = [len(x) for x in batches]
        logits = await asyncio.to_thread(self._forward, np.concatenate(batches))
        return np.split(logits, np.cumsum(lengths)[:-1])

    def _forward(self, x: Batch) -> Batch:
        import torch

        with torch.inference_mode():
            return np.asarray(self._model(torch.from_numpy(x)))


def start_gateway(
    config: GatewayConfig,
    storage: Path,
    *,
    channel: str,
    live_teacher: bool = False,
) -> Addresses:
    """Start the gateway on the Ray that this process is connected to.

    Args:
        config: where to listen.
        storage: the run's storage folder; every machine of the cluster that may run
            the gateway sees it under this path.
        channel: that nodes follow unless told otherwise.
        live_teacher: serve `TeacherService` from storage/teacher.safetensors; costs
            a process with torch in it.

    Returns:
        The addresses, which are in storage/gateway.json as well.

    Raises:
        AddressError: a wanted port is taken, or the host is not this machine's.
        ClusterError: Serve did not start the gateway.
        StorageError: the storage cannot be made, or the gateway wrote no addresses to
            it: it is not shared.
    """
    _check_ports(config)
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(
            f"cannot make folder {storage}: {e.strerror}; choose one you may write"
        ) from e
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
        teacher = deployment.bind(str(storage.resolve() / "teacher.safetensors"))
    # On this machine, also after a restart: its address is what nodes know.
    here = {_this_machine(): 0.001}
    options["ray_actor_options"] = {"num_cpus": 0, "resources": here}
    gateway = serve.deployment(name="gateway", **options)(GatewayReplica)
    app = gateway.bind(
        str(storage.resolve()), config.model_dump_json(), channel, teacher
    )
    try:
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        serve.run(app, name=APPLICATION, route_prefix=None, logging_config=_QUIET)
    except Exception as e:  # Serve raises plain RuntimeErrors
        raise ClusterError(
            f"Ray Serve did not start the gateway: {' '.join(str(e).split())[:300]}; "
            f"see {storage / LOG_FILE}"
        ) from e
    addresses = Addresses.load(storage)
    if addresses is None:
        raise StorageError(
            f"the gateway runs but {storage} has no gateway.json; give a folder that "
            "every machine of the cluster sees under the same path"
        )
    return addresses


def stop_gateway() -> None:
    """Drain and stop the gateway; fine when there is none.

    Serve itself, and what others run on it, is left alone.
    """
    if ray.is_initialized() and APPLICATION in serve.status().applications:
        serve.delete(APPLICATION)


_QUIET = {"log_level": "WARNING", "enable_access_log": False}


def _this_machine() -> str:
    """Name the resource that only this machine's Ray node has."""
    me = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    mine = next(node for node in nodes if node["NodeID"] == me)
    names = [name for name in mine["Resources"] if name.startswith("node:")]
    return str(next(name for name in names if "internal" not in name))


def _check_ports(config: GatewayConfig) -> None:
    """Say at once, and in our words, that a wanted port cannot be had."""
    if config.port and config.port == config.enroll_port:
        raise AddressError(
            f"gateway.port and gateway.enroll_port are both {config.port}; set one of "
            "them to another port or to 0"
        )
    for port in (config.port, config.enroll_port):
        refusal = why_taken(config.host, port) if port else None
        if refusal is not None:
            raise refusal


def _log_to(path: Path) -> None:
    """Send takt's log records of this process to a file of bounded size."""
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_LOG_BYTES, backupCount=1
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cloud")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
