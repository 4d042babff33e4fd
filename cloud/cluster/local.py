"""A Ray cluster of takt's own on this machine, or one that exists already.

`local_cluster` starts Ray in a private short folder, on the loopback, with token
authentication and no dashboard, and leaves no process behind, whatever happens in
between. `connect` joins a cluster that runs already. Not here: what
runs on it (cloud/training/job.py, cloud/extraction/job.py, cloud/gateway/ray_serve.py).
"""

import contextlib
import logging
import os
import secrets
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.cluster.cleanup import end_cluster, end_processes
from cloud.cluster.environment import (
    core_environment,
    environment,
    interrupts_ignored,
    on_loopback,
)
from cloud.cluster.startup import SETTINGS, unhurried_start
from common.address import Address, is_loopback, parse_address
from common.errors import ClusterError, ConfigError, one_line
from common.interpreter import OWN_CODE

if TYPE_CHECKING:
    from ray.job_config import JobConfig

# Ray appends up to 63 bytes of session and socket name; AF_UNIX takes 107.
_MAX_FOLDER_BYTES = 107 - 67
_ANSWER_S = 5.0
_LOOPBACK = "127.0.0.1"
# Ray's shell gets the interpreter unquoted: below a path with a space, no worker.
_PYTHON = shlex.quote(sys.executable)
_RUNTIME_ENV = {"py_executable": _PYTHON} if sys.executable != _PYTHON else {}
_OBJECT_STORE_BYTES = 256 * 2**20  # takt passes paths, not arrays


@dataclass(frozen=True)
class LocalCluster:
    """A running local Ray.

    Attributes:
        address: host:port of its control store, for other drivers.
        folder: its private folder, gone when it stops.
        token_path: file of the token that other drivers need.
    """

    address: str
    folder: Path
    token_path: Path


@contextlib.contextmanager
def local_cluster(
    logs_dir: Path | None = None, *, num_cpus: int = 2
) -> Iterator[LocalCluster]:
    """Run a local Ray for the body, connected to it; stop all of it afterwards.

    Args:
        logs_dir: where Ray's logs are moved when it stops; None drops them.
        num_cpus: CPU slots that tasks and actors may take, not a hard cap.

    Raises:
        ClusterError: Ray did not start, this machine has no loopback for it, or this
            process is connected already.
    """
    _require_loopback()
    _require_no_cluster()
    folder = _short_folder()
    token_path = folder / "token"
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_hex(32))
    with core_environment(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token_path),
        RAY_AUTH_TOKEN=None,
        RAY_ADDRESS=None,
        RAY_grpc_enable_http_proxy="0",  # it is all on the loopback
        RAY_USAGE_STATS_ENABLED="0",
        # Ray warns of a future change unless this is set.
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        # Records of tasks, which nobody reads, and whose last ones an end waits for.
        RAY_task_events_report_interval_ms="0",
        **SETTINGS,
        **OWN_CODE,
    ):
        try:
            address = _start(folder, num_cpus, logs_dir)
            yield LocalCluster(address, folder, token_path)
        finally:
            with interrupts_ignored():
                end_cluster(folder, logs_dir)


@contextlib.contextmanager
def connect(address: str) -> Iterator[None]:
    """Join an existing cluster for the body.

    Args:
        address: "auto" for the one of this machine or job, or host:port.

    Raises:
        ClusterError: there is no cluster there, or it refuses the connection.
        ConfigError: that is no address.
    """
    target = None if address == "auto" else _target(address)
    import ray

    _require_no_cluster()
    advice = "start one with 'ray start --head', or give no address for a local one"
    try:
        if target:  # Ray itself would try for minutes
            socket.create_connection(target, _ANSWER_S).close()
        local = target is not None and is_loopback(target.host)
        with on_loopback() if local else contextlib.nullcontext():
            ray.init(
                address=address,
                job_config=_job_config(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as e:  # Ray raises plain and private classes alike
        raise ClusterError(
            f"no Ray cluster lets us in at '{address}': {one_line(e)}; {advice}"
        ) from e
    try:
        yield
    finally:
        with interrupts_ignored():
            ray.shutdown()


def _job_config() -> "JobConfig":
    """Make a job whose workers do not import from this process's working directory.

    Ray puts that folder first in the sys.path of all workers, except for drivers that
    are clients; nothing else depends on being one.
    """
    from ray.job_config import JobConfig

    return JobConfig(_client_job=True)


def _require_no_cluster() -> None:
    import ray

    if ray.is_initialized():
        raise ClusterError(
            "this process is connected to a Ray cluster already, expected none; "
            "leave that one first"
        )


def _require_loopback() -> None:
    """Refuse a machine that cannot reach itself, where Ray's start would wait."""
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), _ANSWER_S).close()
    except OSError as e:
        raise ClusterError(
            f"this machine does not reach itself at {_LOOPBACK}, where a local Ray "
            f"listens: {one_line(e)}; run `ip link set lo up`, and where lo has no "
            f"IPv4 address `ip address add {_LOOPBACK}/8 dev lo`"
        ) from e


def _target(address: str) -> Address:
    try:
        return parse_address(address)
    except ValueError as e:
        raise ConfigError(f"Ray address {address!r}: {e}, or auto") from e


def _start(folder: Path, num_cpus: int, logs_dir: Path | None) -> str:
    """Start Ray; return its address."""
    import ray

    # What a worker leaves when it is killed goes with the cluster's folder.
    leftovers = folder / "tmp"
    leftovers.mkdir()
    for attempt in (1, 2):
        try:
            with (
                on_loopback(),
                environment(TMPDIR=str(leftovers)),
                unhurried_start(),
            ):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    job_config=_job_config(),
                    runtime_env=_RUNTIME_ENV,
                    _node_ip_address=_LOOPBACK,
                    # One below: Ray opens its own folder to everybody.
                    _temp_dir=str(folder / "r"),
                )
            return str(ray.get_runtime_context().gcs_address)
        except Exception as e:  # Ray raises plain and private classes alike
            # Once more: another program may have taken a port of the first try.
            if attempt == 2:
                raise ClusterError(
                    f"Ray did not start: {one_line(e)}; see its logs in "
                    f"{logs_dir or 'a logs_dir that you give'}"
                ) from e
            end_processes(folder)
    raise AssertionError("unreachable")


def _short_folder() -> Path:
    """Make a private folder whose path leaves room for Ray's socket names."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(os.fsencode(parent)) + len("/takt-12345678") <= _MAX_FOLDER_BYTES:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="takt-", dir=parent)).resolve()
    raise ClusterError(
        "no temporary folder is writable and short enough for Ray's sockets; "
        "set TMPDIR to one of at most 28 characters"
    )
