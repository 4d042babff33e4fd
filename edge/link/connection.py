"""The connection under a node's calls: one channel, its limits, and its retries.

Owns the bandwidth, the added delay and the outages of the node's profile, retries
with full jitter until a deadline, a stop that ends any wait, and the replacement of
a channel that went dead. Not here: the calls themselves (edge/link/client.py,
edge/link/teacher_stream.py), the channel's options (edge/link/channel.py), what a
failure means (edge/link/failures.py).
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from common.config import ProfileConfig
from common.errors import Interrupted, LinkError, TaktError
from common.records import PLACE_METADATA
from edge.credentials import Certificates
from edge.link.channel import open_channel
from edge.link.failures import REFUSED, identity_problem, translate
from edge.link.proxy import proxy_to
from edge.link.retry import Retry
from edge.link.throttle import CutError, Outages, TokenBucket

_BURST_S = 0.05  # of the cap's rate
# Of a file in one message: this much time of the bandwidth, up to what a gateway sends.
_MESSAGE_S, _MAX_MESSAGE_BYTES = 0.5, 1024 * 1024
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


@dataclass(frozen=True)
class ConnectionOptions:
    """The part of a node's config that concerns its network.

    Attributes:
        profile: bandwidth, delay and outages; None: a network without limits.
        deadline_s: how long one operation goes on without progress.
        stall_s: a stream that is silent for so long is cut and resumed; a message of
            64 KiB must fit into it.
        proxy: the key of edge.toml; see edge/link/proxy.py.
        place: identifies this machine and state folder to the gateway; "": nothing.
    """

    profile: ProfileConfig | None = None
    deadline_s: float = 600.0
    stall_s: float = 30.0
    proxy: str | None = None
    place: str = ""


class Connection:
    """A channel to one gateway; safe for several threads.

    Attributes:
        address: ``host:port``.
        stall_s: see `ConnectionOptions`.
        message_bytes: of a file, to be asked for in one message.
        proxy: that the calls go through; None: directly.
        grpc_channel: for stubs; another one after `reopen`.
    """

    def __init__(
        self,
        address: str,
        certificates: Certificates,
        options: ConnectionOptions,
        *,
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
            options: of the node's config.
            stop: set it and every call ends soon with `Interrupted`.
            sleep: waits so many seconds; None: on `stop`.
            clock: monotonic seconds.
            rng: of the jitter.
            on_wait: called with the error and the pause before each further try.

        Raises:
            IdentityError: a certificate file cannot be read.
        """
        self.address = address
        self.stall_s = options.stall_s
        self._certificates = certificates
        self._deadline_s = options.deadline_s
        self._metadata = ((PLACE_METADATA, options.place),) if options.place else None
        self._stop = stop or threading.Event()
        self._sleep = sleep or self._stop.wait
        self._clock = clock
        self._rng = rng or random.Random()
        self._on_wait = on_wait or (lambda error, pause_s: None)
        profile = options.profile
        self._delay_s = profile.delay_ms / 1000 if profile else 0.0
        self._outages = Outages(profile.cuts if profile else (), clock)
        self._bucket: TokenBucket | None = None
        self._floor_bytes_s = _FLOOR_BYTES_S
        self.message_bytes = _MAX_MESSAGE_BYTES
        if profile:
            rate = profile.bandwidth_kib_s * 1024.0
            self._bucket = TokenBucket(
                rate, burst_bytes=rate * _BURST_S, clock=clock, sleep=self._sleep
            )
            self._floor_bytes_s = min(_FLOOR_BYTES_S, rate / 4)
            self.message_bytes = min(int(rate * _MESSAGE_S), _MAX_MESSAGE_BYTES)
        self._lock = threading.Lock()
        self.proxy = proxy_to(address, options.proxy)
        self.grpc_channel = self._open_channel()

    def close(self) -> None:
        """Close the channel; calls under way end with an error."""
        with self._lock:
            self.grpc_channel.close()

    def reopen(self) -> None:
        """Replace the channel, for instance after a stall or a new certificate.

        Raises:
            IdentityError: a certificate file cannot be read.
        """
        with self._lock:  # who opens last has read the newest certificate and key
            fresh = self._open_channel()
            stale, self.grpc_channel = self.grpc_channel, fresh
        stale.close()

    def _has_new_certificate(self) -> bool:
        return _inode_of(self._certificates.certificate) != self._opened_with

    def _open_channel(self) -> grpc.Channel:
        self._opened_with = _inode_of(self._certificates.certificate)
        return open_channel(
            self.address, self._certificates, stall_s=self.stall_s, proxy=self.proxy
        )

    def retrying(self, method: Callable[[], Any], request: Any, what: str) -> Any:
        """Make a unary call until it succeeds; see `call` and `wait_or_raise`."""
        retry = self.new_retry()
        while True:
            try:
                return self.call(method, request)
            except grpc.RpcError as e:
                self.wait_or_raise(retry, e, what)

    def call(self, method: Callable[[], Any], request: Any) -> Any:
        """Make one unary call that a stop can interrupt.

        Raises:
            grpc.RpcError: it failed.
            LinkError: the channel was closed under it.
            Interrupted: `stop` was set.
        """
        future = self.start(
            lambda: method().future(
                request, timeout=self.stall_s, metadata=self._metadata
            )
        )
        while True:
            try:
                return future.result(timeout=0.1)
            except grpc.FutureTimeoutError:
                if self.should_cancel():
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
        except ValueError as e:  # what grpc raises for a closed channel
            raise LinkError(f"the channel to gateway {self.address} is closed") from e

    def delay(self) -> None:
        """Wait as long as the profile adds to each call, or to a stream's question."""
        if self._delay_s:
            self._sleep(self._delay_s)

    def pay(self, num_bytes: int) -> None:
        """Wait as long as these bytes take at the profile's bandwidth."""
        if self._bucket is not None:
            self._bucket.pay(num_bytes)

    def new_retry(self) -> Retry:
        """Begin an operation: its deadline counts from here."""
        return Retry(
            self._deadline_s,
            floor_bytes_s=self._floor_bytes_s,
            clock=self._clock,
            sleep=self._sleep,
            rng=self._rng,
        )

    def wait_or_raise(self, retry: Retry, error: grpc.RpcError, what: str) -> None:
        """Pause before the next try, or raise what the failure means.

        Raises:
            IdentityError: the certificates or the allow-list are the reason.
            LinkError: another try makes no sense, or the deadline has passed.
            Interrupted: `stop` was set.
        """
        self.check_stop()
        if error.code() in REFUSED and self._has_new_certificate():
            self.reopen()  # the one that this channel was opened with is void
            return
        meaning = translate(error, what, self.address, self.proxy)
        doubtful = error.code() in _DOUBTFUL and retry.failures >= _MAX_DOUBTFUL
        if error.code() not in _RETRIED or doubtful:
            raise meaning from error
        # A look past the proxy would say nothing of the way that the calls take.
        is_direct = self.proxy is None and not isinstance(error, CutError)
        if is_direct and retry.failures <= _DIAGNOSES:
            problem = identity_problem(
                error,
                self.address,
                self._certificates,
                timeout_s=min(_DIAGNOSIS_S, self.stall_s),
                is_repeated=retry.failures == _DIAGNOSES,
            )
            if problem is not None:
                raise problem from error
        pause_s = retry.next_pause_s()
        if pause_s is None:
            waited = f"; gave up after {retry.elapsed_s:.0f} s"
            raise type(meaning)(f"{meaning}{waited}") from error
        self._on_wait(meaning, pause_s)
        retry.sleep(pause_s)
        self.check_stop()

    def should_cancel(self) -> bool:
        """Check whether calls under way are to end: on a stop, or in an outage."""
        return self._stop.is_set() or self._outages.is_out()

    def check_outage(self) -> None:
        """Raise `CutError` while the profile's network is cut."""
        if self._outages.is_out():
            raise CutError

    def check_stop(self) -> None:
        """Raise `Interrupted` if the daemon is to end."""
        if self._stop.is_set():
            raise Interrupted("stopped while talking to the gateway")


def _inode_of(path: Path | None) -> int:
    """Tell a file from the one that a rename puts in its place."""
    try:
        return path.stat().st_ino if path else 0
    except OSError:
        return 0
