"""Questions to the gateway's live teacher: logits, and gradients through it.

One stream over a node's connection, opened again after a cut, with the question that
was under way. Pixels are sent once: a gradient at the images whose logits were just
asked for sends only its cotangent. The profile's bandwidth holds for both directions,
its delay for each question. Not here: torch (edge/distill/live_teacher.py), what the
messages promise (takt.proto).
"""

import math
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, LinkError
from common.pb import takt_pb2, takt_pb2_grpc
from edge.link.connection import Connection
from edge.link.failures import EndedEarlyError, RefusedError
from edge.link.stall import StallGuard

Batch = NDArray[np.float32]
# Of pixels in a message: it passes within the stall time.
_PART_BYTES, _PART_IMAGES = 512 * 1024, 256


class TeacherStream:
    """A live teacher at the other end of a connection; for one thread.

    Attributes:
        num_bytes: of the messages so far, both ways.
    """

    def __init__(self, connection: Connection) -> None:
        """Open nothing before the first question."""
        self.num_bytes = 0
        self._connection = connection
        self._stream: _Stream | None = None

    def logits(self, x: Batch) -> Batch:
        """Ask for logits (N, K) of x (N, C, H, W).

        Raises:
            ConfigError: the gateway serves no live teacher, or not for such images.
            LinkError: no answer within the deadline.
            IdentityError: the gateway refuses this node, or is not the project's.
            Interrupted: the connection's `stop` was set.
        """
        return np.concatenate([self._ask(part, None) for part in _parts(x)])

    def pull_back(self, x: Batch, cotangent: Batch) -> Batch:
        """Ask for dL/dx (N, C, H, W), given dL/dlogits (N, K) at x.

        Raises:
            As `logits` does.
        """
        parts = _parts(x)
        cuts = np.cumsum([len(part) for part in parts])[:-1]
        cotangents = np.split(cotangent, cuts)
        pairs = zip(parts, cotangents, strict=True)
        return np.concatenate([self._ask(part, own) for part, own in pairs])

    def close(self) -> None:
        """End the stream; the connection stays open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _ask(self, x: Batch, cotangent: Batch | None) -> Batch:
        """Ask about one part until there is an answer."""
        pixels = np.ascontiguousarray(x, dtype="<f4").tobytes()
        given = None
        if cotangent is not None:
            given = np.ascontiguousarray(cotangent, dtype="<f4").tobytes()
        retry = self._connection.new_retry()
        while True:
            try:
                if self._stream is None:
                    self._stream = _Stream(self._connection)
                else:
                    self._connection.delay()
                request, response = self._stream.ask(pixels, x.shape, given)
                break
            except grpc.RpcError as e:
                self._recover(e)
                try:
                    self._connection.wait_or_raise(retry, e, "asking the live teacher")
                except RefusedError as refused:
                    raise ConfigError(f"{refused}; is it of this release?") from e
            except BaseException:
                self.close()
                raise
        self.num_bytes += (moved := request.ByteSize() + response.ByteSize())
        self._connection.pay(moved)
        self._connection.check_stop()
        return self._read(response, x.shape, is_gradient=given is not None)

    def _recover(self, error: grpc.RpcError) -> None:
        """Drop a broken stream; raise if no further try can succeed."""
        stalled = self._stream is not None and self._stream.stalled
        self.close()
        if stalled:  # the connection may be a black hole
            self._connection.reopen()
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise ConfigError(
                "method adaad needs the live teacher, which gateway "
                f"{self._connection.address} does not serve; start it with the config "
                "of this release, or give the student a method that goes without"
            ) from error

    def _read(
        self,
        response: takt_pb2.QueryResponse,
        asked: tuple[int, ...],
        *,
        is_gradient: bool,
    ) -> Batch:
        """Check an answer and view it as an array."""
        data = response.gradient if is_gradient else response.logits
        shape = tuple(response.shape)
        fits = shape == asked if is_gradient else shape[:1] == asked[:1]
        if not fits or len(data) != 4 * math.prod(shape):
            what = "gradient" if is_gradient else "logits"
            raise LinkError(
                f"gateway {self._connection.address} sent {len(data)} bytes of {what} "
                f"of shape {shape} for images of shape {asked}; update takt on both "
                "sides"
            )
        return np.frombuffer(data, "<f4").reshape(shape)


class _Stream:
    """One `Query` call under way."""

    def __init__(self, connection: Connection) -> None:
        self._requests: SimpleQueue[takt_pb2.QueryRequest | None] = SimpleQueue()
        self._last = b""  # the pixels that the gateway has at hand
        feed = iter(self._requests.get, None)

        def query() -> Any:
            return takt_pb2_grpc.TeacherServiceStub(connection.grpc_channel).Query(feed)

        call = connection.start(query)
        self._connection = connection
        self._guard = StallGuard(call, connection.stall_s, connection.should_cancel)
        self._guard.__enter__()
        self._responses = self._guard.responses()

    @property
    def stalled(self) -> bool:
        """Whether it was cancelled for its silence."""
        return self._guard.stalled

    def ask(
        self, pixels: bytes, shape: tuple[int, ...], cotangent: bytes | None
    ) -> tuple[takt_pb2.QueryRequest, takt_pb2.QueryResponse]:
        """Send one question; return it with its answer.

        Raises:
            grpc.RpcError: the call broke off.
        """
        request = takt_pb2.QueryRequest()
        if cotangent is not None:
            request.cotangent = cotangent
        if cotangent is None or pixels != self._last:
            request.x = pixels
            request.shape.extend(shape)
            self._last = pixels
        self._requests.put(request)
        try:
            for response in self._responses:
                return request, response
        except grpc.RpcError:
            self._connection.check_outage()  # a planned one has its own error
            raise
        raise EndedEarlyError("the stream ended without an answer")

    def close(self) -> None:
        """End the call, and the thread that feeds it."""
        self._requests.put(None)
        self._guard.__exit__(None, None, None)


def _parts(x: Batch) -> list[Batch]:
    """Cut a batch into messages."""
    fitting = _PART_BYTES // (4 * math.prod(x.shape[1:]))
    each = max(1, min(fitting, _PART_IMAGES))
    return [x[first : first + each] for first in range(0, len(x), each)]
