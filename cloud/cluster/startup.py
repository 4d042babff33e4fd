"""How Ray's processes start: in sessions of their own, and with time on a busy machine.

A signal to the process group (Ctrl-C, `timeout`, a closed terminal) reaches takt alone,
which then ends Ray in order. Ray itself gives its start fixed times: 15 s for the port
of each of the raylet's agents, 30 s for the raylet and for the control store. On a busy
core importing Python modules alone takes longer. Here a start may take as long as its
processes live, and ends at once when one of them does. Not here: whole clusters
(`cloud.cluster.local`).
"""

import contextlib
import inspect
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import ClusterError

PATIENCE_S = 1200  # for a start whose processes live but do not come up
_POLL_S = 0.2
# Ports that the raylet would wait 15 s for, were they not given to it.
_AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)
# Above Ray's workers' (10002 to 19999), below what Linux gives away by default.
_LOWEST, _HIGHEST, _TRIES = 20_000, 32_768, 50
# Settings that Ray's processes read. A health check that nobody answers in time is that
# of a busy process; one that has died refuses the connection at once.
SETTINGS: dict[str, str | None] = {
    "RAY_agent_register_timeout_ms": str(PATIENCE_S * 1000),
    "RAY_worker_register_timeout_seconds": str(PATIENCE_S),
    "RAY_health_check_timeout_ms": "60000",
    # One question whether the raylet is there, in C++; `_retry` asks again. By default
    # it takes 30 s, and a raylet that has died meanwhile is not seen before.
    "RAY_raylet_start_wait_time_s": "1",
    # Otherwise a driver is let in only when the first workers have imported Python's
    # modules. Until then it sits in C++, where no signal reaches it, and a raylet that
    # ends meanwhile ends the driver too, with code 1 and no clean-up.
    "RAY_prestart_worker_first_driver": "0",
}


class _Start:
    """The processes of one start."""

    def __init__(self) -> None:
        self._needed: dict[str, subprocess.Popen[bytes]] = {}
        self._deadline = time.monotonic() + PATIENCE_S

    def add(self, process: "subprocess.Popen[bytes]", program: str) -> None:
        """Remember a process, if there is no cluster without it."""
        name = Path(program).name
        if name in ("gcs_server", "raylet"):
            self._needed[name] = process

    def check(self) -> None:
        """Raise when waiting on makes no sense.

        Raises:
            ClusterError: a process has ended, or the patience has.
        """
        for name, process in self._needed.items():
            code = process.poll()
            if code is not None:
                raise ClusterError(f"its {name} {_ending(code)} while it started")
        if time.monotonic() > self._deadline:
            raise ClusterError(
                f"its processes live but did not come up in {PATIENCE_S} s"
            )


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


@contextlib.contextmanager
def unhurried_start() -> Iterator[None]:
    """Start Ray's processes in the body as the module says."""
    from ray import _raylet
    from ray._private import node, services

    start = _Start()
    core: Any = _raylet  # it carries no annotations
    console_popen: Any = services.ConsolePopen

    class OwnSession(console_popen):  # type: ignore[misc]
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(command, start_new_session=True, **options)
            start.add(self, command[0])

    get_node: Any = services.get_node
    start_raylet: Any = services.start_raylet
    wait_for_port = core.wait_for_persisted_port

    def patient_node(*arguments: Any) -> Any:
        return _retry(lambda: get_node(*arguments), RuntimeError, start)

    def patient_port(folder: str, node_id: str, name: str, timeout_ms: int = 0) -> Any:
        # In C++, where no signal would end it: so for a moment each time.
        moment = min(timeout_ms, int(_POLL_S * 1000))
        return _retry(
            lambda: wait_for_port(folder, node_id, name, timeout_ms=moment),
            Exception,
            start,
        )

    def raylet_with_ports(*arguments: Any, **options: Any) -> Any:
        call = inspect.signature(start_raylet).bind(*arguments, **options)
        given = call.arguments
        free = _free_ports(len(_AGENT_PORTS))
        for name, port in zip(_AGENT_PORTS, free, strict=True):
            given[name] = port
            # Of some ports the raylet has no option: it reads the agent's file.
            core.persist_port(given["session_dir"], given["node_id"], name, port)
        return start_raylet(*call.args, **call.kwargs)

    with (
        _replaced(services, "ConsolePopen", OwnSession),
        _replaced(services, "get_node", patient_node),
        _replaced(services, "start_raylet", raylet_with_ports),
        _replaced(node, "wait_for_persisted_port", patient_port),
    ):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Put another value in the place of a module's own for the body."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _retry(call: Callable[[], Any], failure: type[Exception], start: _Start) -> Any:
    """Repeat a call that fails until it answers, or the start has ended."""
    while True:
        try:
            return call()
        except failure:
            start.check()
            time.sleep(_POLL_S)


def _free_ports(count: int) -> list[int]:
    """Find ports of the loopback that are free now, and that nobody is given by chance.

    An agent binds its port only after seconds of importing, and where that fails its
    raylet dies, perhaps after the start. So the ports lie below those that the kernel
    gives to whoever asks for any, and above those of Ray's workers. One that is taken
    meanwhile during the start makes it fail, and `local_cluster` try again.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in _candidates():
            each = stack.enter_context(socket.socket())
            try:
                each.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(each.getsockname()[1])
            if len(ports) == count:
                return ports
    raise ClusterError(f"no {count} free ports are left on 127.0.0.1; end a program")


def _candidates(
    ranges: Path = Path("/proc/sys/net/ipv4/ip_local_port_range"),
) -> Iterator[int]:
    """Yield ports to try: those that are given to nobody, then any (0)."""
    below = _HIGHEST
    with contextlib.suppress(OSError, ValueError, IndexError):
        below = min(below, int(ranges.read_text().split()[0]))
    for _ in range(_TRIES if below > _LOWEST else 0):
        yield _LOWEST + secrets.randbelow(below - _LOWEST)
    for _ in range(_TRIES):
        yield 0
