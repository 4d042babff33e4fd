"""Proxy variables: not used to this machine, named where they are in the way."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clocks import ClockOfWaits
from edge_site import connection_of, edge_site

from cloud.pki.authority import Authority
from common.errors import LinkError
from edge.credentials import Certificates
from edge.link.client import Link
from edge.link.connection import Connection, ConnectionOptions
from edge.link.proxy import NO_PROXY, Proxy, proxy_to

DEAD = "http://127.0.0.1:9"
CLOUD = "cloud.example:7443"


@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "http_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_this_machine_is_reached_directly(name: str, host: str) -> None:
    assert proxy_to(f"{host}:7443", None, {name: DEAD}) is None
    assert proxy_to(f"{host}:7443", "proxy.example:3128", {}) is None


@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_elsewhere_the_variable_counts(name: str) -> None:
    assert proxy_to(CLOUD, None, {name: DEAD}) == Proxy(DEAD, name)


def test_networks_that_are_spared_are_reached_directly() -> None:
    env = {"https_proxy": DEAD, "no_proxy": "10.0.0.0/8,2001:db8::/32"}
    assert proxy_to("10.1.2.3:7443", None, env) is None
    assert proxy_to("[2001:db8::1]:7443", None, env) is None
    assert proxy_to("11.1.2.3:7443", None, env) == Proxy(DEAD, "https_proxy")


@pytest.mark.parametrize("name", ["no_grpc_proxy", "no_proxy"])
@pytest.mark.parametrize(
    "hosts", ["cloud.example", ".example", "a, cloud.example", "*"]
)
def test_hosts_that_are_spared_are_reached_directly(name: str, hosts: str) -> None:
    assert proxy_to(CLOUD, None, {"https_proxy": DEAD, name: hosts}) is None


def test_the_key_of_edge_toml_comes_before_the_variables() -> None:
    env = {"https_proxy": DEAD, "no_proxy": "other.example"}
    found = proxy_to(CLOUD, "proxy.example:3128", env)
    assert found == Proxy("http://proxy.example:3128", "`proxy` in edge.toml")
    assert proxy_to(CLOUD, NO_PROXY, env) is None


def test_a_proxys_password_is_not_shown() -> None:
    shown = str(Proxy("http://me:secret@proxy.example:3128", "https_proxy"))
    assert shown == "http://proxy.example:3128 of https_proxy"


def test_a_node_reaches_a_gateway_of_this_machine_whatever_proxy_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", DEAD)
    monkeypatch.setenv("grpc_proxy", DEAD)
    with edge_site(tmp_path) as site:
        site.publish_noise()
        link = Link(connection_of(site.join("sensor")))
        with contextlib.closing(link):
            assert list(link.fetch("metadata/timestamp.json", max_bytes=10_000))


@pytest.mark.parametrize("key", [None, "127.0.0.1:9"])
def test_a_gateway_that_a_proxy_hides_is_an_error_that_names_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("https_proxy", DEAD)
    authority = Authority(tmp_path / "pki")
    authority.init()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.ca_pem())
    options = ConnectionOptions(deadline_s=0.5, proxy=key)
    clock = ClockOfWaits()
    gateway = ("192.0.2.1:7443", Certificates(ca), options)
    link = Link(Connection(*gateway, clock=clock, sleep=clock.sleep))
    with contextlib.closing(link), pytest.raises(LinkError) as e:
        list(link.fetch("metadata/timestamp.json", max_bytes=10_000))
    source = "`proxy` in edge.toml" if key else "https_proxy"
    message = str(e.value)
    assert f"through the proxy {DEAD} of {source} (connection refused" in message
    assert '`proxy = "none"` in edge.toml' in message


def test_no_connection_is_opened_past_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.ca_pem())
    clock, past_the_proxy = ClockOfWaits(), list[object]()
    monkeypatch.setattr(
        socket, "create_connection", lambda *where: past_the_proxy.append(where)
    )
    with closing_server() as proxy:
        options = ConnectionOptions(deadline_s=0.5, proxy=proxy)
        gateway = ("192.0.2.1:7443", Certificates(ca), options)
        link = Link(Connection(*gateway, clock=clock, sleep=clock.sleep))
        with contextlib.closing(link), pytest.raises(LinkError, match="the proxy"):
            list(link.fetch("metadata/timestamp.json", max_bytes=10_000))
    assert not past_the_proxy


@contextlib.contextmanager
def closing_server() -> Iterator[str]:
    """Take connections and close them; yield host:port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
