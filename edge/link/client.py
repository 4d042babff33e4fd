"""The calls of a node to its gateway, and the resuming of files.

After any cut, also a planned one of the node's profile, a file is resumed at the offset
that was reached; it is never read beyond its declared length. Not here: what the bytes
mean (edge/releases/sync.py), when to call (edge/daemon/node.py), limits and retries
(edge/link/connection.py).

`pulled_bytes` counts payload; TLS and HTTP/2 framing add about one percent. A file
arrives in messages of half a second of the node's bandwidth, 64 KiB to 1 MiB: a cut
loses at most the one under way. The try after a failure asks for the least, and so does
each after a stall: the line is slower than the profile says.
"""

from collections.abc import Generator, Iterator

import grpc

from common.errors import LinkError, TrustError
from common.pb import takt_pb2, takt_pb2_grpc
from edge.link.connection import Connection
from edge.link.failures import EndedEarlyError, translate
from edge.link.stall import StallGuard


class Link:
    """Calls to one gateway over a connection; safe for several threads.

    Attributes:
        connection: which the calls go through; `close` closes it.
        pulled_bytes: payload of the files so far.
    """

    def __init__(self, connection: Connection) -> None:
        """Send nothing before the first call."""
        self.connection = connection
        self.pulled_bytes = 0
        self._message_bytes = connection.message_bytes  # 0: the least

    def close(self) -> None:
        """Close the connection; calls under way end with an error."""
        self.connection.close()

    def fetch(self, path: str, *, offset: int = 0, max_bytes: int) -> Iterator[bytes]:
        """Yield a repository file from `offset` on, resuming where it broke off.

        Args:
            path: relative to the repository.
            offset: first byte wanted.
            max_bytes: the file may not be longer than this.

        Raises:
            MissingFileError: the gateway has no such file.
            TrustError: the file is longer than `max_bytes`; reading was cut there.
            LinkError: no success within the deadline, or a trickle beyond it.
            IdentityError: the gateway refuses this node, or is not the project's.
            Interrupted: `stop` was set.
        """
        connection = self.connection
        retry = connection.new_retry()
        while True:
            try:
                size = 0 if retry.failures else self._message_bytes
                for chunk in self._stream(path, offset, max_bytes, size):
                    offset += len(chunk)
                    retry.progressed(len(chunk))
                    if retry.remaining_s < 0:
                        raise LinkError(
                            f"{path} came too slowly from {connection.address}: "
                            f"{offset} bytes in {retry.elapsed_s:.0f} s; gave up"
                        )
                    yield chunk
                return
            except grpc.RpcError as e:
                what = f"fetching {path} at byte {offset}"
                connection.wait_or_raise(retry, e, what)

    def _stream(
        self, path: str, offset: int, max_bytes: int, message_bytes: int
    ) -> Iterator[bytes]:
        """Make one attempt; see `fetch`. Raises grpc.RpcError when it breaks off."""
        request = takt_pb2.FetchRequest(
            path=path, offset=offset, message_bytes=message_bytes
        )
        connection = self.connection
        call = connection.start(lambda: self._releases().Fetch(request))
        with StallGuard(call, connection.stall_s, connection.should_cancel) as guard:
            total = offset
            try:
                for response in guard.responses():
                    connection.check_outage()
                    total = response.total_bytes
                    self._check_response(response, path, offset, max_bytes)
                    offset += len(response.data)
                    self.pulled_bytes += len(response.data)
                    connection.pay(len(response.data))
                    connection.check_stop()
                    yield response.data
            except grpc.RpcError:
                if guard.stalled:  # the connection may be a black hole
                    self._message_bytes = 0
                    connection.reopen()
                connection.check_outage()
                raise
            if offset < total:
                raise EndedEarlyError(f"stream ended at byte {offset} of {total}")

    def _check_response(
        self, response: takt_pb2.FetchResponse, path: str, offset: int, max_bytes: int
    ) -> None:
        if response.offset != offset:
            raise LinkError(
                f"gateway {self.connection.address} sent byte {response.offset} of "
                f"{path}, expected {offset}; update takt on both sides"
            )
        found = max(response.total_bytes, offset + len(response.data))
        if found > max_bytes:
            raise TrustError(
                f"{path} is longer than declared: {found} bytes or more, expected at "
                f"most {max_bytes}; refused"
            )

    def watch(self, channel: str, known_version: int) -> Generator[int, None, None]:
        """Yield the versions that the gateway announces; one stream, no retry.

        Raises:
            LinkError: the stream broke off, or the gateway cannot be reached.
            IdentityError: the gateway refuses this node, or is not the project's.
            Interrupted: `stop` was set.
        """
        request = takt_pb2.WatchRequest(channel=channel, known_version=known_version)
        try:
            call = self.connection.start(lambda: self._releases().Watch(request))
            with StallGuard(call, None, self.connection.should_cancel) as guard:
                for response in guard.responses():
                    yield int(response.version)
        except grpc.RpcError as e:
            self.connection.check_stop()
            what = f"watching channel {channel}"
            raise translate(
                e, what, self.connection.address, self.connection.proxy
            ) from e

    def heartbeat(self, request: takt_pb2.HeartbeatRequest) -> None:
        """Send one heartbeat; a single try, within the stall time.

        Raises:
            LinkError: it did not arrive.
            IdentityError: the gateway refuses this node, or is not the project's.
            Interrupted: `stop` was set.
        """
        try:
            self.connection.call(lambda: self._fleet().Heartbeat, request)
        except grpc.RpcError as e:
            address = self.connection.address
            raise translate(
                e, "sending a heartbeat", address, self.connection.proxy
            ) from e

    def report(self, request: takt_pb2.ReportRequest) -> None:
        """Deliver a report, with retries.

        Raises:
            LinkError: no success within the deadline, or the gateway refused it.
            IdentityError: the gateway refuses this node, or is not the project's.
            Interrupted: `stop` was set.
        """
        what = "sending the report"
        self.connection.retrying(lambda: self._fleet().Report, request, what)

    def enroll(self, node: str, token: str, csr_pem: bytes) -> takt_pb2.EnrollResponse:
        """Trade a one-time token and a signing request for a certificate.

        Raises:
            LinkError: the enrolment port cannot be reached.
            IdentityError: the token or the name was refused.
            Interrupted: `stop` was set.
        """
        request = takt_pb2.EnrollRequest(node=node, token=token, csr_pem=csr_pem)
        response: takt_pb2.EnrollResponse = self.connection.retrying(
            lambda: self._fleet().Enroll, request, f"enrolling node '{node}'"
        )
        return response

    def renew(self, csr_pem: bytes) -> takt_pb2.RenewResponse:
        """Ask for another certificate; a single try, within the stall time.

        Raises:
            LinkError: there was no answer, or the gateway refused the request.
            IdentityError: the gateway refuses this node, or is not the project's.
            Interrupted: `stop` was set.
        """
        request = takt_pb2.RenewRequest(csr_pem=csr_pem)
        try:
            response: takt_pb2.RenewResponse = self.connection.call(
                lambda: self._fleet().Renew, request
            )
        except grpc.RpcError as e:
            address = self.connection.address
            what = "renewing the certificate"
            raise translate(e, what, address, self.connection.proxy) from e
        return response

    def _releases(self) -> takt_pb2_grpc.ReleaseServiceStub:
        return takt_pb2_grpc.ReleaseServiceStub(self.connection.grpc_channel)

    def _fleet(self) -> takt_pb2_grpc.FleetServiceStub:
        return takt_pb2_grpc.FleetServiceStub(self.connection.grpc_channel)
