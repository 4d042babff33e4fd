"""Ray Train's trainer without the parts that takt does not use.

A data-parallel trainer whose controller never imports torch: the workers alone
join a process group. Left out, because each is an extra process of 7 CPU-seconds
or blocks the start: the data set manager (workers load their own data), the
placement group cleaner (it needs the dashboard; takt's driver ends with its job,
and its groups with it), the autoscaling coordinator and the metrics. Everything
is a choice of callbacks and policies; if a later Ray renames its hooks, the training
starts slower and nothing else changes. Not here: the training (job.py), how many
workers there are (scaling_policy.py).
"""

import contextlib
import logging
import os
import warnings
from typing import Any

import psutil
import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.execution.failure_handling import (
    DefaultFailurePolicy,
    FailureDecision,
)
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cloud.training.scaling_policy import Elastic, FixedSize
from common.errors import TaktError

_UNUSED_CALLBACKS = {
    "DatasetsCallback",
    "PlacementGroupCleanerCallback",
    "ControllerMetricsCallback",
    "WorkerMetricsCallback",
}
_LEAVE_S = 5.0


class ProcessGroupConfig(BackendConfig):
    """Ask for a torch process group: gloo on CPUs, nccl on GPUs."""

    def __init__(self, backend: str) -> None:
        """Name torch.distributed's backend."""
        self.backend = backend

    @property
    def backend_cls(self) -> type[Backend]:
        """Return the class that sets it up."""
        return ProcessGroup

    def to_dict(self) -> dict[str, Any]:
        """Describe it for Ray's records."""
        return {"backend": self.backend}


class ProcessGroup(Backend):
    """Join and leave the workers' process group; runs in the controller."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Let every worker join, at the address of the first."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _join,
                    backend_config.backend,
                    (address, port),
                    (rank, len(worker_group)),
                )
                for rank in range(len(worker_group))
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let every worker that still answers leave."""
        try:
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_S)
        except ray.exceptions.GetTimeoutError:
            logging.getLogger(__name__).warning(
                "a worker did not leave its process group within %s s", _LEAVE_S
            )


class Trainer(DataParallelTrainer):
    """Ray Train's data-parallel trainer, lean (see the module's docstring)."""

    def _create_default_callbacks(self) -> list[Any]:
        with warnings.catch_warnings():
            # It copies Ray Data's settings, the deprecated ones included.
            warnings.simplefilter("ignore", DeprecationWarning)
            callbacks = super()._create_default_callbacks()
        return [c for c in callbacks if type(c).__name__ not in _UNUSED_CALLBACKS]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        # Ray annotates these two with the classes of its first version.
        scaling: Any = self.scaling_config
        failure: Any = self.run_config.failure_config
        elastic = scaling.min_workers < scaling.max_workers
        parts["scaling_policy"] = (Elastic if elastic else FixedSize)(scaling)
        parts["failure_policy"] = FailOnTaktError(failure)
        return super()._initialize_and_run_controller(**parts)

    def _register_sigint_handler(self, controller: Any) -> None:
        # Ray's handler would stay after the training; the program has its own.
        self._controller = controller

    def abort(self) -> None:
        """End workers and controller now and free their resources; checkpoints stay."""
        controller = getattr(self, "_controller", None)
        if controller is None:
            return
        # It ends itself during the call, so the answer is an error.
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(controller.abort.remote(), timeout=_LEAVE_S)
        ray.kill(controller)


class FailOnTaktError(DefaultFailurePolicy):
    """Restart after lost workers, but not after an error that a restart repeats."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Retry or raise; asked by the controller after each failure."""
        if first_takt_error(training_failed_error) is not None:
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def first_takt_error(error: Any) -> TaktError | None:
    """Return the error of takt's own that made a training fail, if one did."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, TaktError):
            return cause
    return None


def _join(backend: str, where: tuple[str, int], who: tuple[int, int]) -> None:
    """Join the process group as (rank, world size); runs in a worker."""
    (address, port), (rank, world_size) = where, who
    # By default gloo takes the address of this machine's host name: on Debian that is
    # a loopback address, which no other machine can reach.
    util: Any = ray.util  # without annotations
    interface = interface_of(util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    import torch.distributed as dist

    host = f"[{address}]" if ":" in address else address
    dist.init_process_group(
        backend,
        init_method=f"tcp://{host}:{port}",
        rank=rank,
        world_size=world_size,
    )


def interface_of(address: str) -> str | None:
    """Return the network interface of this machine that has an address, if any."""
    for name, held in psutil.net_if_addrs().items():
        if address in (entry.address for entry in held):
            return name
    return None


def _leave() -> None:
    """Leave the process group; runs in a worker."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
