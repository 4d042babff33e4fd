"""Who may call: a check in front of every method of the node port.

A call is authorized when its client certificate is the one that the allow-list holds
for the node it names, and only while that stays so: a sweep sees that the list has
changed, and ends the open calls of nodes that were revoked, that got a newer
certificate or whose certificate expired. Each node may have a bounded number of calls
open. The certificate of `takt cloud check` is on no list, and let in for health checks
alone, a few of an address at a time. TLS has checked the certificate's signature
before. Not here: the status of a refused call (`cloud.gateway.interceptor`).
"""

import asyncio
import contextlib
import logging
from collections import Counter
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, NoReturn

from cloud.errors import QuotaError
from cloud.gateway.health import CHECK
from cloud.gateway.peers import Context, certificate_of, source_of
from cloud.gateway.refusals import health_checks
from cloud.gateway.repeated import write_repeatedly
from cloud.pki.allowlist import PROBE
from cloud.pki.authority import Authority
from cloud.pki.certificates import Claim, claim_of
from common.clock import Clock, utc_now
from common.errors import IdentityError, TaktError

logger = logging.getLogger(__name__)

SWEEP_S = 0.5  # what changes in the allow-list counts within about this time


class Caller(NamedTuple):
    """The node whose call is being answered."""

    node: str
    certificate_pem: bytes


_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Return who makes the call that this task answers; `Authorization` has checked.

    Raises:
        LookupError: the task answers no authorized call.
    """
    return _CALLER.get()


def _certificate_of(context: Context) -> bytes:
    """Return the certificate (PEM) that the caller presents; TLS has checked it.

    Raises:
        IdentityError: it presents none.
    """
    pem = certificate_of(context)
    if pem is None:
        raise IdentityError("the call came without a client certificate")
    return pem


class _Call:
    """One authorized call that is open while its body runs."""

    def __init__(
        self, who: Caller, calls: "set[_Call]", num_open: Counter[str]
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.caller = who
        self.task = task
        self.ended_by: TaktError | None = None
        self._calls = calls
        self._num_open = num_open

    def __enter__(self) -> None:
        self._calls.add(self)
        self._num_open[self.caller.node] += 1
        _CALLER.set(self.caller)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._calls.discard(self)
        self._num_open[self.caller.node] -= 1
        if kind is asyncio.CancelledError and self.ended_by is not None:
            self.task.uncancel()
            raise self.ended_by from None


class Authorization:
    """Authorizes the calls of the node port, and ends those no longer allowed."""

    def __init__(
        self,
        authority: Authority,
        *,
        max_calls_per_node: int,
        clock: Clock = utc_now,
    ) -> None:
        """Ask `authority` about every certificate; `clock` tells its end, UTC."""
        self._authority = authority
        self._clock = clock
        # Certificates that this state of the allow-list admits.
        self._admitted: dict[bytes, Claim] = {}
        self._state: object = None
        self._max_calls = max_calls_per_node
        self._calls: set[_Call] = set()
        self._open: Counter[str] = Counter()
        self._checks = health_checks()

    def authorize(
        self, method: str, context: Context
    ) -> contextlib.AbstractContextManager[None]:
        """Return what to run a call in while its node is allowed; for an `Interceptor`.

        Raises:
            IdentityError: the node is not allowed; from inside the body, no longer.
            QuotaError: it has too many calls open.
        """
        pem = _certificate_of(context)
        if method == CHECK and claim_of(pem).name == PROBE:
            return self._checks.of(source_of(context.peer()))
        node = self._check(pem)
        if self._open[node] >= self._max_calls:
            raise QuotaError(
                f"node '{node}' has {self._open[node]} calls open, the most that the "
                "gateway allows; close one, or raise gateway.max_streams_per_node"
            )
        return _Call(Caller(node, pem), self._calls, self._open)

    def _check(self, certificate_pem: bytes) -> str:
        """Return the name of a certificate's node; see `Authority.check`.

        The authority is asked at the first call with a certificate, and again when the
        allow-list has changed; its file is looked at by `sweep`.
        """
        state = self._authority.allow_list.state
        if state is not self._state:
            self._admitted.clear()
            self._state = state
        claim = self._admitted.get(certificate_pem)
        if claim is not None and claim.begins <= self._clock() <= claim.ends:
            return claim.name
        node = self._authority.check(certificate_pem)
        self._admitted[certificate_pem] = claim_of(certificate_pem)
        return node

    async def sweep(self) -> NoReturn:
        """End the calls of nodes that may no longer call, twice a second, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self._authority.allow_list.entries()
            except TaktError as e:
                self._admitted.clear()  # so that new calls are refused
                logger.error("cannot check open calls: %s", e)
                continue
            for call in tuple(self._calls):
                if call.ended_by is None:
                    self._end_unless_allowed(call)

    async def note_used(self) -> NoReturn:
        """Write which renewed certificates were used, twice a second, for ever.

        In a thread: no call waits for the list's lock, or for the disk.
        """
        await write_repeatedly(
            self._authority.allow_list.note_used,
            every_s=SWEEP_S,
            what="uses of new certificates",
            logger=logger,
        )

    def _end_unless_allowed(self, call: _Call) -> None:
        try:
            self._check(call.caller.certificate_pem)
        except IdentityError as e:
            call.ended_by = e
            call.task.cancel()
        except TaktError as e:
            logger.error("cannot check open calls: %s", e)
