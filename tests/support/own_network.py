"""A network of a test's own, in which a family of addresses or the loopback is missing.

An ordinary user may make one as well, on most machines.
"""

import subprocess
from collections.abc import Sequence

import pytest

_OWN_NETWORK = ("unshare", "--map-root-user", "--net")
_TRIED = subprocess.run([*_OWN_NETWORK, "true"], capture_output=True, text=True)
needs_own_network = pytest.mark.skipif(
    _TRIED.returncode != 0, reason=f"no network of one's own: {_TRIED.stderr.strip()}"
)

WITHOUT = {
    "IPv6": "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && ip link set lo up",
    "IPv4": "ip link set lo up && ip addr del 127.0.0.1/8 dev lo",
    "loopback": "true",  # a new network's is down
}


def said_without(missing: str, command: Sequence[str]) -> str:
    """Run a command where something of `WITHOUT` is missing; return its output."""
    script = f'{WITHOUT[missing]} && exec "$@"'
    done = subprocess.run(
        [*_OWN_NETWORK, "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
