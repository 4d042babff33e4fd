"""What a failed call to the gateway means: the error to raise, and its message.

`translate` turns a gRPC status into a domain error. gRPC reports every failed TLS
handshake as UNAVAILABLE with a library's text, so after such a failure
`identity_problem` opens one plain TLS connection with the same certificates and reads
its error: plaintext port, wrong CA, wrong name, or a gateway that refuses this node's
certificate. Not here: what is tried again, and when (edge/link/connection.py).
"""

import contextlib
import socket
import ssl
from pathlib import Path

import grpc

from common.address import parse_address
from common.errors import ClockError, IdentityError, LinkError, TaktError
from common.text import printable, shortened
from edge.credentials import ENROLL_HINT, Certificates
from edge.link.proxy import Proxy

# Texts of gRPC, in lower case, and what they mean; the first that fits counts. A test
# provokes each in the present version.
REASONS = (
    ("proxy returned response code", "the proxy refuses"),
    ("expected 'h'", "what answers there is no HTTP proxy"),
    ("connection refused", "connection refused: nothing listens there"),
    ("misformatted domain name", "that is no name which DNS could have"),
    ("errors resolving", "the name cannot be resolved"),
    ("endpoint closing", "no answer to the TLS handshake"),
    ("tcp handshaker shutdown", "no answer"),
    ("connection reset", "the connection was reset"),
    ("socket closed", "the connection was closed"),
    ("network is unreachable", "no network leads there"),
    ("no route to host", "no network leads there"),
    ("invalid argument", "this machine cannot connect to such an address"),
    ("timed out", "no answer"),
    ("ping timeout", "no answer any more"),
    ("keepalive timeout", "no answer any more"),
    ("deadline", "no answer in time"),
    ("handshake", "the TLS handshake failed"),
)
REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
_FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
}
# OpenSSL's X509_V_ERR_* codes.
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _IP_MISMATCH = 9, 10, 62, 64
# OpenSSL's reasons, as parts of their names: no TLS there, and a refused certificate.
PLAINTEXT = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG")
REFUSALS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


class MissingFileError(LinkError):
    """The gateway answers, but has no such file."""


class RefusedError(LinkError):
    """The gateway answers, and will not take this call however often it is made."""


class EndedEarlyError(grpc.RpcError):
    """A stream that ended without an error and without all of its bytes."""

    def code(self) -> grpc.StatusCode:
        """Count as a broken connection."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return the reason."""
        return str(self)


def translate(
    error: grpc.RpcError, what: str, address: str, proxy: Proxy | None = None
) -> TaktError:
    """Turn a failed call's status into the error to raise; never a raw gRPC text.

    Args:
        error: of the call.
        what: was being done, e.g. "fetching metadata/timestamp.json".
        address: of the gateway.
        proxy: that the call went through.
    """
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return MissingFileError(f"{what}: gateway {address} has no such file")
    if code in REFUSED:
        return IdentityError(
            f"{what}: gateway {address} refused this node: {_shorten(details)}; ask "
            f"its operator (`takt pki list`), or {ENROLL_HINT}"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return LinkError(
            f"{what}: gateway {address} does not offer this; check that the port is "
            "the gateway's (not the enrolment port) and that both takts are of one age"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        if proxy:
            return LinkError(
                f"{what}: gateway {address} cannot be reached through the proxy "
                f"{proxy} ({reason(details)}); check the proxy, or set "
                '`proxy = "none"` in edge.toml to go directly'
            )
        return LinkError(
            f"{what}: gateway {address} cannot be reached ({reason(details)}); check "
            "that it runs there (`takt cloud serve`) and `gateway` in edge.toml"
        )
    kind = RefusedError if code in _FINAL else LinkError
    return kind(f"{what}: gateway {address} answered {code.name}: {_shorten(details)}")


def identity_problem(
    error: grpc.RpcError,
    address: str,
    certificates: Certificates,
    *,
    timeout_s: float,
    is_repeated: bool,
) -> IdentityError | None:
    """Find out whether certificates, or plaintext, are behind an UNAVAILABLE.

    Args:
        error: of the call.
        address: ``host:port`` of the gateway.
        certificates: as the call used them.
        timeout_s: for connecting and for each read.
        is_repeated: several tries failed already, so that a connection that is
            closed without an alert counts as a refusal, not as a cut line or a
            gateway that stops.

    Returns:
        The error to raise, or None when certificates are not the reason and a
        retry may help (no listener, a cut connection).
    """
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    if "refused" in (error.details() or ""):
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=str(certificates.ca))
        context.set_alpn_protocols(["h2"])
        if certificates.certificate and certificates.key:
            context.load_cert_chain(certificates.certificate, certificates.key)
        is_closed = _closes_after_handshake(context, address, timeout_s)
    except ssl.SSLCertVerificationError as e:
        by_clock = e.verify_code in (_EXPIRED, _NOT_YET_VALID)
        kind = ClockError if by_clock else IdentityError
        return kind(_explain_verification(e, address, certificates.ca))
    except ssl.SSLError as e:
        return _explain_alert(e, address, certificates.certificate)
    except (OSError, UnicodeError):  # the latter: no name that DNS could have
        return None
    if certificates.certificate and is_closed and is_repeated:
        found = "closed right after the handshake"
        return _refusal(address, certificates.certificate, found)
    return None


def _closes_after_handshake(
    context: ssl.SSLContext, address: str, timeout_s: float
) -> bool:
    """Check whether the gateway closes a TLS connection without an alert.

    In TLS 1.3 a refused client certificate shows at the first read only, and a gRPC
    server sends no alert for it.

    Raises:
        OSError: no connection or no handshake (ssl.SSLError is one).
    """
    target = parse_address(address)
    with (
        contextlib.closing(socket.create_connection(target, timeout_s)) as raw,
        context.wrap_socket(raw, server_hostname=target.host) as tls,
    ):
        try:
            tls.sendall(_HTTP2_PREFACE)
            return tls.recv(1) == b""
        except (ssl.SSLEOFError, ConnectionError):
            return True


def _explain_verification(
    error: ssl.SSLCertVerificationError, address: str, ca_file: Path
) -> str:
    """Explain why this node does not accept the gateway's certificate."""
    host = parse_address(address).host
    who = f"gateway {address}: its certificate"
    if error.verify_code == _EXPIRED:
        return (
            f"{who} has expired; renew it at the gateway (or set this machine's clock)"
        )
    if error.verify_code == _NOT_YET_VALID:
        return f"{who} is not valid yet; check the clocks of both machines"
    if error.verify_code in (_HOST_MISMATCH, _IP_MISMATCH):
        return (
            f"{who} is not for '{host}'; use a name that is in it, or add '{host}' "
            "to the host names of the gateway's certificate"
        )
    return (
        f"{who} was not issued by the project CA in {ca_file} "
        f"({error.verify_message}); check the address, or get the ca.crt of that "
        "gateway's project and enrol again"
    )


def _explain_alert(
    error: ssl.SSLError, address: str, certificate_file: Path | None
) -> IdentityError | None:
    """Read the reason that the other side, or OpenSSL, gave."""
    reason = error.reason or ""
    if reason in PLAINTEXT:
        return IdentityError(
            f"gateway {address} answers in plaintext, expected TLS; check the port "
            "(gateway, not status page or enrolment) and that TLS is on there"
        )
    if certificate_file and "ALERT" in reason and any(r in reason for r in REFUSALS):
        found = reason.lower().replace("_", " ")
        return _refusal(address, certificate_file, found)
    return None


def _refusal(address: str, certificate_file: Path, found: str) -> IdentityError:
    return IdentityError(
        f"gateway {address} does not accept this node's certificate {certificate_file} "
        f"({found}); it is perhaps of another project: enrol again with a fresh token"
    )


def reason(details: str) -> str:
    """Put gRPC's details into a short, readable reason."""
    lowered = details.lower()
    for text, meaning in REASONS:
        if text in lowered:
            return meaning
    return _shorten(details)


def _shorten(details: str) -> str:
    return shortened(printable(" ".join(details.split())), 160)
