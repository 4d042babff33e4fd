"""From a peer's bytes to a request: bounded before it is parsed, decoded, refused.

Protobuf makes an object of every entry of a list, some hundred bytes for two on the
wire: so a message is bounded first. All but `Query` are small; of a query, which
carries images, the fields are counted in the bytes. Not here: what the values may be
(`cloud.fleet.bounds`, `cloud.gateway.teacher_service`), and who may send
(`cloud.gateway.authorization`).
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from cloud.errors import BadRequestError, NoMessageError
from cloud.gateway.health import CHECK, MAX_CHECK_BYTES
from common.errors import one_line
from common.pb import takt_pb2 as pb

QUERY = "/takt.v1.TeacherService/Query"
MAX_UNARY_BYTES = 256 * 1024
MAX_QUERY_BYTES = 16 * 1024 * 1024  # a batch of images
_MAX_BYTES = {QUERY: MAX_QUERY_BYTES, CHECK: MAX_CHECK_BYTES}
MAX_QUERY_FIELDS = 16  # each of the four numbers of a shape may be one
MAX_SHAPE_BYTES = 64
FIRST_MESSAGE_S = 30.0  # the largest, at 9 KiB/s

_BLOBS = frozenset(
    field.number
    for field in pb.QueryRequest.DESCRIPTOR.fields
    if field.type == FieldDescriptor.TYPE_BYTES
)
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
Parse = Callable[[bytes], Any]
Read = Callable[[], Awaitable[Any]]


class _Wait:
    """A call whose message has not come yet."""

    __slots__ = ("begun_s", "is_over", "task")

    def __init__(self, task: "asyncio.Task[Any]", begun_s: float) -> None:
        self.task = task
        self.begun_s = begun_s  # of the loop's clock
        self.is_over = False


class FirstMessages:
    """The messages of calls that have one: each is waited for so long and no longer.

    One timer for all calls of a server; `asyncio.timeout` takes one a call, which costs
    a twentieth of a small call.
    """

    def __init__(self, within_s: float) -> None:
        """Wait `within_s` for the arrival of each, the call being open."""
        self._within_s = within_s
        self._waits: dict[_Wait, None] = {}  # the oldest first
        self._timer: asyncio.TimerHandle | None = None

    async def next(self, method: str, read: Read, parse: Parse) -> Any:
        """Wait for the message of a call; decode it.

        Args:
            method: the full name of the call.
            read: waits for the call's next message, encoded, or its end.
            parse: decodes one.

        Raises:
            BadRequestError: it is too large, or malformed, or the call has none.
            NoMessageError: it did not come in time.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        wait = _Wait(task, loop.time())
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_later(self._within_s, self._end_old)
        try:
            message = await read()
        except asyncio.CancelledError as e:
            if not wait.is_over or task.uncancel() > 0:
                raise
            raise NoMessageError(
                f"no message within {self._within_s:g} s, expected one"
            ) from e
        finally:
            del self._waits[wait]
        if message is grpc.aio.EOF:
            raise BadRequestError("the call ended without a message, expected one")
        return decode(method, message, parse)

    def _end_old(self) -> None:
        """End the waits that are too long; look again when the next one would be."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for wait in self._waits:
            left_s = wait.begun_s + self._within_s - loop.time()
            if left_s > 0:
                self._timer = loop.call_later(left_s, self._end_old)
                return
            if not wait.is_over:
                wait.is_over = True
                wait.task.cancel()


async def all_messages(
    method: str, raw: AsyncIterable[bytes], parse: Parse
) -> AsyncIterator[Any]:
    """Decode the messages of a call; see `decode` for what it raises."""
    async for message in raw:
        yield decode(method, message, parse)


def decode(method: str, message: bytes, parse: Parse) -> Any:
    """Decode one message of a call.

    Raises:
        BadRequestError: it is too large, or malformed.
    """
    most = _MAX_BYTES.get(method, MAX_UNARY_BYTES)
    if len(message) > most:
        raise BadRequestError(
            f"message has {len(message)} bytes, expected at most {most}"
        )
    if method == QUERY:
        _bound_fields(message)
    try:
        return parse(message)
    except DecodeError as e:
        raise BadRequestError(
            f"message of {len(message)} bytes is not of this call: {one_line(e, 120)}"
        ) from e


def _bound_fields(message: bytes) -> None:
    """Bound a query's fields without making objects of them.

    Raises:
        BadRequestError: there are too many, one that holds no images is too long, or
            they are malformed.
    """
    at = 0
    for _ in range(MAX_QUERY_FIELDS):
        if at == len(message):
            return
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _LENGTH:
            length, at = _varint(message, at)
            if length > MAX_SHAPE_BYTES and tag >> 3 not in _BLOBS:
                raise BadRequestError(
                    f"field {tag >> 3} of the message has {length} bytes, expected at "
                    f"most {MAX_SHAPE_BYTES}"
                )
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise BadRequestError(f"message has a field of wire type {kind}")
        if at > len(message):
            raise BadRequestError("message ends inside a field")
    if at != len(message):
        raise BadRequestError(
            f"message has more than {MAX_QUERY_FIELDS} fields, expected at most these"
        )


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Read a number of protobuf's; return it and where it ends."""
    value = 0
    for shift, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise BadRequestError("message has a number without an end")
