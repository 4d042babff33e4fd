"""Messages to a service manager: ready, status, alive, stopping.

The protocol is systemd's sd_notify: datagrams of ``KEY=value`` lines to the
socket that ``NOTIFY_SOCKET`` names. Without one every method does nothing. The
variables are taken out of the environment, because they are meant for this process
and not for its children. A manager that does not answer never stops the work.

Without a library: a message is one datagram, and systemd's own binding is compiled
against libsystemd, which small devices and containers lack.

`keep_alive` is called from the daemon's own loop and from nowhere else. No thread
sends it while the loop hangs, so the manager notices and starts the daemon again. Not
here: when the methods are called (edge/daemon/node.py), the unit
(deploy/systemd/takt-edge.service).
"""

import logging
import math
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from common.errors import ConfigError
from edge.config import EdgeConfig

logger = logging.getLogger(__name__)

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_KEEP_ALIVES = 4  # in one watchdog period
_MAX_STATUS = 300
_MESSAGE_KIB = 64  # of a pull, throttled at once
_MARGIN_S = 20.0  # for everything but the network


class Notifier:
    """Sends to the service manager; from the main thread, except `stopping`."""

    def __init__(
        self,
        environment: MutableMapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the manager's variables out of `environment`.

        Args:
            environment: of this process; ``{}`` for a daemon without a manager.
            clock: monotonic seconds.

        Raises:
            ConfigError: `WATCHDOG_USEC` is not a number above 0.
        """
        found = {name: environment.pop(name, "") for name in _VARIABLES}
        self.watchdog_s = _watchdog_s(found["WATCHDOG_USEC"], found["WATCHDOG_PID"])
        self.interval_s = self.watchdog_s / _KEEP_ALIVES  # infinite without a watchdog
        self._clock = clock
        self._next_keep_alive = -math.inf
        self._status = ""
        self._is_stopping = False
        self._socket: socket.socket | None = None
        if found["NOTIFY_SOCKET"]:
            self._connect(found["NOTIFY_SOCKET"])

    def ready(self) -> None:
        """Report that the daemon has started."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Send a status line; the same line is not sent twice in a row."""
        line = " ".join(text.split())[:_MAX_STATUS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def keep_alive(self) -> None:
        """Report that the loop runs; sent a few times a watchdog period only."""
        now = self._clock()
        if now >= self._next_keep_alive and math.isfinite(self.interval_s):
            self._next_keep_alive = now + self.interval_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Report once that the daemon stops; from any thread."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket; nothing more is sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def check_watchdog(self, config: EdgeConfig) -> None:
        """Refuse a watchdog that would mistake a slow network for a hung loop.

        Raises:
            ConfigError: its period is too short for this config.
        """
        message_s = _MESSAGE_KIB / config.profile.bandwidth_kib_s
        delay_s = config.profile.delay_ms / 1000
        silence_s = config.stall_s + message_s + delay_s + _MARGIN_S
        if self.watchdog_s <= silence_s:
            raise ConfigError(
                f"WatchdogSec of {self.watchdog_s:g} s is too short for stall_s = "
                f"{config.stall_s:g} and this bandwidth: a sound daemon may be silent "
                f"for {silence_s:.0f} s; raise WatchdogSec above that"
            )

    def _connect(self, address: str) -> None:
        # "@name" is a socket without a file: its address begins with a zero byte.
        target = f"\0{address[1:]}" if address.startswith("@") else address
        notify = socket.socket(
            socket.AF_UNIX,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        )
        try:
            notify.connect(target)
        except OSError as e:
            notify.close()
            logger.warning("no service manager at %s: %s", address, e.strerror or e)
            return
        self._socket = notify

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(message.encode())
        except OSError as e:  # gone, or its queue is full; a later one may pass
            logger.debug("the service manager did not take %s: %s", message, e)


def _watchdog_s(period_us: str, pid: str) -> float:
    """Read the watchdog's period; infinite when there is none for this process."""
    if not period_us or (pid and pid != str(os.getpid())):
        return math.inf
    if not period_us.isdecimal() or int(period_us) == 0:
        raise ConfigError(
            f"WATCHDOG_USEC is {period_us!r}, expected microseconds above 0; set "
            "WatchdogSec in the unit instead"
        )
    return int(period_us) / 1e6
