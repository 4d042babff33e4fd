"""Who is at the other end of a call: an address, and the node of a certificate.

Not here: whether that node may call (`cloud.gateway.authorization`).
"""

import contextlib
import ipaddress
from typing import Any
from urllib.parse import unquote

import grpc.aio

from cloud.pki.certificates import claim_of

Context = grpc.aio.ServicerContext[Any, Any]
_IPV6_NETWORK = 64  # bits: what one subscriber has to choose addresses from


def certificate_of(context: Context) -> bytes | None:
    """Return the certificate (PEM) of a caller, checked by TLS; None: it has none."""
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    return None if pem is None else bytes(pem)


def node_of(context: Context) -> str:
    """Return the name in a caller's certificate; "": it has no certificate, or none."""
    pem = certificate_of(context)
    with contextlib.suppress(ValueError):  # a certificate that cannot be read
        return claim_of(pem).name if pem else ""
    return ""


def source_of(peer: str) -> str:
    """Return the address in a peer of gRPC's; of IPv6 the network of its subscriber.

    Args:
        peer: for instance "ipv4:192.0.2.7:50000" or "ipv6:%5B2001:db8::1%5D:50000".
    """
    return network_of(unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]"))


def network_of(host: str) -> str:
    """Return an address; of IPv6 the network of its subscriber."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # no IP connection, a socket file for instance
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
    return str(address)
