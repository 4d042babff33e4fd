"""A brake on enrolments: so many open, and refused a minute, of an address and of all.

Whoever guesses tokens, or only fills the log, is answered RESOURCE_EXHAUSTED before a
message is read, until the minute is over. Enrolments that succeed count nowhere. Health
checks are bounded by how many an address has open, so that a probe is answered also
where enrolments are not. Not here: the tokens (`cloud.pki.allowlist`).
"""

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Iterator
from datetime import datetime, timedelta

from cloud.errors import BadRequestError, NoMessageError, ThrottledError
from cloud.gateway.health import CHECK
from cloud.gateway.peers import Context, source_of
from common.clock import Clock
from common.errors import ConfigError, IdentityError

logger = logging.getLogger(__name__)

WINDOW = timedelta(minutes=1)
MAX_OF_ADDRESS = 20  # refused within the window; whole fleets may share an address
MAX_OF_ALL = 200
MAX_OPEN_OF_ADDRESS = 64  # calls at a time, of the 256 that all have
MAX_CHECKS_OF_ADDRESS = 8  # likewise, of health checks


class OpenCalls:
    """How many calls of a kind each address has open; used from one event loop."""

    def __init__(self, kind: str, most: int) -> None:
        """Let an address have at most `most` open; `kind` names them, in plural."""
        self._kind = kind
        self._most = most
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, source: str) -> Iterator[None]:
        """Run a call from an address, which is counted while it is open.

        Raises:
            ThrottledError: there are too many already.
        """
        if self._open[source] >= self._most:
            raise ThrottledError(
                f"{self._open[source]} {self._kind} from {source} are under way, the "
                "most that the gateway allows; try again in a minute"
            )
        self._open[source] += 1
        try:
            yield
        finally:
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]


def health_checks() -> OpenCalls:
    """Count the health checks of a port, from now on."""
    return OpenCalls("health checks", MAX_CHECKS_OF_ADDRESS)


class Refusals:
    """The refused enrolments of the last minute; used from one event loop."""

    def __init__(self, clock: Clock) -> None:
        """Remember none."""
        self._clock = clock
        self._times: deque[tuple[datetime, str]] = deque()
        self._of: Counter[str] = Counter()
        self._enrolments = OpenCalls("enrolments", MAX_OPEN_OF_ADDRESS)
        self._checks = health_checks()

    @contextlib.contextmanager
    def brake(self, method: str, context: Context) -> Iterator[None]:
        """Run an enrolment unless there were many refused; for an `Interceptor`.

        Raises:
            ThrottledError: there were, or the address has many open.
        """
        source = source_of(context.peer())
        if method == CHECK:
            with self._checks.of(source):
                yield
            return
        self._forget()
        if self._of[source] >= MAX_OF_ADDRESS or len(self._times) >= MAX_OF_ALL:
            raise ThrottledError(
                f"{self._of[source]} enrolments from {source} and {len(self._times)} "
                f"in all were refused within a minute, at most {MAX_OF_ADDRESS} and "
                f"{MAX_OF_ALL} are answered; try again in a minute"
            )
        try:
            with self._enrolments.of(source):
                yield
        except (BadRequestError, ConfigError, IdentityError, NoMessageError):
            self._note(source)
            raise

    def _forget(self) -> None:
        """Drop what is older than the window, or later than now (a clock set back)."""
        now = self._clock()
        while self._times and not now - WINDOW < self._times[0][0] <= now:
            _, source = self._times.popleft()
            self._of[source] -= 1
            if not self._of[source]:
                del self._of[source]

    def _note(self, source: str) -> None:
        self._times.append((self._clock(), source))
        self._of[source] += 1
        if self._of[source] == MAX_OF_ADDRESS or len(self._times) == MAX_OF_ALL:
            logger.warning(
                "%d enrolments from %s and %d in all were refused within a minute; "
                "further ones are not answered until it is over",
                self._of[source],
                source,
                len(self._times),
            )
