"""How many connections to the gateway's ports one address may hold.

gRPC bounds the connections of a port as a whole, how long a TLS handshake and an idle
connection may last (`cloud.gateway.listeners`), and the calls of a node are counted
(`authorization`). It has no bound for a peer, and tells nobody of a connection before
its first call. So the sockets of this process are looked at twice a second, and an
address that holds too many loses its newest ones: they are shut down, which gRPC takes
for a peer that has gone. Of those that came between two looks any may go: nothing tells
in which order they did. Not here: what is served on them (`cloud.gateway.server`).
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from cloud.gateway.refusals import network_of

logger = logging.getLogger(__name__)

SWEEP_S = 0.5
_DESCRIPTORS = Path("/proc/self/fd")  # Linux; elsewhere nothing is bounded

Peer = tuple[str, int]  # address and port


def _descriptors() -> list[str]:
    return os.listdir(_DESCRIPTORS)  # noqa: PTH208 - no Path for each


class Connections:
    """The connections to some ports of this process; used from one thread at a time."""

    def __init__(
        self,
        ports: frozenset[int],
        *,
        most: int,
        listing: Callable[[], list[str]] = _descriptors,
    ) -> None:
        """Bound the connections to `ports` at `most` for each address.

        Args:
            ports: of this process.
            most: connections of an address.
            listing: names the descriptors that this process has open.
        """
        self._listing = listing
        self._ports = ports
        self._most = most
        self._known: list[Peer] = []  # in the order in which they came
        self._ended: set[Peer] = set()  # shut down, and still to be closed by gRPC

    def sweep(self) -> int:
        """Shut down the newest connections of addresses that hold too many.

        Where they cannot be looked at, what is known of them stays.

        Returns:
            How many were shut down.
        """
        try:
            found = dict(_connections(self._ports, self._listing))
        except OSError as e:  # too many are open; or there is no such folder here
            logger.debug("cannot look at the connections: %s", e)
            return 0
        self._ended &= found.keys()
        new = found.keys() - self._ended - set(self._known)
        self._known = [peer for peer in self._known if peer in found]
        self._known += [peer for peer in found if peer in new]
        of_address: defaultdict[str, list[Peer]] = defaultdict(list)
        for peer in self._known:
            of_address[network_of(peer[0])].append(peer)
        excess = {a: peers[self._most :] for a, peers in of_address.items()}
        for address, peers in excess.items():
            for peer in peers:
                _shut_down(found[peer], peer)
                self._ended.add(peer)
            if peers:
                logger.warning(
                    "%s holds more than %d connections; its %d newest are closed",
                    address,
                    self._most,
                    len(peers),
                )
        self._known = [peer for peer in self._known if peer not in self._ended]
        return sum(map(len, excess.values()))

    async def run(self) -> NoReturn:
        """Sweep twice a second, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await asyncio.to_thread(self.sweep)


def _connections(
    ports: frozenset[int], listing: Callable[[], list[str]]
) -> Iterator[tuple[Peer, int]]:
    """Yield the peer and descriptor of each connection to one of the ports.

    Raises:
        OSError: they cannot be listed, or too many are open.
    """
    for name in listing():
        descriptor = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                peer = _peer_at(descriptor, ports)
                if peer is not None:
                    yield peer, descriptor
        except OSError as e:  # it has gone, or is no connection
            if e.errno in (errno.EMFILE, errno.ENFILE):
                raise


def _peer_at(descriptor: int, ports: frozenset[int]) -> Peer | None:
    """Return who is at the other end of a connection to one of the ports.

    Raises:
        OSError: it has gone, or is no connection.
    """
    # A descriptor of its own: this one's end closes nothing.
    with socket.socket(fileno=os.dup(descriptor)) as end:
        if end.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if end.getsockname()[1] not in ports:
            return None
        host, port = end.getpeername()[:2]
        return str(host), int(port)


def _shut_down(descriptor: int, peer: Peer) -> None:
    """End a connection, unless its descriptor is another's by now."""
    with (
        contextlib.suppress(OSError),
        socket.socket(fileno=os.dup(descriptor)) as end,
    ):
        if end.getpeername()[:2] == peer:
            end.shutdown(socket.SHUT_RDWR)
