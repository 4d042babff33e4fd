"""Who may call: one interceptor in front of every method of the node port.

A call is admitted when its client certificate is the one that the allow-list holds
for the node it names, and while that stays so: a sweep ends the open calls of
nodes that were revoked, re-issued or whose certificate ran out. Each node may have
a bounded number of calls open. TLS has checked the certificate's signature before
any of this. Not here: what an error becomes on the wire (`cloud.gateway.interceptor`).
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from cloud.gateway.interceptor import QuotaError, status_of
from cloud.pki.authority import Authority
from common.errors import IdentityError, TaktError

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Around = Callable[[str, Context], AbstractAsyncContextManager[None]]
# The stubs are generic, the classes at run time are not: hence a string.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
SWEEP_S = 0.5  # a revoked node's calls end within about this time


def node_of(context: Context) -> str:
    """Return the name of the node that calls; admission has checked it."""
    names = context.auth_context().get("x509_common_name", ())
    return next((bytes(name).decode() for name in names), "")


class Interceptor(grpc.aio.ServerInterceptor):
    """Run every call of a server inside async context managers."""

    def __init__(self, *around: Around) -> None:
        """Run calls inside ``around(method, context)`` of each, the outermost first."""
        self._around = around

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: grpc answers UNIMPLEMENTED
            return handler
        return _wrap(handler, handler_call_details.method, self._around)


def _wrap(handler: Any, method: str, arounds: Sequence[Around]) -> Handler:
    """Put `arounds` around a handler of any of the four kinds."""
    kind = "stream" if handler.request_streaming else "unary"
    kind += "_stream" if handler.response_streaming else "_unary"
    behaviour = getattr(handler, kind)

    async def answer(request: Any, context: Context) -> Any:
        async with contextlib.AsyncExitStack() as stack:
            for around in arounds:
                await stack.enter_async_context(around(method, context))
            return await behaviour(request, context)

    async def stream(request: Any, context: Context) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for around in arounds:
                await stack.enter_async_context(around(method, context))
            # Written here, not yielded: so a cancelled write is seen around it.
            async with contextlib.aclosing(behaviour(request, context)) as messages:
                async for message in messages:
                    await context.write(message)

    make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(  # type: ignore[no-any-return]
        stream if handler.response_streaming else answer,
        handler.request_deserializer,
        handler.response_serializer,
    )


@contextlib.asynccontextmanager
async def errors_as_status(method: str, context: Context) -> AsyncIterator[None]:
    """Turn what a call raises into its status; see `cloud.gateway.interceptor`."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as e:
        await _abort(e, method, context)


async def _abort(error: Exception, method: str, context: Context) -> NoReturn:
    code, message = status_of(error, method)
    await context.abort(code, message)


@dataclass(eq=False)
class _Call:
    """One call that was admitted and is still open."""

    certificate_pem: bytes
    task: "asyncio.Task[Any]"
    ended_by: TaktError | None = None


class Admission:
    """The doorkeeper of the node port."""

    def __init__(self, authority: Authority, *, max_calls_per_node: int) -> None:
        """Ask `authority` about every call."""
        self._authority = authority
        self._max_calls = max_calls_per_node
        self._calls: set[_Call] = set()
        self._open: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def admit(self, method: str, context: Context) -> AsyncIterator[None]:
        """Let a call run while its node is allowed; to be used by `Interceptor`.

        Raises:
            IdentityError: the node is not allowed, or no longer.
            QuotaError: it has too many calls open.
        """
        pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise IdentityError("the call came without a client certificate")
        node = self._authority.check(bytes(pem))
        if self._open[node] >= self._max_calls:
            raise QuotaError(
                f"node '{node}' has {self._open[node]} calls open, the most that the "
                "gateway admits; close one, or raise gateway.max_streams_per_node"
            )
        task = asyncio.current_task()
        assert task is not None
        call = _Call(bytes(pem), task)
        self._calls.add(call)
        self._open[node] += 1
        try:
            yield
        except asyncio.CancelledError:
            if call.ended_by is None:
                raise
            task.uncancel()
            raise call.ended_by from None
        finally:
            self._calls.discard(call)
            self._open[node] -= 1

    async def sweep(self) -> NoReturn:
        """End the calls of nodes that may no longer call, twice a second, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for call in tuple(self._calls):
                if call.ended_by is not None:
                    continue
                try:
                    self._authority.check(call.certificate_pem)
                except IdentityError as e:
                    call.ended_by = e
                    call.task.cancel()
                except TaktError as e:
                    logger.error("cannot check open calls: %s", e)
