"""How a gRPC channel to the gateway is set up: TLS and options, with their reasons.

Not here: making calls and trying again (edge/link/connection.py), what failures mean
(edge/link/failures.py).
"""

import codecs
from pathlib import Path

import grpc

from common.errors import IdentityError
from edge.credentials import ENROLL_HINT, Certificates
from edge.link.proxy import Proxy

_MAX_MESSAGE_BYTES = 1024 * 1024 + 64 * 1024  # a megabyte of a file, and its frame


def open_channel(
    address: str,
    certificates: Certificates,
    *,
    stall_s: float,
    proxy: Proxy | None = None,
) -> grpc.Channel:
    """Make a channel; nothing is sent before the first call.

    Raises:
        IdentityError: a certificate file cannot be read.
    """
    files = certificates
    try:
        tls = grpc.ssl_channel_credentials(
            root_certificates=_read_pem(files.ca),
            private_key=_read_pem(files.key) if files.key else None,
            certificate_chain=(
                _read_pem(files.certificate) if files.certificate else None
            ),
        )
    except OSError as e:
        raise IdentityError(
            f"cannot read {e.filename}: {e.strerror}; {ENROLL_HINT}"
        ) from e
    stall_ms = int(stall_s * 1000)
    return grpc.secure_channel(
        address,
        tls,
        options=[
            ("grpc.enable_http_proxy", int(proxy is not None)),  # default: 1
            *([("grpc.http_proxy", proxy.url)] if proxy else []),
            ("grpc.http2.bdp_probe", 0),  # a growing window would defeat the cap
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", min(20_000, stall_ms)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),  # 0: no limit
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.enable_retries", 0),  # retries are ours: counted and jittered
            ("grpc.use_local_subchannel_pool", 1),  # reopening starts afresh
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", min(5_000, stall_ms)),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ],
    )


def _read_pem(path: Path) -> bytes:
    """Read a file for gRPC, which does not find what follows a byte-order mark."""
    return path.read_bytes().removeprefix(codecs.BOM_UTF8)
