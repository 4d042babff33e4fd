"""A local Ray where this machine does not reach itself: refused, not waited for."""

import sys

import pytest
from own_network import needs_own_network, said_without

pytestmark = needs_own_network

START = """
from cloud.cluster.local import local_cluster
from common.errors import ClusterError
try:
    with local_cluster():
        print("started")
except ClusterError as e:
    print(e)
"""


@pytest.mark.parametrize(
    ("missing", "fix"),
    [("loopback", "`ip link set lo up`"), ("IPv4", "`ip address add 127.0.0.1/8")],
)
def test_a_local_ray_is_refused_at_once_where_the_loopback_is_missing(
    missing: str, fix: str
) -> None:
    said = said_without(missing, [sys.executable, "-c", START])
    assert said.startswith("this machine does not reach itself at 127.0.0.1")
    assert fix in said and "\n" not in said
