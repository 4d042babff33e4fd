"""TeacherService: queries of the live teacher, decoded and checked.

Not here: who may call (`cloud.gateway.authorization`), errors as status codes
(`cloud.gateway.interceptor`), and the teacher itself, which is passed in.
"""

import math
from collections.abc import AsyncIterator

import numpy as np

from cloud.errors import BadRequestError, NotServedError
from cloud.gateway.live_teacher import Batch, LiveTeacher, Shapes
from cloud.gateway.peers import Context
from common.errors import StorageError
from common.pb import takt_pb2 as pb
from common.pb import takt_pb2_grpc

MAX_BATCH = 1024  # images of one query


class TeacherServicer(takt_pb2_grpc.TeacherServiceServicer):
    """Answer queries with the teacher's logits, and with gradients through it."""

    def __init__(self, teacher: LiveTeacher | None) -> None:
        """Ask `teacher`; None: this gateway has none."""
        self._teacher = teacher

    async def Query(
        self, request_iterator: AsyncIterator[pb.QueryRequest], context: Context
    ) -> AsyncIterator[pb.QueryResponse]:
        """Answer each request in order; see the service's description."""
        teacher = self._teacher
        if teacher is None:
            raise NotServedError(
                "this gateway serves no live teacher: nothing in its config asks for "
                "one (gateway.live_teacher)"
            )
        shapes = await teacher.shapes()
        x: Batch | None = None
        async for request in request_iterator:
            if request.x or request.pixels or not request.cotangent:
                x = decode_batch(request, shapes.sample)
            if not request.cotangent:
                assert x is not None
                yield await _logits(teacher, shapes, x, is_own=bool(request.pixels))
                continue
            if x is None:
                raise BadRequestError(
                    "a cotangent without images, expected them with it or in a "
                    "request before it on this stream"
                )
            cotangent = decode_cotangent(request, (len(x), shapes.num_classes))
            found = await teacher.pull_back(x, cotangent)
            gradient = np.ascontiguousarray(found, dtype="<f4")
            yield pb.QueryResponse(gradient=gradient.tobytes(), shape=gradient.shape)


async def _logits(
    teacher: LiveTeacher, shapes: Shapes, x: Batch, *, is_own: bool
) -> pb.QueryResponse:
    """Answer a batch; one of a node's own images with the teacher's digest.

    Raises:
        StorageError: the teacher was replaced since the stream began, so that the
            answer may be of either; a new stream tells which.
    """
    logits = np.ascontiguousarray(await teacher.query(x), dtype="<f4")
    answer = pb.QueryResponse(logits=logits.tobytes(), shape=logits.shape)
    if is_own:  # the node keeps it for good
        if await teacher.shapes() != shapes:
            raise StorageError("the teacher was replaced during a stream of queries")
        answer.teacher_sha256 = shapes.weights_sha256
    return answer


def decode_batch(request: pb.QueryRequest, sample_shape: tuple[int, int, int]) -> Batch:
    """Read a batch (N, C, H, W) of pixels in [0, 1].

    Raises:
        BadRequestError: wrong shape, too many images, or not pixels.
    """
    shape = tuple(request.shape)
    if len(shape) != 4 or shape[1:] != sample_shape or not 1 <= shape[0] <= MAX_BATCH:
        raise BadRequestError(
            f"batch has shape {shape[:8]}, expected (1 to {MAX_BATCH}, "
            f"{', '.join(map(str, sample_shape))})"
        )
    if request.x and request.pixels:
        raise BadRequestError("batch has x and pixels, expected one of them")
    num_values = math.prod(shape)
    if request.pixels:
        _check_length("batch of uint8", request.pixels, num_values)
        pixels = np.frombuffer(request.pixels, dtype=np.uint8).reshape(shape)
        return np.divide(pixels, 255, dtype=np.float32)
    _check_length("batch", request.x, 4 * num_values)
    x = np.frombuffer(request.x, dtype="<f4").reshape(shape)
    if not ((x >= 0) & (x <= 1)).all():  # NaN is neither
        raise BadRequestError("batch has values outside [0, 1], expected pixels")
    return x.astype(np.float32)


def _check_length(what: str, data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise BadRequestError(f"{what} has {len(data)} bytes, expected {expected}")


def decode_cotangent(request: pb.QueryRequest, shape: tuple[int, int]) -> Batch:
    """Read dL/dlogits (N, K).

    Raises:
        BadRequestError: wrong length, or not finite.
    """
    expected = 4 * math.prod(shape)
    if len(request.cotangent) != expected:
        raise BadRequestError(
            f"cotangent has {len(request.cotangent)} bytes, expected {expected} for "
            f"shape {shape}"
        )
    cotangent = np.frombuffer(request.cotangent, dtype="<f4").reshape(shape)
    if not np.isfinite(cotangent).all():
        raise BadRequestError("cotangent has values that are not finite")
    return cotangent.astype(np.float32)
