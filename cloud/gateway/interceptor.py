"""The interceptor around every call of a server, and errors as gRPC status codes.

The only place where a domain error becomes a code. What is not a `TaktError` is a bug:
it leaves as INTERNAL without any detail. Not here: who may call
(`cloud.gateway.authorization`), what the log has of it (`refusal_log`); from codes back
to domain errors, which is the node's part (`edge.link.failures`).
"""

import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import grpc
import grpc.aio

from cloud.errors import (
    BadRequestError,
    MissingFileError,
    NoMessageError,
    NotServedError,
    OffsetError,
    QuotaError,
)
from cloud.gateway.health import CHECK, CHECK_MESSAGE_S
from cloud.gateway.messages import FIRST_MESSAGE_S, FirstMessages, all_messages
from cloud.gateway.peers import Context, node_of
from cloud.gateway.refusal_log import RefusalLog
from cloud.gateway.traffic import Traffic
from common.errors import ConfigError, IdentityError, StorageError, TaktError

Admission = Callable[[str, Context], AbstractContextManager[None]]
# The stubs are generic, the classes at run time are not: hence a string.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_CODES: tuple[tuple[type[TaktError], grpc.StatusCode], ...] = (
    (BadRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (MissingFileError, grpc.StatusCode.NOT_FOUND),
    (OffsetError, grpc.StatusCode.OUT_OF_RANGE),
    (QuotaError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NotServedError, grpc.StatusCode.UNIMPLEMENTED),
    (NoMessageError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (IdentityError, grpc.StatusCode.PERMISSION_DENIED),
)


class Interceptor(grpc.aio.ServerInterceptor):
    """Run every call of a server inside a context manager; errors become statuses.

    It is entered before a message is read: a call of a peer that may not call ends
    without one, and holds no place meanwhile.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        traffic: Traffic,
        first_message_s: float = FIRST_MESSAGE_S,
    ) -> None:
        """Run calls inside ``admission(method, context)`` of each.

        Args:
            admission: a context manager, by method and context; it raises to refuse.
            traffic: counts them.
            first_message_s: for the message of a call that has one; a health check
                has two seconds at most.
        """
        self._admission = admission
        self._traffic = traffic
        self._first_messages = FirstMessages(first_message_s)
        self._checks = FirstMessages(min(first_message_s, CHECK_MESSAGE_S))
        self._refusals = RefusalLog()
        self._wrapped: dict[str, Handler] = {}  # of the methods that there are

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: grpc answers UNIMPLEMENTED
            return handler
        method = handler_call_details.method
        if method not in self._wrapped:
            self._wrapped[method] = self._wrap(handler, method)
        return self._wrapped[method]

    def _wrap(self, handler: Any, method: str) -> Handler:
        """Make a handler that takes a stream, which is the same on the wire, of any.

        gRPC reads and parses the message of a unary call before any code of ours runs.
        """
        kind = "stream" if handler.request_streaming else "unary"
        kind += "_stream" if handler.response_streaming else "_unary"
        behaviour, parse = getattr(handler, kind), handler.request_deserializer
        waits = self._checks if method == CHECK else self._first_messages
        first_message, traffic = waits.next, self._traffic

        async def answer(raw: AsyncIterable[bytes], context: Context) -> Any:
            traffic.calls[method] += 1
            try:
                with self._admission(method, context):
                    if handler.request_streaming:
                        request: Any = all_messages(method, raw, parse)
                    else:
                        request = await first_message(method, context.read, parse)
                    if not handler.response_streaming:
                        return await behaviour(request, context)
                    await _write_all(behaviour(request, context), context)
            except grpc.aio.AbortError:
                raise
            except Exception as e:
                code, message = status_of(e)
                traffic.refused[code.name] += 1
                node, peer = node_of(context), context.peer()
                self._refusals.note(e, code, method=method, node=node, peer=peer)
                await context.abort(code, message)

        make: Any = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        return make(  # type: ignore[no-any-return]
            answer, None, handler.response_serializer
        )


async def _write_all(messages: Any, context: Context) -> None:
    """Write what an asynchronous generator yields; it is closed in any case.

    Written here, not yielded again: so a cancelled write is seen around the call.
    """
    async with contextlib.aclosing(messages):
        async for message in messages:
            await context.write(message)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return the status with which an error that a servicer raised ends a call.

    Returns:
        The code, and one line for the peer.
    """
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, str(error)
    if isinstance(error, StorageError):
        return (
            grpc.StatusCode.UNAVAILABLE,
            "the gateway's storage fails; its log says why",
        )
    return grpc.StatusCode.INTERNAL, "internal error"
