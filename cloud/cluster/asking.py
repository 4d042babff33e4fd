"""Calls to a Ray that may have gone: they end when its control store has.

A signal may reach Ray as well (systemd sends it to the whole control group), and Ray
waits a minute for a control store that is gone, then ends this process. Not here: what
is asked (`cloud.training.job`, `cloud.gateway.ray_serve`), ending a local Ray
(`cloud.cluster.cleanup`).
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from common.address import parse_address

_POLL_S = 0.2
_under_way: list[threading.Thread] = []


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Note that this thread is in a call of Ray's for the body."""
    _under_way.append(threading.current_thread())
    try:
        yield
    finally:
        _under_way.remove(threading.current_thread())


def is_asked() -> bool:
    """Tell whether a thread is in a call: disconnecting would end this process."""
    return bool(_under_way)


def answers() -> bool:
    """Tell whether there is a control store where this process is connected to one."""
    import ray

    if not ray.is_initialized():
        return False
    address = parse_address(str(ray.get_runtime_context().gcs_address))
    with contextlib.suppress(OSError):
        socket.create_connection(address, 1.0).close()
        return True
    return False


def ask(call: Callable[[], object], *, limit_s: float) -> bool:
    """Make a call of Ray's; return False where it is given up.

    It is made in a thread, which stays behind when the call hangs.

    Args:
        call: what it returns is dropped.
        limit_s: most that it may take.

    Raises:
        Exception: what the call raised.
    """
    failures: list[Exception] = []

    def make() -> None:
        try:
            with asking():
                call()
        except Exception as e:
            failures.append(e)

    thread = threading.Thread(target=make, name="asking Ray", daemon=True)
    if not answers():
        return False
    thread.start()
    waited_s = 0.0
    while waited_s < limit_s:
        thread.join(_POLL_S)
        if not thread.is_alive():
            break
        waited_s += _POLL_S
        if not answers():
            return False
    if failures:
        raise failures[0]
    return not thread.is_alive()
