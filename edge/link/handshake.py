"""Why a TLS connection to the gateway fails, in words that name the fix.

gRPC reports every failed handshake as UNAVAILABLE with a library's text. After
such a failure one plain TLS connection with the same certificates is tried and
its error is read: plaintext port, wrong CA, wrong name, or a gateway that
refuses this node's certificate. Not here: anything that a retry may cure (no
listener, a cut connection); for those `diagnose` returns None.
"""

import contextlib
import socket
import ssl
from pathlib import Path

from common.errors import IdentityError

# OpenSSL's X509_V_ERR_* codes.
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _IP_MISMATCH = 9, 10, 62, 64
_PLAINTEXT = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_REFUSALS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port``; brackets of an IPv6 host are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def diagnose(
    address: str,
    *,
    ca_file: Path,
    certificate_file: Path | None,
    key_file: Path | None,
    timeout_s: float,
    is_repeated: bool = False,
) -> IdentityError | None:
    """Try one TLS connection and say what about identity is wrong with it.

    Args:
        address: ``host:port`` of the gateway.
        ca_file: project CA that the gateway's certificate must come from.
        certificate_file: this node's certificate; None on the enrolment port.
        key_file: its private key.
        timeout_s: for connecting and for each read.
        is_repeated: several tries failed already, so that a close without a word
            is no longer taken for a cut line or a gateway that stops.

    Returns:
        The error to raise, or None when this is no matter of certificates.
    """
    host, _ = split_address(address)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=str(ca_file))
        context.set_alpn_protocols(["h2"])
        if certificate_file and key_file:
            context.load_cert_chain(str(certificate_file), str(key_file))
        is_turned_away = _closes_after_handshake(context, address, timeout_s)
    except ssl.SSLCertVerificationError as e:
        return IdentityError(_explain_verification(e, address, host, ca_file))
    except ssl.SSLError as e:
        return _explain_alert(e, address, certificate_file)
    except (OSError, UnicodeError):  # the latter: no name that DNS could have
        return None
    if certificate_file and is_turned_away and is_repeated:
        return _refusal(address, certificate_file, "closed right after the handshake")
    return None


def _closes_after_handshake(
    context: ssl.SSLContext, address: str, timeout_s: float
) -> bool:
    """Say whether the gateway ends a TLS connection without a word.

    In TLS 1.3 a refused client certificate shows at the first read only, and a gRPC
    server sends no alert for it.

    Raises:
        OSError: no connection or no handshake (ssl.SSLError is one).
    """
    host, port = split_address(address)
    with (
        contextlib.closing(socket.create_connection((host, port), timeout_s)) as raw,
        context.wrap_socket(raw, server_hostname=host) as tls,
    ):
        try:
            tls.sendall(_HTTP2_PREFACE)
            return tls.recv(1) == b""
        except (ssl.SSLEOFError, ConnectionError):
            return True


def _explain_verification(
    error: ssl.SSLCertVerificationError, address: str, host: str, ca_file: Path
) -> str:
    """Say why the gateway's certificate was not accepted here."""
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
    if reason in _PLAINTEXT:
        return IdentityError(
            f"gateway {address} answers in plaintext, expected TLS; check the port "
            "(gateway, not status page or enrolment) and that TLS is on there"
        )
    if certificate_file and "ALERT" in reason and any(r in reason for r in _REFUSALS):
        words = reason.lower().replace("_", " ")
        return _refusal(address, certificate_file, words)
    return None


def _refusal(address: str, certificate_file: Path, words: str) -> IdentityError:
    return IdentityError(
        f"gateway {address} does not accept this node's certificate {certificate_file} "
        f"({words}); it is perhaps of another project: enrol again with a fresh token"
    )
