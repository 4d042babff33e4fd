"""What a gateway has answered since it started: calls, refusals by code, bytes.

Counted on the event loop, read by any thread. Not here: who shows it
(`cloud.gateway.status`). A peer that TLS refuses, or a method that there is not, makes
no call.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Counts since the gateway started."""

    calls: Counter[str] = field(default_factory=Counter)
    """of admitted and refused peers, by method"""
    refused: Counter[str] = field(default_factory=Counter)
    """calls that ended with an error, by the name of its status code"""
    sent_bytes: int = 0
    """of files, without framing"""
