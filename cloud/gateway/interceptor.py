"""The interceptor around every call of a server, and errors as gRPC status codes.

The only place where a domain error becomes a code. What is not a `TaktError` is a bug:
it is logged in full here and leaves as INTERNAL without any detail. Not here: who may
call (`cloud.gateway.authorization`); from codes back to domain errors, which is the
node's part (`edge.link.failures`).
"""

import contextlib
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
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
    ThrottledError,
)
from cloud.gateway.messages import FIRST_MESSAGE_S, all_messages, only_message
from common.errors import ConfigError, IdentityError, StorageError, TaktError

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Around = Callable[[str, Context], AbstractAsyncContextManager[None]]
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
    """Run every call of a server inside async context managers.

    They are entered before a message is read: a call of a peer that may not call ends
    without one, and holds no place meanwhile.
    """

    def __init__(
        self, *around: Around, first_message_s: float = FIRST_MESSAGE_S
    ) -> None:
        """Run calls inside ``around(method, context)`` of each, the outermost first.

        Args:
            around: context managers, by method and context.
            first_message_s: for the message of a call that has one.
        """
        self._around = around
        self._first_message_s = first_message_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: grpc answers UNIMPLEMENTED
            return handler
        return self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: Any, method: str) -> Handler:
        """Make a handler of streams, which is the same on the wire, of any kind.

        gRPC reads and parses the message of a unary call before any code of ours runs.
        """
        kind = "stream" if handler.request_streaming else "unary"
        kind += "_stream" if handler.response_streaming else "_unary"
        behaviour, parse = getattr(handler, kind), handler.request_deserializer

        async def answer(raw: AsyncIterable[bytes], context: Context) -> None:
            async with contextlib.AsyncExitStack() as stack:
                for around in self._around:
                    await stack.enter_async_context(around(method, context))
                if handler.request_streaming:
                    request: Any = all_messages(method, raw, parse)
                else:
                    request = await only_message(
                        method, raw, parse, within_s=self._first_message_s
                    )
                if not handler.response_streaming:
                    await context.write(await behaviour(request, context))
                    return
                # Written here, not yielded: so a cancelled write is seen around it.
                async with contextlib.aclosing(behaviour(request, context)) as messages:
                    async for message in messages:
                        await context.write(message)

        make: Any = grpc.stream_stream_rpc_method_handler
        return make(  # type: ignore[no-any-return]
            answer, None, handler.response_serializer
        )


@contextlib.asynccontextmanager
async def errors_as_status(method: str, context: Context) -> AsyncIterator[None]:
    """End a call that raises with the status of its error; see `status_of`."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as e:
        code, message = status_of(e, f"{method} from {context.peer()}")
        await context.abort(code, message)


def status_of(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    """Return the status with which an error ends a call.

    Args:
        error: what a servicer raised.
        method: the full name of the call and its peer, for the log.

    Returns:
        The code, and one line for the peer.
    """
    for kind, code in _CODES:
        if isinstance(error, kind):
            level = logging.DEBUG if isinstance(error, ThrottledError) else logging.INFO
            logger.log(level, "%s refused: %s", method, error)
            return code, str(error)
    if isinstance(error, StorageError):
        # The operator has to repair it; the node waits and tries again.
        logger.error("%s failed: %s", method, error)
        return (
            grpc.StatusCode.UNAVAILABLE,
            "the gateway's storage fails; its log says why",
        )
    logger.error("%s failed unexpectedly", method, exc_info=error)
    return grpc.StatusCode.INTERNAL, "internal error"
