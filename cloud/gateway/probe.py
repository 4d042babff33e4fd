"""`takt cloud check`: does the gateway of a storage folder serve?

Asks grpc.health.v1 at the enrolment port, which wants no client certificate, and
checks the gateway's certificate against the project's authority, as a node does. Not
here: the answer (`cloud.gateway.health`).
"""

import socket
import ssl

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud.gateway.addresses import Addresses
from cloud.storage import StorageDir
from common.address import join
from common.errors import LinkError, StorageError

_ANSWER_S = 5.0
_NAME = "localhost"  # every gateway's certificate covers it


def check_gateway(storage: StorageDir) -> str:
    """Return the address of the gateway, which answers on both ports and serves.

    Raises:
        LinkError: no gateway was started there, it does not answer, or it is draining.
        StorageError: the project's authority cannot be read.
    """
    addresses = Addresses.load(storage)
    if addresses is None:
        raise LinkError(
            f"no gateway has served {storage.root} yet; start one with `takt cloud "
            "serve`"
        )
    try:
        ca_pem = storage.ca.read_bytes()
    except OSError as e:
        raise StorageError(
            f"cannot read {storage.ca}: {e.strerror or e}; check as the user who runs "
            "the gateway"
        ) from e
    host = addresses.reachable_host
    try:
        status = _ask_health(join(host, addresses.enroll_port), ca_pem)
    except grpc.RpcError as e:
        reason = f"{e.code().name}, {e.details()}"
        raise _no_answer(storage, host, addresses.enroll_port, reason) from e
    if status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
        raise LinkError(
            f"the gateway at {addresses.address} answers {name}, expected SERVING; it "
            f"is stopping, see {storage.gateway_log}"
        )
    try:
        _shake_hands(host, addresses.port, ca_pem)
    except OSError as e:  # ssl's errors among them
        raise _no_answer(storage, host, addresses.port, str(e.strerror or e)) from e
    return addresses.address


def _shake_hands(host: str, port: int, ca_pem: bytes) -> None:
    """Open a TLS connection; the node port answers calls only to enrolled nodes."""
    context = ssl.create_default_context(cadata=ca_pem.decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), _ANSWER_S) as plain,
        context.wrap_socket(plain, server_hostname=_NAME),
    ):
        pass


def _ask_health(address: str, ca_pem: bytes) -> int:
    """Return the status of the gateway as a whole.

    Raises:
        grpc.RpcError: there is no answer in time.
    """
    options = (("grpc.ssl_target_name_override", _NAME), ("grpc.enable_http_proxy", 0))
    credentials = grpc.ssl_channel_credentials(ca_pem)
    with grpc.secure_channel(address, credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_S)
    return int(answer.status)


def _no_answer(storage: StorageDir, host: str, port: int, reason: str) -> LinkError:
    return LinkError(
        f"the gateway at {join(host, port)} does not answer: "
        f"{' '.join(reason.split())[:200]}; see {storage.gateway_log}"
    )
