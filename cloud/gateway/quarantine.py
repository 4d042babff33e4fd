"""What a node that lies, or that is at work twice, may still report: nothing.

A node many of whose messages held impossible numbers lately is not listened to for a
while; and of two daemons with one identity the second is refused, with the names
of both places. Files and news are served to them all the same. Not here: which numbers
are impossible (`cloud.fleet.bounds`), certificates (`cloud.gateway.authorization`).
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cloud.errors import BadRequestError, ThrottledError
from cloud.gateway.peers import Context
from common.errors import IdentityError
from common.records import PLACE_METADATA
from common.text import shortened

logger = logging.getLogger(__name__)

MAX_LIES = 30  # refused messages of a node within the window
WINDOW_S = QUARANTINE_S = 600.0
QUIET_S = 30.0  # six heartbeats: whoever was silent for so long has gone
_MAX_PLACE = 64


@dataclass
class _Conduct:
    """What is remembered of a node; times are monotonic seconds."""

    lies_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LIES))
    until_s: float = 0.0  # of its quarantine
    place: str = ""
    peer: str = ""
    heard_s: float = 0.0


class Quarantine:
    """The conduct of each enrolled node; used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember none."""
        self._clock = clock
        self._of: dict[str, _Conduct] = {}

    def nodes(self) -> tuple[str, ...]:
        """Name the nodes that are in quarantine now; from any thread."""
        now = self._clock()
        return tuple(
            sorted(n for n, found in list(self._of.items()) if now < found.until_s)
        )

    @contextlib.contextmanager
    def around(self, node: str, context: Context) -> Iterator[None]:
        """Run a call by which a node reports something.

        Raises:
            ThrottledError: the node is in quarantine.
            IdentityError: another daemon with the same identity is at work.
        """
        conduct = self._of.setdefault(node, _Conduct())
        now = self._clock()
        if now < conduct.until_s:
            raise ThrottledError(
                f"node '{node}' sent {MAX_LIES} impossible messages; its "
                f"reports are refused for another {conduct.until_s - now:.0f} s"
            )
        self._require_one_place(node, conduct, context)
        try:
            yield
        except BadRequestError as e:
            self._note(node, conduct, e)
            raise

    def _note(self, node: str, conduct: _Conduct, lie: BadRequestError) -> None:
        now, lies_s = self._clock(), conduct.lies_s
        lies_s.append(now)
        if len(lies_s) == MAX_LIES and now - lies_s[0] < WINDOW_S:
            lies_s.clear()
            conduct.until_s = now + QUARANTINE_S
            logger.warning(
                "node '%s' is in quarantine for %.0f s after %d impossible messages, "
                "the last one: %s",
                node,
                QUARANTINE_S,
                MAX_LIES,
                lie,
            )

    def _require_one_place(
        self, node: str, conduct: _Conduct, context: Context
    ) -> None:
        place = place_of(context)
        if not place:  # an older takt
            return
        now = self._clock()
        if conduct.place not in ("", place) and now - conduct.heard_s < QUIET_S:
            raise IdentityError(
                f"node '{node}' is at work already, at {conduct.peer} (place "
                f"{conduct.place}, here {place}): two daemons share one identity; stop "
                "one, and enrol it under a name of its own"
            )
        conduct.place, conduct.peer, conduct.heard_s = place, context.peer(), now


def place_of(context: Context) -> str:
    """Return what a daemon says of its place; "" of an older takt."""
    for key, value in context.invocation_metadata() or ():
        if key == PLACE_METADATA and isinstance(value, str):
            return shortened(value, _MAX_PLACE)
    return ""
