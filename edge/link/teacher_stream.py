"""Questions to the gateway's live teacher: logits, and gradients through it.

Method adaad asks about float32 images, which it attacks; a node with `share_images`
about its own, uint8 and only once each (edge.distill.teacher). One stream over a
node's connection, opened again after a cut, with the question that was under way.
Pixels are sent once: a gradient at the images whose logits were just asked for sends
only its cotangent. The profile's bandwidth holds for both directions, its delay for
each question. Not here: torch (edge.distill.teacher), what the messages
promise (takt.proto).
"""

import math
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, LinkError
from common.pb import takt_pb2, takt_pb2_grpc
from edge.link.connection import Connection
from edge.link.failures import EndedEarlyError, RefusedError
from edge.link.stall import StallGuard

Batch = NDArray[np.float32]
Pixels = NDArray[np.uint8]
# Of pixels in a message: it passes within the stall time.
_PART_BYTES, _PART_IMAGES = 512 * 1024, 256
# In the refusal of a gateway from before there was `QueryRequest.pixels`.
_UNREAD = "batch has 0 bytes"


class ReleasedTeacher(NamedTuple):
    """The teacher of a release, whose answers a node may keep."""

    sha256: str  # of its file, `Manifest.teacher.weights_sha256`
    num_classes: int


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
        self._teacher_sha256 = ""  # of the last answer

    def logits(self, x: Batch) -> Batch:
        """Ask for logits (N, K) of x (N, C, H, W).

        Raises:
            ConfigError: the gateway serves no live teacher, or not for such images.
            LinkError: no answer within the deadline, or one that is no answer.
            IdentityError: the gateway refuses this node, or is not the project's.
            Interrupted: the connection's `stop` was set.
        """
        return np.concatenate([self._ask(_question(part)) for part in _parts(x)])

    def logits_of_own(self, pixels: Pixels, teacher: ReleasedTeacher) -> Batch:
        """Ask for logits (N, K) of a node's own images, uint8 (N, C, H, W).

        Args:
            pixels: the images, which leave the device.
            teacher: that has to answer.

        Raises:
            ConfigError: the gateway serves no live teacher, another one, or not for
                such images, or is too old to take them.
            LinkError: no answer within the deadline, or one of another number of
                classes.
            IdentityError, Interrupted: as `logits` does.
        """
        found = []
        for part in _parts(pixels):
            logits = self._ask(_question(part))
            self._check_teacher(teacher.sha256)
            if logits.shape[1] != teacher.num_classes:
                raise LinkError(
                    f"gateway {self._connection.address} sent the teacher's logits of "
                    f"{logits.shape[1]} classes, the release has "
                    f"{teacher.num_classes}; update takt on both sides"
                )
            found.append(logits)
        return np.concatenate(found)

    def pull_back(self, x: Batch, cotangent: Batch) -> Batch:
        """Ask for dL/dx (N, C, H, W), given dL/dlogits (N, K) at x.

        Raises:
            As `logits` does.
        """
        parts = _parts(x)
        cuts = np.cumsum([len(part) for part in parts])[:-1]
        cotangents = np.split(cotangent, cuts)
        pairs = zip(parts, cotangents, strict=True)
        return np.concatenate([self._ask(_question(part, own)) for part, own in pairs])

    def close(self) -> None:
        """End the stream; the connection stays open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _ask(self, question: "_Question") -> Batch:
        """Ask about one part until there is an answer."""
        retry = self._connection.new_retry()
        while True:
            try:
                if self._stream is None:
                    self._stream = _Stream(self._connection)
                else:
                    self._connection.delay()
                request, response = self._stream.ask(question)
                break
            except grpc.RpcError as e:
                self._recover(e, question)
                try:
                    self._connection.wait_or_raise(retry, e, "asking the live teacher")
                except RefusedError as refused:
                    raise ConfigError(self._explain(refused, question)) from e
            except BaseException:
                self.close()
                raise
        self.num_bytes += (moved := request.ByteSize() + response.ByteSize())
        self._connection.pay(moved)
        self._connection.check_stop()
        self._teacher_sha256 = response.teacher_sha256
        return self._read(response, question)

    def _recover(self, error: grpc.RpcError, question: "_Question") -> None:
        """Drop a broken stream; raise if no further try can succeed."""
        stalled = self._stream is not None and self._stream.stalled
        self.close()
        if stalled:  # the connection may be a black hole
            self._connection.reopen()
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            gateway = f"the live teacher, which gateway {self._connection.address}"
            if question.is_own:
                raise ConfigError(
                    f"share_images needs {gateway} does not serve; set live_teacher = "
                    "true in its [gateway], or share_images = false in edge.toml"
                ) from error
            raise ConfigError(
                f"method adaad needs {gateway} does not serve; start it with the "
                "config of this release, or give the student a method that goes without"
            ) from error

    def _explain(self, refused: RefusedError, question: "_Question") -> str:
        """Say why the gateway will never answer a question."""
        if question.is_own and _UNREAD in str(refused):
            return self._too_old()
        return f"{refused}; is it of this release?"

    def _too_old(self) -> str:
        return (
            f"gateway {self._connection.address} is too old for share_images: it does "
            "not read uint8 images; update takt there, or set share_images = false in "
            "edge.toml"
        )

    def _check_teacher(self, expected: str) -> None:
        """Refuse an answer of another teacher than the release's."""
        found = self._teacher_sha256
        if not found:
            raise ConfigError(self._too_old())
        if found != expected:
            raise ConfigError(
                f"the live teacher of gateway {self._connection.address} is "
                f"{found[:12]}, the release's is {expected[:12]}; publish a release of "
                "it, or set share_images = false in edge.toml"
            )

    def _read(self, response: takt_pb2.QueryResponse, question: "_Question") -> Batch:
        """Check an answer and view it as an array."""
        is_gradient, asked = question.cotangent is not None, question.shape
        data = response.gradient if is_gradient else response.logits
        shape = tuple(response.shape)
        if is_gradient:
            fits = shape == asked
        else:
            fits = len(shape) == 2 and shape[0] == asked[0]
        what = "gradient" if is_gradient else "logits"
        if not fits or len(data) != 4 * math.prod(shape):
            raise LinkError(
                f"gateway {self._connection.address} sent {len(data)} bytes of {what} "
                f"of shape {shape} for images of shape {asked}; update takt on both "
                "sides"
            )
        found = np.frombuffer(data, "<f4").reshape(shape)
        if not np.isfinite(found).all():
            raise LinkError(
                f"gateway {self._connection.address} sent the teacher's {what} with "
                "values that are not finite; have its teacher looked at"
            )
        return found


@dataclass(frozen=True)
class _Question:
    """One request's worth of images, and of dL/dlogits where a gradient is asked."""

    pixels: bytes  # uint8 if is_own, else float32
    shape: tuple[int, ...]
    is_own: bool
    cotangent: bytes | None


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
        self, question: _Question
    ) -> tuple[takt_pb2.QueryRequest, takt_pb2.QueryResponse]:
        """Send one question; return it with its answer.

        Raises:
            grpc.RpcError: the call broke off.
        """
        request = takt_pb2.QueryRequest()
        if question.cotangent is not None:
            request.cotangent = question.cotangent
        if question.cotangent is None or question.pixels != self._last:
            if question.is_own:
                request.pixels = question.pixels
            else:
                request.x = question.pixels
            request.shape.extend(question.shape)
            self._last = question.pixels
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


def _question(x: Batch | Pixels, cotangent: Batch | None = None) -> _Question:
    is_own = x.dtype == np.uint8
    pixels = x if is_own else np.ascontiguousarray(x, dtype="<f4")
    given = None
    if cotangent is not None:
        given = np.ascontiguousarray(cotangent, dtype="<f4").tobytes()
    return _Question(pixels.tobytes(), x.shape, is_own, given)


_AnyPixels = TypeVar("_AnyPixels", Batch, Pixels)


def _parts(x: _AnyPixels) -> list[_AnyPixels]:
    """Cut a batch into messages."""
    fitting = _PART_BYTES // (x.itemsize * math.prod(x.shape[1:]))
    each = max(1, min(fitting, _PART_IMAGES))
    return [x[first : first + each] for first in range(0, len(x), each)]
