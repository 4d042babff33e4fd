"""What the kill tests run in a process of its own, which dies of it.

Kept apart from the tests, so that a victim imports the daemon and nothing else.
"""

import os
from collections.abc import Callable

from edge.config import EdgeConfig
from edge.credentials import Certificates
from edge.daemon import NodeDaemon
from edge.daemon.enrolment import enroll
from edge.daemon.renewal import renew
from edge.link.client import Link
from edge.link.connection import Connection, ConnectionOptions
from edge.state import StateDir


def run_once(config: EdgeConfig) -> None:
    """Do a daemon's work."""
    NodeDaemon(config).once()


def enroll_once(config: EdgeConfig, token: str) -> None:
    """Enrol."""
    enroll(config, token)


def renew_once(config: EdgeConfig) -> None:
    """Renew the node's certificate."""
    certificates = Certificates.of(StateDir(config.state_dir).identity)
    link = Link(Connection(config.gateway, certificates, ConnectionOptions()))
    renew(link, StateDir(config.state_dir).identity, node=config.node)


def armed(fault: str, target: Callable[..., None], *arguments: object) -> None:
    """Run `target` with a fault armed."""
    os.environ["TAKT_FAULT"] = fault
    target(*arguments)
