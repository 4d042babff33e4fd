"""FleetService: what nodes report, and the only method of the enrolment port.

Each method hands its request to the part that checks and keeps it. A report is written
before it is answered. A heartbeat is answered at once and written within a second: a
gateway that is killed loses what nodes said of their state in that second, which each
says again with its next heartbeat. Not here: who may
call (`cloud.gateway.authorization`), whose reports are refused
(`cloud.gateway.quarantine`), errors as status codes
(`cloud.gateway.interceptor`), the bounds of a report (`cloud.fleet.bounds`).
"""

import asyncio
import logging
from typing import NoReturn

import grpc

from cloud.errors import NotServedError
from cloud.fleet.database import Fleet
from cloud.gateway.authorization import caller
from cloud.gateway.peers import Context
from cloud.gateway.quarantine import Quarantine
from cloud.gateway.repeated import write_repeatedly
from cloud.pki.authority import Authority
from cloud.publishing.repository import ReleaseRepository
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc

logger = logging.getLogger(__name__)

FLUSH_S = 0.5  # heartbeats are in the database within a second


class FleetServicer(takt_pb2_grpc.FleetServiceServicer):
    """Keep the heartbeats and reports of nodes, and renew their certificates."""

    def __init__(
        self, fleet: Fleet, authority: Authority, quarantine: Quarantine
    ) -> None:
        """Keep in `fleet` what `quarantine` lets nodes report; `authority` signs."""
        self._fleet = fleet
        self._authority = authority
        self._quarantine = quarantine

    async def Enroll(
        self, request: pb.EnrollRequest, context: Context
    ) -> pb.EnrollResponse:
        """Refuse: enrolment has a port of its own."""
        raise NotServedError("enrol at the gateway's enrolment address, not here")

    async def Heartbeat(
        self, request: pb.HeartbeatRequest, context: Context
    ) -> pb.HeartbeatResponse:
        """Take a node's state; `run` writes it soon."""
        node = caller().node
        with self._quarantine.around(node, context):
            self._fleet.heartbeat(node, request)
        return pb.HeartbeatResponse()

    async def run(self) -> NoReturn:
        """Write the heartbeats that came, twice a second, for ever."""
        await write_repeatedly(
            self._fleet.flush, every_s=FLUSH_S, what="heartbeats", logger=logger
        )

    async def Report(
        self, request: pb.ReportRequest, context: Context
    ) -> pb.ReportResponse:
        """Keep a node's report."""
        node = caller().node
        with self._quarantine.around(node, context):
            await asyncio.to_thread(self._fleet.report, node, request)
        return pb.ReportResponse()

    async def Renew(
        self, request: pb.RenewRequest, context: Context
    ) -> pb.RenewResponse:
        """Sign for another key of the calling node."""
        certificate = await asyncio.to_thread(
            self._authority.renew, caller().certificate_pem, request.csr_pem
        )
        return pb.RenewResponse(
            certificate_pem=certificate,
            ca_pem=self._authority.ca_pem(),
            ca_signature=self._authority.ca_signature(),
        )


def enrolment_handler(
    authority: Authority, repository: ReleaseRepository, channel: str
) -> grpc.GenericRpcHandler:
    """Return FleetService with `Enroll` alone.

    Args:
        authority: checks the token and signs.
        repository: its root is what the node trusts from then on.
        channel: that nodes follow by default.
    """

    async def enroll(request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        certificate = await asyncio.to_thread(
            authority.enroll, request.node, request.token, request.csr_pem
        )
        return pb.EnrollResponse(
            certificate_pem=certificate,
            ca_pem=authority.ca_pem(),
            root_json=repository.root_json(),
            channel=channel,
        )

    method = grpc.unary_unary_rpc_method_handler(
        enroll,
        request_deserializer=pb.EnrollRequest.FromString,
        response_serializer=pb.EnrollResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(
        "takt.v1.FleetService", {"Enroll": method}
    )
