"""Addresses in files and options: each wrong one is a line with the key and a fix."""

import contextlib
from pathlib import Path

import pytest
from clocks import ClockOfWaits

from cloud.cluster.local import connect
from cloud.pki.authority import Authority
from common.address import EXAMPLE
from common.config import GatewayConfig
from common.config.toml_file import parse_config
from common.errors import ConfigError, LinkError
from edge.config import EdgeConfig
from edge.credentials import Certificates
from edge.link.client import Link
from edge.link.connection import Connection, ConnectionOptions

EDGE = """
node = "sensor"
student = "small"
{key} = "{address}"
profile = {{cpus = 1, memory_mib = 500, bandwidth_kib_s = 100}}
"""


@pytest.mark.parametrize("key", ["gateway", "enroll"])
@pytest.mark.parametrize(
    "address",
    ["cloud.example", "https://cloud.example:7443", "h:99999", "[fe80::1%eth0]:7443"],
)
def test_a_wrong_address_in_edge_toml_is_a_line_with_an_example(
    key: str, address: str
) -> None:
    text = EDGE.format(key=key, address=address)
    if key == "enroll":
        text = 'gateway = "cloud.example:7443"\n' + text
    with pytest.raises(ConfigError) as e:
        parse_config(text, EdgeConfig, source="edge.toml")
    message = str(e.value)
    assert message.startswith(f"edge.toml: {key} = '{address}': ")
    assert message.endswith(EXAMPLE)
    assert "pattern" not in message and "\n" not in message


def test_a_long_ipv6_address_is_written_as_certificates_have_it() -> None:
    text = EDGE.format(key="gateway", address="[0:0:0:0:0:0:0:1]:7443")
    config = parse_config(text, EdgeConfig, source="edge.toml")
    assert config.gateway == "[::1]:7443"


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ('host = "127.0.0.1:7443"', "host = '127.0.0.1:7443': a port"),
        ('host = "http://0.0.0.0"', "host = 'http://0.0.0.0': a scheme"),
        ('names = ["cloud.example:7443"]', "names.0 = 'cloud.example:7443': a port"),
        ('names = ["[::1]"]', r"names.0 = '\[::1\]': brackets"),
    ],
)
def test_a_wrong_host_of_the_gateway_is_a_line_with_an_example(
    line: str, where: str
) -> None:
    with pytest.raises(ConfigError, match=f"{where}.*for instance gateway.example"):
        parse_config(line, GatewayConfig, source="run.toml")


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "localhost"])
def test_a_gateway_listens_on_any_host_or_all(host: str) -> None:
    config = parse_config(f'host = "{host}"', GatewayConfig, source="run.toml")
    assert config.host == host


@pytest.mark.parametrize("host", ["https://cloud.example", "cloud.example:7443", ""])
def test_a_wrong_host_for_the_gateways_certificate_is_refused(
    tmp_path: Path, host: str
) -> None:
    authority = Authority(tmp_path)
    authority.init()
    with pytest.raises(ConfigError, match=f"host '{host}'.*for instance"):
        authority.server_credentials((host,))


@pytest.mark.parametrize(
    "address", ["head", "http://head:8265", "ray://head:10001", "head:99999"]
)
def test_a_wrong_address_of_ray_is_refused_before_ray_sees_it(address: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"Ray address '{address}': .*, or auto$"),
        connect(address),
    ):
        pass


def test_a_name_that_does_not_resolve_is_said_in_our_words(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.ca_pem())
    options = ConnectionOptions(deadline_s=1.0)
    clock = ClockOfWaits()
    connection = Connection(
        *("no-such.invalid:7443", Certificates(ca), options),
        clock=clock,
        sleep=clock.sleep,
    )
    link = Link(connection)
    with contextlib.closing(link), pytest.raises(LinkError) as e:
        list(link.fetch("metadata/timestamp.json", max_bytes=10_000))
    assert "(the name cannot be resolved)" in str(e.value)
