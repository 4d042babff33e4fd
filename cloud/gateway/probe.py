"""`takt cloud check`: does the gateway of a storage folder serve, and go on to?

Asks grpc.health.v1 at the enrolment port, which wants no client certificate, and
checks the gateway's certificate against the project's authority, as a node does. Then
what an operator must mend: the gateway's word of it, and the ends of the signatures,
read from the folder. Not here: the answers (`cloud.gateway.health` and `condition`).
"""

import socket
import ssl

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud.gateway.addresses import Addresses
from cloud.gateway.condition import PARTS, SIGNATURES
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.address import join
from common.errors import LinkError, StorageError

_ANSWER_S = 5.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NAME = "localhost"  # every gateway's certificate covers it


def check_gateway(storage: StorageDir) -> str:
    """Return the address of the gateway, which answers on both ports and serves.

    Raises:
        LinkError: no gateway was started there, it does not answer, or it is draining.
        StorageError: the project's authority cannot be read; or the gateway serves, and
            something must be mended before nodes notice.
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
        statuses = _ask_health(join(host, addresses.enroll_port), ca_pem)
    except grpc.RpcError as e:
        reason = f"{e.code().name}, {e.details()}"
        raise _no_answer(storage, host, addresses.enroll_port, reason) from e
    status = statuses.pop("")
    if status != _SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
        raise LinkError(
            f"the gateway at {addresses.address} answers {name}, expected SERVING; it "
            f"is stopping, see {storage.gateway_log}"
        )
    try:
        _shake_hands(host, addresses.port, ca_pem)
    except OSError as e:  # ssl's errors among them
        raise _no_answer(storage, host, addresses.port, str(e.strerror or e)) from e
    _check_condition(storage, addresses, statuses)
    return addresses.address


def _check_condition(
    storage: StorageDir, addresses: Addresses, statuses: dict[str, int]
) -> None:
    ends = ReleaseRepository(storage.repository, storage.keys).near_end()
    wrong = [part for part, status in statuses.items() if status != _SERVING]
    if ends and SIGNATURES in wrong:
        wrong.remove(SIGNATURES)
    if wrong:
        ends.append(
            f"it says that {', '.join(wrong)} must be mended, the reason is in "
            f"{storage.gateway_log}"
        )
    if ends:
        problems = "; ".join(ends)
        raise StorageError(
            f"the gateway at {addresses.address} answers, but {problems}"
        )


def _shake_hands(host: str, port: int, ca_pem: bytes) -> None:
    """Open a TLS connection; the node port answers calls only to enrolled nodes."""
    context = ssl.create_default_context(cadata=ca_pem.decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), _ANSWER_S) as plain,
        context.wrap_socket(plain, server_hostname=_NAME),
    ):
        pass


def _ask_health(address: str, ca_pem: bytes) -> dict[str, int]:
    """Return the status of the gateway as a whole (""), and of what may need mending.

    Raises:
        grpc.RpcError: there is no answer in time.
    """
    options = (("grpc.ssl_target_name_override", _NAME), ("grpc.enable_http_proxy", 0))
    credentials = grpc.ssl_channel_credentials(ca_pem)
    with grpc.secure_channel(address, credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return {
            part: int(
                stub.Check(
                    health_pb2.HealthCheckRequest(service=part), timeout=_ANSWER_S
                ).status
            )
            for part in ("", *PARTS)
        }


def _no_answer(storage: StorageDir, host: str, port: int, reason: str) -> LinkError:
    return LinkError(
        f"the gateway at {join(host, port)} does not answer: "
        f"{' '.join(reason.split())[:200]}; see {storage.gateway_log}"
    )
