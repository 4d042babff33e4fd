"""The gateway's health as grpc.health.v1, the standard that probes of clusters speak.

Both ports answer `Check`, for the gateway as a whole ("") and for each service by its
full name: SERVING, and NOT_SERVING from the moment the gateway drains. What an operator
must mend has names of its own (`cloud.gateway.condition`). `Watch` is left out: anybody
could hold the places of enrolling nodes by streams that stay open. A `Check` is small
and soon over, and an address has few of them open. Not here: asking it
(`cloud.gateway.probe`), who may ask (`authorization` and `refusals`), and the check by
which Ray Serve replaces a gateway (`RunningGateway.check`).
"""

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2

CHECK = f"/{health.SERVICE_NAME}/Check"
MAX_CHECK_BYTES = 1024  # the name of a service
CHECK_MESSAGE_S = 2.0  # from the call on; it comes with it


class Health:
    """The status of a gateway and of its services."""

    def __init__(self) -> None:
        """Serve from the start: nobody can ask before the ports are open."""
        self._servicer = health.aio.HealthServicer()

    async def serving(self, services: Iterable[str]) -> None:
        """Answer SERVING for each of these services.

        Args:
            services: full names, for instance "takt.v1.ReleaseService".
        """
        for service in services:
            await self._servicer.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def set_serving(self, service: str, serving: bool) -> None:
        """Answer SERVING or NOT_SERVING for one service from now on."""
        status = health_pb2.HealthCheckResponse
        await self._servicer.set(
            service, status.SERVING if serving else status.NOT_SERVING
        )

    async def drain(self) -> None:
        """Answer NOT_SERVING from now on."""
        await self._servicer.enter_graceful_shutdown()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service with `Check` alone, to be added to a server."""
        method = grpc.unary_unary_rpc_method_handler(
            self._servicer.Check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(
            health.SERVICE_NAME, {"Check": method}
        )
