"""The calls of a node to its gateway, and the resuming of files.

A file goes on at the offset reached after any cut, also a planned one of the node's
profile, and never beyond its declared length. Not here: what the bytes mean
(edge/releases/sync.py), when to call (edge/daemon/node.py), caps and retries
(edge/link/connection.py).

`pulled_bytes` counts payload; TLS and HTTP/2 framing add about one percent. A
file arrives in messages (64 KiB): a cut loses at most the one under way.
"""

from collections.abc import Generator, Iterator

import grpc

from common.errors import LinkError, TrustError
from common.pb import takt_pb2, takt_pb2_grpc
from edge.link.channel import EndedEarlyError, translate
from edge.link.connection import Wire
from edge.link.stall import StallGuard


class Link(Wire):
    """Calls to one gateway; safe for several threads."""

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
            IdentityError: the certificate or the allow-list says no.
            Interrupted: `stop` was set.
        """
        patience = self.patience()
        while True:
            try:
                for chunk in self._stream(path, offset, max_bytes):
                    offset += len(chunk)
                    patience.progressed(len(chunk))
                    if patience.remaining_s < 0:
                        raise LinkError(
                            f"{path} came too slowly from {self.address}: {offset} "
                            f"bytes in {patience.elapsed_s:.0f} s; gave up"
                        )
                    yield chunk
                return
            except grpc.RpcError as e:
                self.wait(patience, e, f"fetching {path} at byte {offset}")

    def _stream(self, path: str, offset: int, max_bytes: int) -> Iterator[bytes]:
        """Make one attempt; see `fetch`. Raises grpc.RpcError when it breaks off."""
        request = takt_pb2.FetchRequest(path=path, offset=offset)
        call = self.start(lambda: self._releases().Fetch(request))
        with StallGuard(call, self.stall_s, self.is_unwanted) as guard:
            total = offset
            try:
                for response in guard.responses():
                    self.check_outage()
                    total = response.total_bytes
                    self._check_response(response, path, offset, max_bytes)
                    offset += len(response.data)
                    self.pulled_bytes += len(response.data)
                    if self.bucket:
                        self.bucket.pay(len(response.data))
                    self.check_stop()
                    yield response.data
            except grpc.RpcError:
                if guard.stalled:  # the connection may be a black hole
                    self.reopen()
                self.check_outage()
                raise
            if offset < total:
                raise EndedEarlyError(f"stream ended at byte {offset} of {total}")

    def _check_response(
        self, response: takt_pb2.FetchResponse, path: str, offset: int, max_bytes: int
    ) -> None:
        if response.offset != offset:
            raise LinkError(
                f"gateway {self.address} sent byte {response.offset} of {path}, "
                f"expected {offset}; update takt on both sides"
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
            IdentityError: the certificate or the allow-list says no.
            Interrupted: `stop` was set.
        """
        request = takt_pb2.WatchRequest(channel=channel, known_version=known_version)
        try:
            call = self.start(lambda: self._releases().Watch(request))
            with StallGuard(call, None, self.is_unwanted) as guard:
                for response in guard.responses():
                    yield int(response.version)
        except grpc.RpcError as e:
            self.check_stop()
            raise translate(e, f"watching channel {channel}", self.address) from e

    def heartbeat(self, request: takt_pb2.HeartbeatRequest) -> None:
        """Send one heartbeat; a single try, within the stall time.

        Raises:
            LinkError: it did not arrive.
            IdentityError: the certificate or the allow-list says no.
            Interrupted: `stop` was set.
        """
        try:
            self.call(lambda: self._fleet().Heartbeat, request)
        except grpc.RpcError as e:
            raise translate(e, "sending a heartbeat", self.address) from e

    def report(self, request: takt_pb2.ReportRequest) -> None:
        """Deliver a report, with retries.

        Raises:
            LinkError: no success within the deadline, or the gateway refused it.
            IdentityError: the certificate or the allow-list says no.
            Interrupted: `stop` was set.
        """
        self.retrying(lambda: self._fleet().Report, request, "sending the report")

    def enroll(self, node: str, token: str, csr_pem: bytes) -> takt_pb2.EnrollResponse:
        """Trade a one-time token and a signing request for a certificate.

        Raises:
            LinkError: the enrolment port cannot be reached.
            IdentityError: the token or the name was refused.
            Interrupted: `stop` was set.
        """
        request = takt_pb2.EnrollRequest(node=node, token=token, csr_pem=csr_pem)
        response: takt_pb2.EnrollResponse = self.retrying(
            lambda: self._fleet().Enroll, request, f"enrolling node '{node}'"
        )
        return response

    def _releases(self) -> takt_pb2_grpc.ReleaseServiceStub:
        return takt_pb2_grpc.ReleaseServiceStub(self.channel)

    def _fleet(self) -> takt_pb2_grpc.FleetServiceStub:
        return takt_pb2_grpc.FleetServiceStub(self.channel)
