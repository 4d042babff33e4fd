"""Where a gateway listens, and the addresses that nodes are given.

`Addresses` is kept in the storage folder as gateway.json: a restarted gateway takes its
ports again, and the operator configures `takt edge` with them. Not here: the sockets
(`cloud.gateway.listeners`).
"""

import errno
import json
import os
import socket
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import NamedTuple, Self

from cloud.storage import StorageDir
from common.address import join
from common.config import GatewayConfig
from common.durable import write_atomic
from common.errors import AddressError

_WILDCARDS = ("0.0.0.0", "::", "")
_LOOPBACKS = ("127.0.0.1", "::1")  # gRPC binds either wildcard for both families


@dataclass(frozen=True)
class Addresses:
    """A gateway's two addresses."""

    address: str  # host:port of the node port, as nodes reach it
    enroll_address: str
    host: str  # that the sockets are bound to
    port: int
    enroll_port: int
    status_host: str = ""  # of the status page, as this machine reaches it
    status_port: int = 0  # 0: there is none

    @property
    def reachable_host(self) -> str:
        """Return a host that this machine reaches the node and enrolment ports by."""
        return reachable(self.host)

    @classmethod
    def load(cls, storage: StorageDir) -> Self | None:
        """Read gateway.json; None where it is missing or damaged."""
        try:
            tree = json.loads(storage.addresses.read_bytes())
            return cls(
                address=str(tree["address"]),
                enroll_address=str(tree["enroll_address"]),
                host=str(tree["host"]),
                port=int(tree["port"]),
                enroll_port=int(tree["enroll_port"]),
                status_host=str(tree.get("status_host", "")),
                status_port=int(tree.get("status_port", 0)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, storage: StorageDir) -> None:
        """Write gateway.json.

        Raises:
            StorageError: the folder cannot be written.
        """
        tree = {**asdict(self), "pid": os.getpid()}
        write_atomic(storage.addresses, json.dumps(tree, indent=1).encode() + b"\n")


def reachable(host: str) -> str:
    """Return a host that this machine reaches what is bound to `host` by.

    Of a wildcard the loopback address that there is: a container may have no IPv6
    though it takes connections at "::", and a machine may have nothing else.
    """
    if host not in _WILDCARDS:
        return host
    return loopback()


def loopback() -> str:
    """Return the loopback address that this machine has."""
    return next(filter(_is_here, _LOOPBACKS), _LOOPBACKS[0])


def advertised(config: GatewayConfig, port: int, enroll_port: int) -> Addresses:
    """Combine the ports that were bound with the name that nodes use."""
    name = certificate_names(config)[0]
    return Addresses(
        join(name, port), join(name, enroll_port), config.host, port, enroll_port
    )


def certificate_names(config: GatewayConfig) -> tuple[str, ...]:
    """List what the server certificate must cover, the advertised name first."""
    if config.names:
        return config.names
    if config.host in _WILDCARDS:
        return (socket.gethostname(),)
    return (config.host,)


class Wanted(NamedTuple):
    """A port that a config asks for; one of 0 is not asked for."""

    key: str  # below gateway
    host: str
    port: int


def wanted(config: GatewayConfig) -> list[Wanted]:
    """List the ports that a gateway is to have, whichever they are."""
    found = [
        Wanted("port", config.host, config.port),
        Wanted("enroll_port", config.host, config.enroll_port),
    ]
    if config.status_page:
        found.append(Wanted("status_port", page_host(config), config.status_port))
    return [each for each in found if each.port]


def page_host(config: GatewayConfig) -> str:
    """Return the address that the status page is bound to."""
    return loopback() if config.status_host == "localhost" else config.status_host


def check_ports(config: GatewayConfig) -> None:
    """Check the wanted ports, before a cluster is started or a teacher trained.

    Raises:
        AddressError: one is taken or asked for twice, or its host is not this
            machine's.
    """
    found = wanted(config)
    for one, other in combinations(found, 2):
        if one.port == other.port and _overlap(one.host, other.host):
            raise AddressError(
                f"gateway.{one.key} and gateway.{other.key} are both {one.port}; set "
                "one of them to another port or to 0"
            )
    for key, host, port in found:
        error = bind_error(host, port, key=key)
        if error is not None:
            raise error


def _overlap(one: str, other: str) -> bool:
    return one == other or not {one, other}.isdisjoint(_WILDCARDS)


def bind_error(host: str, port: int, *, key: str = "port") -> AddressError | None:
    """Try to bind an address; return the error if it cannot be bound.

    Args:
        host: of this machine, or a wildcard.
        port: to listen on.
        key: of the config, below gateway, that asks for it.
    """
    try:
        info = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(info[0], info[1]) as probe:
            # As gRPC does: a port whose last connections linger counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(info[4])
            probe.listen(1)
    except OSError as e:
        where = join(host, port)
        of_host = "status_host" if key == "status_port" else "host"
        if e.errno == errno.EADDRINUSE:
            return AddressError(
                f"port {port} on {host} is in use; stop the program that has it (ss "
                f"-ltnp 'sport = :{port}' names it), or set gateway.{key} to another "
                "port or to 0 for a free one"
            )
        if e.errno in (errno.EACCES, errno.EPERM):
            return AddressError(
                f"cannot listen on {where}: {e.strerror}; ports below 1024 need root"
            )
        if ":" in host and not _is_here("::1"):
            return AddressError(
                f"cannot listen on {where}: this machine or container has no IPv6; set "
                f"gateway.{of_host} to an IPv4 address of it, for instance 127.0.0.1 "
                "or 0.0.0.0"
            )
        return AddressError(
            f"cannot listen on {where}: {e.strerror}; gateway.{of_host} must be an "
            "address of this machine, for instance 127.0.0.1, ::1, 0.0.0.0 or ::"
        )
    return None


def _is_here(address: str) -> bool:
    """Check whether an address is one of this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
