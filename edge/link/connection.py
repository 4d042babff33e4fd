"""The machinery under a node's calls: one channel, its caps and its patience.

Owns the bandwidth cap, the added delay and the cuts of the node's profile, retries
with full jitter until a deadline, a stop that ends any wait, and the replacement of
a channel that went dead. Not here: the calls themselves (edge/link/client.py), the
channel's options and error texts (edge/link/channel.py).
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from common.config import ProfileConfig
from common.errors import Interrupted, LinkError, TaktError
from edge.link.channel import (
    Certificates,
    identity_problem,
    open_channel,
    translate,
)
from edge.link.outages import CutError, Outages
from edge.link.retry import Patience
from edge.link.throttle import TokenBucket

_BURST_S = 0.05  # of the cap's rate
_FLOOR_BYTES_S = 1024.0  # a transfer slower than this for long has failed
_DIAGNOSIS_S, _DIAGNOSES = 5.0, 4  # longest wait, and after how many failures
_RETRIED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # too many streams of this node
    grpc.StatusCode.CANCELLED,  # by a gateway that shuts down, or by StallGuard
    grpc.StatusCode.ABORTED,
    *(
        _DOUBTFUL := {
            grpc.StatusCode.INTERNAL,  # a reset stream, or a bug at the gateway
            grpc.StatusCode.UNKNOWN,  # a connection removed under the call, or a bug
        }
    ),
}
_MAX_DOUBTFUL = 5  # tries in a row


class Wire:
    """A channel to one gateway; safe for several threads."""

    def __init__(
        self,
        address: str,
        certificates: Certificates,
        *,
        profile: ProfileConfig | None = None,
        deadline_s: float = 600.0,
        stall_s: float = 30.0,
        stop: threading.Event | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        on_wait: Callable[[TaktError, float], None] | None = None,
    ) -> None:
        """Open a channel lazily: nothing is sent before the first call.

        Args:
            address: ``host:port``.
            certificates: read now, and again by `reopen`.
            profile: bandwidth, delay and cuts; None: a network without limits.
            deadline_s: how long one operation goes on without progress.
            stall_s: a stream that is silent for so long is cut and resumed; a
                message (64 KiB) must fit into it.
            stop: set it and every call ends soon with `Interrupted`.
            sleep: waits so many seconds; None: on `stop`.
            clock: monotonic seconds.
            rng: of the jitter.
            on_wait: told the error and the pause before each further try.

        Raises:
            IdentityError: a certificate file cannot be read.
        """
        self.address = address
        self.pulled_bytes = 0
        self._certificates = certificates
        self._deadline_s = deadline_s
        self.stall_s = stall_s
        self.stop = stop or threading.Event()
        self._sleep = sleep or self.stop.wait
        self._clock = clock
        self._rng = rng or random.Random()
        self._on_wait = on_wait or (lambda error, pause_s: None)
        self._delay_s = profile.delay_ms / 1000 if profile else 0.0
        self._outages = Outages(profile.cuts if profile else (), clock)
        self.bucket: TokenBucket | None = None
        self._floor_bytes_s = _FLOOR_BYTES_S
        if profile:
            rate = profile.bandwidth_kib_s * 1024.0
            self.bucket = TokenBucket(
                rate, burst_bytes=rate * _BURST_S, clock=clock, sleep=self._sleep
            )
            self._floor_bytes_s = min(_FLOOR_BYTES_S, rate / 4)
        self._lock = threading.Lock()
        self.channel = open_channel(address, certificates, stall_s=stall_s)

    def close(self) -> None:
        """Close the channel; calls under way end with an error."""
        with self._lock:
            self.channel.close()

    def reopen(self) -> None:
        """Replace the channel, for instance after a stall or a new certificate.

        Raises:
            IdentityError: a certificate file cannot be read.
        """
        fresh = open_channel(self.address, self._certificates, stall_s=self.stall_s)
        with self._lock:
            stale, self.channel = self.channel, fresh
        stale.close()

    def retrying(self, method: Callable[[], Any], request: Any, what: str) -> Any:
        """Make a unary call until it succeeds; see `call` and `wait`."""
        patience = self.patience()
        while True:
            try:
                return self.call(method, request)
            except grpc.RpcError as e:
                self.wait(patience, e, what)

    def call(self, method: Callable[[], Any], request: Any) -> Any:
        """Make one unary call that a stop can interrupt.

        Raises:
            grpc.RpcError: it failed.
            LinkError: the channel was closed under it.
            Interrupted: `stop` was set.
        """
        future = self.start(lambda: method().future(request, timeout=self.stall_s))
        while True:
            try:
                return future.result(timeout=0.1)
            except grpc.FutureTimeoutError:
                if self.is_unwanted():
                    future.cancel()
                    self.check_stop()
                    raise CutError from None
            except grpc.FutureCancelledError as e:
                raise LinkError(f"call to gateway {self.address} was cancelled") from e

    def start(self, call: Callable[[], Any]) -> Any:
        """Begin a call after the profile's delay.

        Raises:
            grpc.RpcError: the profile's network is cut.
            LinkError: the channel is closed.
            Interrupted: `stop` was set.
        """
        self.delay()
        self.check_stop()
        self.check_outage()
        try:
            return call()
        except ValueError as e:  # grpc's word for a closed channel
            raise LinkError(f"the channel to gateway {self.address} is closed") from e

    def delay(self) -> None:
        """Wait as long as the profile adds to each call, or message that is one."""
        if self._delay_s:
            self._sleep(self._delay_s)

    def patience(self) -> Patience:
        """Begin an operation: its deadline counts from here."""
        return Patience(
            self._deadline_s,
            floor_bytes_s=self._floor_bytes_s,
            clock=self._clock,
            sleep=self._sleep,
            rng=self._rng,
        )

    def wait(self, patience: Patience, error: grpc.RpcError, what: str) -> None:
        """Pause before the next try, or raise what the failure means.

        Raises:
            IdentityError: the certificates or the allow-list are the reason.
            LinkError: another try makes no sense, or the deadline has passed.
            Interrupted: `stop` was set.
        """
        self.check_stop()
        meaning = translate(error, what, self.address)
        doubtful = error.code() in _DOUBTFUL and patience.failures >= _MAX_DOUBTFUL
        if error.code() not in _RETRIED or doubtful:
            raise meaning from error
        if patience.failures <= _DIAGNOSES and not isinstance(error, CutError):
            problem = identity_problem(
                error,
                self.address,
                self._certificates,
                timeout_s=min(_DIAGNOSIS_S, self.stall_s),
                is_repeated=patience.failures == _DIAGNOSES,
            )
            if problem is not None:
                raise problem from error
        pause_s = patience.next_pause_s()
        if pause_s is None:
            waited = f"; gave up after {patience.elapsed_s:.0f} s"
            raise type(meaning)(f"{meaning}{waited}") from error
        self._on_wait(meaning, pause_s)
        patience.sleep(pause_s)
        self.check_stop()

    def is_unwanted(self) -> bool:
        """Say whether calls under way are to end: stopped, or the network is cut."""
        return self.stop.is_set() or self._outages.is_out()

    def check_outage(self) -> None:
        """Raise `CutError` while the profile's network is cut."""
        if self._outages.is_out():
            raise CutError

    def check_stop(self) -> None:
        """Raise `Interrupted` if the daemon is to end."""
        if self.stop.is_set():
            raise Interrupted("stopped while talking to the gateway")
