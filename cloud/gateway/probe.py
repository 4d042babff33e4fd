"""`takt cloud check`: does the gateway of a storage folder serve, and go on to?

Asks grpc.health.v1 at both ports and checks the gateway's certificate against the
project's authority, as a node does; at the node port with a certificate that is good
for nothing else. Then what an operator must mend: the gateway's word of it, with its
reasons where its status page answers, and the ends of the signatures, read from the
folder. Not here: the answers (`cloud.gateway.health` and `condition`).
"""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud.gateway.addresses import Addresses
from cloud.gateway.condition import PARTS, SIGNATURES
from cloud.gateway.status_page import read_status
from cloud.pki.authority import Authority
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.address import join
from common.errors import LinkError, StorageError
from common.text import shortened

ANSWER_S = 5.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NAME = "localhost"  # every gateway's certificate covers it


def check_gateway(storage: StorageDir) -> str:
    """Return the address of the gateway, which answers on both ports and serves.

    Raises:
        LinkError: no gateway was started there, it does not answer, or it is draining.
        StorageError: there is no project, or its authority cannot be read; or the
            gateway serves, and something must be mended before nodes notice.
    """
    addresses = Addresses.load(storage)
    if addresses is None:
        storage.check_servable()
        raise LinkError(
            f"no gateway has served {storage.root} yet; start one with `takt cloud "
            "serve`"
        )
    try:
        credentials = Authority(storage.pki).probe_credentials()
    except StorageError as e:
        raise StorageError(f"{e}; check as the user who runs the gateway") from e
    anybody = grpc.ssl_channel_credentials(credentials.ca)
    member = grpc.ssl_channel_credentials(
        credentials.ca, credentials.key, credentials.certificate
    )
    statuses = _ask(storage, addresses, addresses.enroll_port, anybody, ("", *PARTS))
    _ask(storage, addresses, addresses.port, member, ("",))
    _check_condition(storage, addresses, statuses)
    return addresses.address


def _ask(
    storage: StorageDir,
    addresses: Addresses,
    port: int,
    credentials: grpc.ChannelCredentials,
    services: tuple[str, ...],
) -> dict[str, int]:
    """Ask one port; return the status of what may need mending.

    Raises:
        LinkError: it does not answer, or is draining.
    """
    address = join(addresses.reachable_host, port)
    try:
        statuses = _health_of(address, credentials, services)
    except grpc.RpcError as e:
        reason = " ".join(f"{e.code().name}, {e.details()}".split())[:200]
        raise LinkError(
            f"the gateway at {address} does not answer: {reason}; see "
            f"{storage.gateway_log}"
        ) from e
    status = statuses.pop("")
    if status != _SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
        raise LinkError(
            f"the gateway at {address} answers {name}, expected SERVING; it is "
            f"stopping, see {storage.gateway_log}"
        )
    return statuses


def _check_condition(
    storage: StorageDir, addresses: Addresses, statuses: dict[str, int]
) -> None:
    ends = ReleaseRepository(storage.repository, storage.keys).near_end()
    wrong = [part for part, status in statuses.items() if status != _SERVING]
    if ends and SIGNATURES in wrong:
        wrong.remove(SIGNATURES)
    if wrong:
        status = read_status(addresses.status_host, addresses.status_port) or {}
        reasons = status.get("problems", {})
        said = [f"{part} must be mended{_because(reasons, part)}" for part in wrong]
        ends.append(f"it says that {', '.join(said)}; see {storage.gateway_log}")
    if ends:
        problems = "; ".join(ends)
        raise StorageError(
            f"the gateway at {addresses.address} answers, but {problems}"
        )


def _because(reasons: object, part: str) -> str:
    found = reasons.get(part) if isinstance(reasons, dict) else None
    return f" ({shortened(found, 300)})" if isinstance(found, str) else ""


def _health_of(
    address: str, credentials: grpc.ChannelCredentials, services: tuple[str, ...]
) -> dict[str, int]:
    """Return the status of the gateway as a whole (""), or of parts, by a call each.

    Raises:
        grpc.RpcError: there is no answer in time.
    """
    options = (("grpc.ssl_target_name_override", _NAME), ("grpc.enable_http_proxy", 0))
    with grpc.secure_channel(address, credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return {
            service: int(
                stub.Check(
                    health_pb2.HealthCheckRequest(service=service), timeout=ANSWER_S
                ).status
            )
            for service in services
        }
