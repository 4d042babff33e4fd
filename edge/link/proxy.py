"""Which HTTP proxy, if any, a channel to the gateway goes through.

None to this machine itself; else the one of edge.toml, or that of the environment's
variables, which gRPC reads. Not here: downloads of data sets (common.data), which
urllib sends through its own.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from common.address import is_loopback, parse_address

NO_PROXY = "none"  # in edge.toml
_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # the first that gRPC finds
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy."""

    url: str
    source: str  # what names it

    def __str__(self) -> str:
        """Name it without its password."""
        scheme, mark, rest = self.url.rpartition("://")
        return f"{scheme}{mark}{rest.rpartition('@')[2]} of {self.source}"


def proxy_to(
    address: str, wanted: str | None, env: Mapping[str, str] | None = None
) -> Proxy | None:
    """Find the proxy to an address; None: the channel goes there directly.

    Args:
        address: ``host:port`` of the gateway.
        wanted: the key `proxy` of edge.toml: host:port, "none", or not set.
        env: the variables; None: this process's.
    """
    variables = os.environ if env is None else env
    host = parse_address(address).host
    if wanted == NO_PROXY or is_loopback(host):
        return None
    exceptions = next((variables[n] for n in _EXCEPTIONS if variables.get(n)), "")
    if any(_covers(entry.strip(), host) for entry in exceptions.split(",")):
        return None
    if wanted:
        return Proxy(f"http://{wanted}", "`proxy` in edge.toml")
    source = next((name for name in _VARIABLES if variables.get(name)), None)
    return Proxy(variables[source], source) if source else None


def _covers(entry: str, host: str) -> bool:
    """Check whether an entry of no_proxy means a host, as gRPC does; "*" means all."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return entry != "" and host.lower().endswith(entry.lower())
