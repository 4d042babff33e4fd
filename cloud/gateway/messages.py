"""From a peer's bytes to a request: bounded before it is parsed, decoded, refused.

Protobuf makes an object of every entry of a list, some hundred bytes for two on the
wire: so a message is bounded first. All but `Query` are small; of a query, which
carries images, the fields are counted in the bytes. Not here: what the values may be
(`cloud.fleet.bounds`, `cloud.gateway.teacher_service`), and who may send
(`cloud.gateway.authorization`).
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from cloud.errors import BadRequestError, NoMessageError
from common.errors import one_line
from common.pb import takt_pb2 as pb

QUERY = "/takt.v1.TeacherService/Query"
MAX_UNARY_BYTES = 256 * 1024
MAX_QUERY_BYTES = 16 * 1024 * 1024  # a batch of images
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


async def only_message(
    method: str, raw: AsyncIterable[bytes], parse: Parse, *, within_s: float
) -> Any:
    """Wait for the message of a call that has one; decode it.

    Args:
        method: the full name of the call.
        raw: the messages of the call, encoded.
        parse: decodes one.
        within_s: for its arrival, the call being open.

    Raises:
        BadRequestError: it is too large, or malformed, or the call has none.
        NoMessageError: it did not come in time.
    """
    try:
        async with asyncio.timeout(within_s):
            async for message in raw:
                return decode(method, message, parse)
    except TimeoutError as e:
        raise NoMessageError(f"no message within {within_s:g} s, expected one") from e
    raise BadRequestError("the call ended without a message, expected one")


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
    most = MAX_QUERY_BYTES if method == QUERY else MAX_UNARY_BYTES
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
