"""Addresses as users write them: a host, or host:port.

One grammar for edge.toml, the cloud's config and the command line: a name, an IPv4
address, or an IPv6 address, which stands in brackets where a port follows. Not here:
whether a name resolves, or anything listens there.
"""

import ipaddress
import re
from typing import NamedTuple

EXAMPLE = "gateway.example:7443 or [2001:db8::1]:7443"
HOST_EXAMPLE = "gateway.example, 192.0.2.1 or 2001:db8::1"
MAX_PORT = 65535
_LINK_LOCAL = ": take the machine's name or another address of it"


class Address(NamedTuple):
    """Where something listens."""

    host: str  # an IPv6 address is without brackets
    port: int

    def __str__(self) -> str:
        """Write host:port; `parse_address` reads the same back."""
        return join(self.host, self.port)


def join(host: str, port: int) -> str:
    """Write host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """Read host:port.

    Raises:
        ValueError: it is none; the message says why, and gives an example.
    """
    try:
        host, port = _split(text)
        return Address(_host(host, is_bracketed=text.startswith("[")), _port(port))
    except ValueError as e:
        raise ValueError(f"{e}; expected HOST:PORT, for instance {EXAMPLE}") from None


def parse_host(text: str) -> str:
    """Read a host without a port, and write IPv6 addresses in their short form.

    Raises:
        ValueError: it is none; the message says why, and gives an example.
    """
    try:
        _refuse_other_kinds(text)
        if text.startswith("["):
            raise ValueError("brackets belong only where a port follows")
        if text.count(":") == 1:
            raise ValueError("a port does not belong here")
        return _host(text, is_bracketed=":" in text)
    except ValueError as e:
        raise ValueError(
            f"{e}; expected a host without a port, for instance {HOST_EXAMPLE}"
        ) from None


def parse_certificate_host(text: str) -> str:
    """Read a host of a certificate, which may be a wildcard such as *.example.

    Raises:
        ValueError: as `parse_host`.
    """
    prefix = "*." if text.startswith("*.") else ""
    return prefix + parse_host(text.removeprefix(prefix))


def is_loopback(host: str) -> bool:
    """Check whether a host is this machine, by a name or address that says so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _split(text: str) -> tuple[str, str]:
    """Take host and port apart."""
    _refuse_other_kinds(text)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError("the bracket of the IPv6 address is not closed")
        if not rest.startswith(":"):
            raise ValueError("the port is missing")
        return host, rest[1:]
    if text.count(":") > 1:
        raise ValueError("an IPv6 address needs brackets")
    host, colon, port = text.partition(":")
    if not colon:
        raise ValueError("the port is missing")
    return host, port


def _refuse_other_kinds(text: str) -> None:
    """Refuse what is more than a host and a port."""
    if "://" in text:
        raise ValueError(
            f"a scheme ({text.partition('://')[0]}://) does not belong here"
        )
    if "/" in text:
        raise ValueError("a path does not belong here")
    if "@" in text:
        raise ValueError("a user name does not belong here")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("a space does not belong here")


def _port(text: str) -> int:
    if not text:
        raise ValueError("the port is missing")
    if not re.fullmatch("[0-9]+", text):
        raise ValueError(f"the port '{text}' is not a number")
    digits = text.lstrip("0")
    if not digits or len(digits) > len(str(MAX_PORT)) or int(digits) > MAX_PORT:
        raise ValueError(f"the port {text} is not from 1 to {MAX_PORT}")
    return int(digits)


def _host(text: str, *, is_bracketed: bool) -> str:
    """Check a name or address without brackets."""
    if not text:
        raise ValueError("the host is missing")
    if is_bracketed:
        return _ipv6(text)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError(f"'{text}' is not an IPv4 address") from None
    try:
        name = text.encode("idna").decode()  # what DNS and certificates have
    except UnicodeError:  # an empty or overlong part, or a character of none
        name = ""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name.startswith((".", "-")):
        raise ValueError(f"'{text}' is not a host name")
    if not text.isascii():
        raise ValueError(f"'{text}' is not ASCII: write {name}")
    return name


def _ipv6(text: str) -> str:
    plain, percent, zone = text.partition("%")
    if percent:
        raise ValueError(f"the zone %{zone} cannot be in a certificate{_LINK_LOCAL}")
    try:
        address = ipaddress.IPv6Address(plain)
    except ValueError:
        raise ValueError(f"'{text}' is not an IPv6 address") from None
    if address.is_link_local:
        raise ValueError(f"'{text}' cannot be reached without a zone{_LINK_LOCAL}")
    return str(address)
