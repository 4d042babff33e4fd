"""How many connections to each of the gateway's ports one address may hold.

gRPC bounds the connections of a port as a whole, how long a TLS handshake and an idle
connection may last (`cloud.gateway.listeners`), and the calls of a node are counted
(`authorization`). It has no bound for a peer, and tells nobody of a connection before
its first call. So the sockets of this process are looked at twice a second, and an
address that holds too many loses its newest ones: they are shut down, which gRPC takes
for a peer that has gone. Of those that came between two looks any may go: nothing tells
in which order they did. A connection is known by its socket's inode, which no later one
has: a peer may reset one, and be back from the same port before the next look. Not
here: what is served on them (`cloud.gateway.server`).
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from cloud.gateway.peers import network_of

logger = logging.getLogger(__name__)

SWEEP_S = 0.5
_DESCRIPTORS = Path("/proc/self/fd")  # Linux; elsewhere nothing is bounded


class Connection(NamedTuple):
    """One connection to a port of this process.

    Attributes:
        inode: of its socket.
        port: of this process.
        host: the peer's address.
    """

    inode: int
    port: int
    host: str


def _descriptors() -> list[str]:
    return os.listdir(_DESCRIPTORS)  # noqa: PTH208 - no Path for each


class Connections:
    """The connections to some ports of this process; used from one thread at a time."""

    def __init__(
        self,
        most: Mapping[int, int],
        *,
        listing: Callable[[], list[str]] = _descriptors,
    ) -> None:
        """Bound the connections of each address to some ports.

        Args:
            most: connections of an address to each of these ports of this process.
            listing: names the descriptors that this process has open.
        """
        self._listing = listing
        self._most = most
        self._known: list[Connection] = []  # in the order in which they came
        # Shut down, and still to be closed by gRPC.
        self._ended: set[Connection] = set()

    def sweep(self) -> int:
        """Shut down the newest connections of addresses that hold too many.

        Where they cannot be looked at, what is known of them stays.

        Returns:
            How many were shut down.
        """
        try:
            found = dict(_connections(self._most, self._listing))
        except OSError as e:  # too many are open; or there is no such folder here
            logger.debug("cannot look at the connections: %s", e)
            return 0
        self._ended &= found.keys()
        new = found.keys() - self._ended - set(self._known)
        self._known = [each for each in self._known if each in found]
        self._known += [each for each in found if each in new]
        of_address: defaultdict[tuple[str, int], list[Connection]] = defaultdict(list)
        for each in self._known:
            of_address[network_of(each.host), each.port].append(each)
        before = len(self._ended)
        for (address, port), held in of_address.items():
            excess = held[self._most[port] :]
            for each in excess:
                _shut_down(found[each], each)
                self._ended.add(each)
            if excess:
                logger.warning(
                    "%s holds more than %d connections to port %d; its %d newest are "
                    "closed",
                    address,
                    self._most[port],
                    port,
                    len(excess),
                )
        self._known = [each for each in self._known if each not in self._ended]
        return len(self._ended) - before

    async def run(self) -> NoReturn:
        """Sweep twice a second, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await asyncio.to_thread(self.sweep)


def _connections(
    ports: Container[int], listing: Callable[[], list[str]]
) -> Iterator[tuple[Connection, int]]:
    """Yield each connection to one of the ports, and its descriptor.

    Raises:
        OSError: they cannot be listed, or too many are open.
    """
    for name in listing():
        descriptor = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                connection = _connection_at(descriptor, ports)
                if connection is not None:
                    yield connection, descriptor
        except OSError as e:  # it has gone, or is no connection
            if e.errno in (errno.EMFILE, errno.ENFILE):
                raise


def _connection_at(descriptor: int, ports: Container[int]) -> Connection | None:
    """Return what a socket is, if it is a connection to one of the ports.

    Raises:
        OSError: it has gone, or is no connection.
    """
    # A descriptor of its own: this one's end closes nothing.
    with socket.socket(fileno=os.dup(descriptor)) as end:
        if end.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        port = end.getsockname()[1]
        if port not in ports:
            return None
        host = end.getpeername()[0]
        return Connection(os.fstat(end.fileno()).st_ino, port, str(host))


def _shut_down(descriptor: int, connection: Connection) -> None:
    """End a connection, unless its descriptor is another's by now."""
    with (
        contextlib.suppress(OSError),
        socket.socket(fileno=os.dup(descriptor)) as end,
    ):
        if os.fstat(end.fileno()).st_ino == connection.inode:
            end.shutdown(socket.SHUT_RDWR)
