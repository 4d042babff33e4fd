"""Who may call: a check in front of every method of the node port.

A call is authorized when its client certificate is the one that the allow-list holds
for the node it names, and only while that stays so: a sweep ends the open calls of
nodes that were revoked, that got a newer certificate or whose certificate expired. Each
node may have a bounded number of calls open. TLS has checked the certificate's
signature before. Not here: the status of a refused call (`cloud.gateway.interceptor`).
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn

from cloud.errors import QuotaError
from cloud.gateway.health import CHECK
from cloud.gateway.interceptor import Context
from cloud.pki.authority import Authority
from common.errors import IdentityError, TaktError

logger = logging.getLogger(__name__)

SWEEP_S = 0.5  # a revoked node's calls end within about this time


def node_of(context: Context) -> str:
    """Return the name of the node that calls, which `Authorization` has checked."""
    names = context.auth_context().get("x509_common_name", ())
    return next((bytes(name).decode() for name in names), "")


def certificate_of(context: Context) -> bytes:
    """Return the certificate (PEM) that the caller presents; TLS has checked it.

    Raises:
        IdentityError: it presents none.
    """
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    if pem is None:
        raise IdentityError("the call came without a client certificate")
    return bytes(pem)


@dataclass(eq=False)
class _Call:
    """One authorized call that is still open."""

    certificate_pem: bytes
    task: "asyncio.Task[Any]"
    ended_by: TaktError | None = None


class Authorization:
    """Authorizes the calls of the node port, and ends those no longer allowed."""

    def __init__(self, authority: Authority, *, max_calls_per_node: int) -> None:
        """Ask `authority` about every call."""
        self._authority = authority
        self._max_calls = max_calls_per_node
        self._calls: set[_Call] = set()
        self._open: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def authorize(self, method: str, context: Context) -> AsyncIterator[None]:
        """Run a call while its node is allowed; for an `Interceptor`.

        Raises:
            IdentityError: the node is not allowed, or no longer.
            QuotaError: it has too many calls open.
        """
        if method == CHECK:  # a probe needs no name on the allow-list
            yield
            return
        pem = certificate_of(context)
        node = self._authority.check(pem)
        if self._open[node] >= self._max_calls:
            raise QuotaError(
                f"node '{node}' has {self._open[node]} calls open, the most that the "
                "gateway allows; close one, or raise gateway.max_streams_per_node"
            )
        task = asyncio.current_task()
        assert task is not None
        call = _Call(pem, task)
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
