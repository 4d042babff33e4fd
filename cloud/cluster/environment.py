"""Settings of this process while it starts, leaves or uses a Ray.

Environment variables (Ray's processes inherit them), the address that Ray takes, and
Ctrl-C ignored during a clean-up. Not here: what is started.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from common.signals import stop_signals


@contextlib.contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set (or, with None, unset) variables for the body."""
    before = {name: os.environ.get(name) for name in variables}
    _assign(variables)
    try:
        yield
    finally:
        _assign(before)


@contextlib.contextmanager
def core_environment(**variables: str | None) -> Iterator[None]:
    """Do the same for variables that Ray's core reads; not while connected."""
    try:
        with environment(**variables):
            _reread()
            yield
    finally:
        _reread()


def _assign(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _reread() -> None:
    """Let the core read its settings again; it read them when it was imported."""
    from ray import _raylet

    core: Any = _raylet
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 as its address, and so listen nowhere else.

    On Linux it replaces a loopback address by that of an interface, unless it is set to
    join no cluster (as on macOS and Windows).
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignore what would end a clean-up: a second signal must not leave processes.

    Ray removes all handlers while it ends, and not SIGINT alone comes twice: systemd
    can send SIGHUP after SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, signal.SIG_IGN) for n in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
