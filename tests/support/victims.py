"""What the kill tests run in a process of its own, which dies of it.

Kept apart from the tests, so that a victim imports the daemon and nothing else.
"""

import os
from collections.abc import Callable

from edge.config import EdgeConfig
from edge.daemon import NodeDaemon
from edge.daemon.enrolment import enroll


def run_once(config: EdgeConfig) -> None:
    """Do a daemon's work."""
    NodeDaemon(config).once()


def enroll_once(config: EdgeConfig, token: str) -> None:
    """Enrol."""
    enroll(config, token)


def armed(fault: str, target: Callable[..., None], *arguments: object) -> None:
    """Run `target` with a fault armed."""
    os.environ["TAKT_FAULT"] = fault
    target(*arguments)
