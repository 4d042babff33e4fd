"""Addresses: what is taken, how it is written, and what is said of the others."""

import pytest

from common.address import (
    EXAMPLE,
    HOST_EXAMPLE,
    Address,
    is_loopback,
    parse_address,
    parse_certificate_host,
    parse_host,
)


@pytest.mark.parametrize(
    ("text", "host", "written"),
    [
        ("cloud.example:7443", "cloud.example", "cloud.example:7443"),
        ("my_host-1:7443", "my_host-1", "my_host-1:7443"),
        ("127.0.0.1:07443", "127.0.0.1", "127.0.0.1:7443"),
        ("[::1]:7443", "::1", "[::1]:7443"),
        ("[0:0:0:0:0:0:0:1]:7443", "::1", "[::1]:7443"),
        ("[2001:DB8::0001]:7443", "2001:db8::1", "[2001:db8::1]:7443"),
    ],
)
def test_an_address_has_one_written_form(text: str, host: str, written: str) -> None:
    found = parse_address(text)
    assert found == Address(host, 7443)
    assert str(found) == written


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the port is missing"),
        ("cloud.example", "the port is missing"),
        ("cloud.example:", "the port is missing"),
        (":7443", "the host is missing"),
        ("https://cloud.example:7443", r"a scheme \(https://\) does not belong here"),
        ("cloud.example:7443/path", "a path does not belong here"),
        ("me@cloud.example:7443", "a user name does not belong here"),
        (" cloud.example:7443", "a space does not belong here"),
        ("127.0.0.1:99999", "the port 99999 is not from 1 to 65535"),
        ("127.0.0.1:65536", "the port 65536 is not from 1 to 65535"),
        ("127.0.0.1:0", "the port 0 is not from 1 to 65535"),
        ("127.0.0.1:" + "9" * 5000, "is not from 1 to 65535"),
        ("cloud.example:https", "the port 'https' is not a number"),
        ("cloud.example:-1", "the port '-1' is not a number"),
        ("cloud.example:\u0667\u0664", "is not a number"),
        ("::1:7443", "an IPv6 address needs brackets"),
        ("[::1]", "the port is missing"),
        ("[::1:7443", "the bracket of the IPv6 address is not closed"),
        ("[1:2:3]:7443", "'1:2:3' is not an IPv6 address"),
        ("[cloud.example]:7443", "'cloud.example' is not an IPv6 address"),
        ("[fe80::1%eth0]:7443", "the zone %eth0 cannot be in a certificate"),
        ("[fe80::1]:7443", "'fe80::1' cannot be reached without a zone"),
        ("999.1.1.1:7443", "'999.1.1.1' is not an IPv4 address"),
        ("10.1:7443", "'10.1' is not an IPv4 address"),
        ("a..b:7443", r"'a\.\.b' is not a host name"),
        ("cloud,example:7443", "is not a host name"),
        ("h\u00f6st:7443", "is not ASCII: write xn--hst-sna"),
    ],
)
def test_what_is_no_address_is_said_in_one_line_with_an_example(
    text: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as e:
        parse_address(text)
    assert str(e.value).endswith(f"; expected HOST:PORT, for instance {EXAMPLE}")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the host is missing"),
        ("cloud.example:7443", "a port does not belong here"),
        ("https://cloud.example", "a scheme"),
        ("[::1]", "brackets belong only where a port follows"),
        ("fe80::1%eth0", "the zone"),
        ("300.0.0.1", "is not an IPv4 address"),
    ],
)
def test_what_is_no_host_is_said_in_one_line_with_an_example(
    text: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as e:
        parse_host(text)
    assert str(e.value).endswith(f"for instance {HOST_EXAMPLE}")


def test_a_host_has_one_written_form() -> None:
    assert parse_host("0:0:0:0:0:0:0:0") == "::"
    assert parse_host("cloud.example") == "cloud.example"
    assert parse_certificate_host("*.example") == "*.example"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.8.0.1", "::1"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "localhost.example"])
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)
