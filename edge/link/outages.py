"""The planned outages of a node's network: the cuts of its profile.

While one lasts, no call to the gateway begins and those under way break off, as if
the cable were out. That holds in a simulation, a container and on a device alike,
and needs no rights. Not here: what becomes of the calls (edge/link/connection.py).
"""

from collections.abc import Callable, Sequence

import grpc

from common.config import CutConfig


class CutError(grpc.RpcError):
    """A call that the profile's outage ended, or did not let begin."""

    def code(self) -> grpc.StatusCode:
        """Count as a broken connection."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Say what was wrong."""
        return "this node's network is cut, as its profile says"


class Outages:
    """When the network is out, from now on."""

    def __init__(self, cuts: Sequence[CutConfig], clock: Callable[[], float]) -> None:
        """Start counting; `clock` is monotonic, in seconds."""
        start = clock()
        self._clock = clock
        self._spans = [
            (start + cut.after_s, start + cut.after_s + cut.for_s) for cut in cuts
        ]

    def is_out(self) -> bool:
        """Say whether the network is cut at this moment."""
        now = self._clock()
        return any(begin <= now < end for begin, end in self._spans)
