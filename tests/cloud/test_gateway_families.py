"""A gateway where one of the two families of addresses is missing.

Each test runs in a network of its own: a container without IPv6, and a machine without
IPv4.
"""

import sys
from pathlib import Path

import pytest
from own_network import needs_own_network, said_without

pytestmark = needs_own_network

GATEWAY = """
import asyncio, sys
from pathlib import Path
from cloud.gateway.probe import check_gateway
from cloud.gateway.server import GatewayThread
from cloud.storage import StorageDir
from common.config import GatewayConfig
from common.errors import TaktError

storage = StorageDir(Path(sys.argv[2]))
config = GatewayConfig(host=sys.argv[1], names=("localhost",))
try:
    with GatewayThread(storage=storage, config=config) as gateway:
        check = gateway.running.check()
        asyncio.run_coroutine_threadsafe(check, gateway.loop).result()
        check_gateway(storage)
        print("serves")
except TaktError as e:
    print(e)
"""


def said(folder: Path, host: str, missing: str) -> str:
    """Start a gateway where a family is missing, check it, and return what came."""
    return said_without(missing, [sys.executable, "-c", GATEWAY, host, str(folder)])


@pytest.mark.parametrize("missing", ["IPv4", "IPv6"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_gateway_on_all_addresses_is_found_well_with_one_family_alone(
    tmp_path: Path, host: str, missing: str
) -> None:
    assert said(tmp_path, host, missing) == "serves"


def test_an_ipv6_address_where_there_is_no_ipv6_is_refused_with_the_fix(
    tmp_path: Path,
) -> None:
    message = said(tmp_path, "::1", "IPv6")
    assert "cannot listen on [::1]:0: this machine or container has no IPv6" in message
    assert "for instance 127.0.0.1 or 0.0.0.0" in message


def test_an_ipv4_address_where_there_is_no_ipv4_is_refused_with_one_that_works(
    tmp_path: Path,
) -> None:
    message = said(tmp_path, "127.0.0.1", "IPv4")
    assert "Cannot assign requested address" in message and ", ::1, " in message
