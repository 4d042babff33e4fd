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
from typing import Self

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

    @property
    def reachable_host(self) -> str:
        """Return a host that this machine reaches the sockets by.

        Of a wildcard the loopback address that there is: a container may have no IPv6
        though it takes connections at "::", and a machine may have nothing else.
        """
        if self.host not in _WILDCARDS:
            return self.host
        return next(filter(_is_here, _LOOPBACKS), _LOOPBACKS[0])

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


def bind_error(host: str, port: int) -> AddressError | None:
    """Try to bind an address; return the error if it cannot be bound."""
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
        if e.errno == errno.EADDRINUSE:
            return AddressError(
                f"port {port} on {host} is in use; stop the program that has it (ss "
                f"-ltnp 'sport = :{port}' names it), or set gateway.port and "
                "gateway.enroll_port to other ports or to 0 for free ones"
            )
        if e.errno in (errno.EACCES, errno.EPERM):
            return AddressError(
                f"cannot listen on {where}: {e.strerror}; ports below 1024 need root"
            )
        if ":" in host and not _is_here("::1"):
            return AddressError(
                f"cannot listen on {where}: this machine or container has no IPv6; set "
                "gateway.host to an IPv4 address of it, for instance 127.0.0.1 or "
                "0.0.0.0"
            )
        return AddressError(
            f"cannot listen on {where}: {e.strerror}; gateway.host must be an address "
            "of this machine, for instance 127.0.0.1, ::1, 0.0.0.0 or ::"
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
