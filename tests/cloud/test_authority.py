"""The project's authority: who gets a certificate, and who may connect with it."""

import base64
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from clocks import Clock
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.pki.authority import Authority, Lifetimes
from cloud.pki.certificates import claim_of
from common.errors import ConfigError, IdentityError, StorageError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    authority = Authority(tmp_path / "pki", clock=clock)
    authority.init()
    return authority


def request_for(name: str, key: PrivateKey | None = None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def join(authority: Authority, node: str) -> bytes:
    return authority.enroll(node, authority.allow(node), request_for(node))


def test_a_certificate_is_for_its_node_and_for_clients_only(
    authority: Authority,
) -> None:
    certificate = x509.load_pem_x509_certificate(join(authority, "sensor"))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert certificate.subject.rfc4514_string() == "CN=sensor"
    assert names.value.get_values_for_type(x509.DNSName) == ["sensor"]
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not constraints.value.ca
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate(authority.ca_pem())
    )


def test_an_enrolled_node_is_accepted_by_name(authority: Authority) -> None:
    assert authority.check(join(authority, "sensor")) == "sensor"


def test_a_token_works_once(authority: Authority) -> None:
    token = authority.allow("sensor")
    authority.enroll("sensor", token, request_for("sensor"))
    with pytest.raises(IdentityError, match=r"used already.*takt pki allow sensor"):
        authority.enroll("sensor", token, request_for("sensor"))


def test_two_uses_of_one_token_at_once_give_one_certificate(
    authority: Authority,
) -> None:
    token = authority.allow("sensor")
    outcomes: list[str] = []

    def enroll() -> None:
        try:
            authority.enroll("sensor", token, request_for("sensor"))
            outcomes.append("certificate")
        except IdentityError:
            outcomes.append("refused")

    threads = [threading.Thread(target=enroll) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["certificate", "refused", "refused", "refused"]


@pytest.mark.parametrize("token", ["", "wrong", "é" * 40])
def test_a_wrong_token_is_refused_and_leaves_the_right_one(
    authority: Authority, token: str
) -> None:
    right = authority.allow("sensor")
    with pytest.raises(IdentityError, match="wrong"):
        authority.enroll("sensor", token, request_for("sensor"))
    assert authority.enroll("sensor", right, request_for("sensor"))


def test_a_token_is_for_the_node_it_was_made_for(authority: Authority) -> None:
    token = authority.allow("sensor")
    authority.allow("camera")
    with pytest.raises(IdentityError, match="'camera' is wrong"):
        authority.enroll("camera", token, request_for("camera"))


def test_a_token_that_was_never_fetched_expires(
    authority: Authority, clock: Clock
) -> None:
    token = authority.allow("sensor")
    clock.now += timedelta(days=8)
    with pytest.raises(IdentityError, match="expired 2026-06-08"):
        authority.enroll("sensor", token, request_for("sensor"))


def test_a_newer_token_voids_the_older_one(authority: Authority) -> None:
    older = authority.allow("sensor")
    authority.allow("sensor")
    with pytest.raises(IdentityError, match="wrong"):
        authority.enroll("sensor", older, request_for("sensor"))


def test_the_list_does_not_hold_tokens_in_the_clear(authority: Authority) -> None:
    token = authority.allow("sensor")
    assert token.encode() not in (authority.folder / "allow.json").read_bytes()


def test_a_request_in_another_name_is_refused(authority: Authority) -> None:
    token = authority.allow("sensor")
    with pytest.raises(ConfigError, match="'camera', expected 'sensor'"):
        authority.enroll("sensor", token, request_for("camera"))


@pytest.mark.parametrize("node", ["", "-x", "A", "a/b", "../x", "a\0", "a" * 64, "é"])
def test_what_is_no_name_is_refused(authority: Authority, node: str) -> None:
    with pytest.raises(ConfigError, match="node name"):
        authority.allow(node)
    with pytest.raises(ConfigError, match="node name"):
        authority.enroll(node, "token", request_for("sensor"))


def _flip(pem: bytes) -> bytes:
    request = x509.load_pem_x509_csr(pem)
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1  # inside the signature
    body = base64.encodebytes(bytes(der))
    mark = b"CERTIFICATE REQUEST-----\n"
    return b"-----BEGIN " + mark + body + b"-----END " + mark


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "not a PEM signing request"),
        (lambda: b"\xff" * 1000, "not a PEM signing request"),
        (lambda: b"x" * 20_000, "expected at most"),
        (lambda: _flip(request_for("sensor")), "not signed by the key in it|not a PEM"),
        (
            lambda: request_for("sensor", rsa.generate_private_key(65537, 1024)),
            "too weak",
        ),
        (
            lambda: request_for("sensor", ec.generate_private_key(ec.SECP256K1())),
            "unusual kind",
        ),
    ],
    ids=["empty", "garbage", "huge", "forged", "weak", "curve"],
)
def test_a_bad_request_is_refused_and_leaves_the_token(
    authority: Authority, make: Callable[[], bytes], message: str
) -> None:
    token = authority.allow("sensor")
    with pytest.raises(ConfigError, match=message):
        authority.enroll("sensor", token, make())
    assert authority.enroll("sensor", token, request_for("sensor"))


def test_only_the_latest_certificate_of_a_node_is_accepted(
    authority: Authority,
) -> None:
    first = join(authority, "sensor")
    second = join(authority, "sensor")
    assert authority.check(second) == "sensor"
    with pytest.raises(IdentityError, match="two nodes share the name"):
        authority.check(first)


def test_an_invited_node_keeps_its_certificate_until_it_enrols_again(
    authority: Authority,
) -> None:
    certificate = join(authority, "sensor")
    authority.allow("sensor")
    assert authority.check(certificate) == "sensor"


def test_a_node_that_never_enrolled_is_refused_with_the_fix(
    authority: Authority, tmp_path: Path, clock: Clock
) -> None:
    other = Authority(tmp_path / "other", clock=clock)
    other.init()
    with pytest.raises(IdentityError, match=r"'sensor' is not on.*pki allow sensor"):
        authority.check(other.sign(request_for("sensor"), "sensor"))


def test_a_revoked_node_is_refused_also_by_its_unused_token(
    authority: Authority,
) -> None:
    certificate = join(authority, "sensor")
    token = authority.allow("sensor")
    authority.revoke("sensor")
    with pytest.raises(IdentityError, match="revoked"):
        authority.check(certificate)
    with pytest.raises(IdentityError, match="wrong or was used"):
        authority.enroll("sensor", token, request_for("sensor"))


def test_a_revoked_node_can_be_taken_back(authority: Authority) -> None:
    old = join(authority, "sensor")
    authority.revoke("sensor")
    assert authority.check(join(authority, "sensor")) == "sensor"
    with pytest.raises(IdentityError, match="issued to it later"):
        authority.check(old)


def test_a_revoked_node_stays_out_while_it_is_only_invited(
    authority: Authority,
) -> None:
    old = join(authority, "sensor")
    authority.revoke("sensor")
    authority.allow("sensor")
    with pytest.raises(IdentityError):
        authority.check(old)


def test_revoking_a_node_that_is_not_there_lists_those_that_are(
    authority: Authority,
) -> None:
    join(authority, "sensor")
    with pytest.raises(ConfigError, match=r"'camera' is not.*known: sensor"):
        authority.revoke("camera")


def test_a_certificate_past_its_end_is_refused_with_both_dates(
    authority: Authority, clock: Clock
) -> None:
    certificate = join(authority, "sensor")
    clock.now += timedelta(days=366)
    with pytest.raises(
        IdentityError, match="to 2026-07-01 00:00 UTC, now is 2027-06-0"
    ):
        authority.check(certificate)


def test_a_certificate_is_parsed_at_its_first_call_only(authority: Authority) -> None:
    certificate = join(authority, "sensor")
    authority.check(certificate)
    parsed = claim_of.cache_info().misses
    authority.check(certificate)
    assert claim_of.cache_info().misses == parsed


def test_a_parsed_certificate_still_ends(authority: Authority, clock: Clock) -> None:
    certificate = join(authority, "sensor")
    authority.check(certificate)
    clock.now += timedelta(days=366)
    with pytest.raises(IdentityError, match="is valid from"):
        authority.check(certificate)


def test_a_parsed_certificate_is_still_revoked_by_another_process(
    authority: Authority,
) -> None:
    certificate = join(authority, "sensor")
    authority.check(certificate)
    Authority(authority.folder).revoke("sensor")
    with pytest.raises(IdentityError, match="revoked"):
        authority.check(certificate)


def test_what_another_process_changes_is_seen(authority: Authority) -> None:
    certificate = join(authority, "sensor")
    assert authority.check(certificate) == "sensor"
    Authority(authority.folder).revoke("sensor")
    with pytest.raises(IdentityError, match="revoked"):
        authority.check(certificate)


def test_many_invitations_at_once_are_all_kept(authority: Authority) -> None:
    nodes = [f"node-{i}" for i in range(12)]
    threads = [
        threading.Thread(target=Authority(authority.folder).allow, args=(node,))
        for node in nodes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(authority.allow_list.entries()) == set(nodes)


@pytest.mark.parametrize("content", [b"", b"{", b'{"nodes": {"a": 3}}', b"\xff"])
def test_a_damaged_list_lets_nobody_in(authority: Authority, content: bytes) -> None:
    certificate = join(authority, "sensor")
    (authority.folder / "allow.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"allow\.json.*restore it"):
        authority.check(certificate)


def test_a_full_disk_leaves_the_list_as_it_was(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = join(authority, "sensor")
    monkeypatch.setenv("TAKT_FAULT", "allow.before_rename:enospc")
    with pytest.raises(StorageError, match="No space left"):
        authority.revoke("sensor")
    assert authority.check(certificate) == "sensor"


def test_private_keys_are_for_their_owner_only(authority: Authority) -> None:
    authority.server_credentials()
    join(authority, "sensor")
    for name in ("ca.key", "server.key", "allow.json"):
        assert stat.S_IMODE((authority.folder / name).stat().st_mode) == 0o600


def test_init_again_keeps_the_authority(authority: Authority) -> None:
    before = authority.ca_pem()
    authority.init()
    assert authority.ca_pem() == before


def test_without_init_the_fix_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="takt pki init"):
        Authority(tmp_path / "pki").server_credentials()


def _server_names(pem: bytes) -> set[str]:
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in names.value}


def test_the_server_certificate_names_its_hosts_and_this_machine(
    authority: Authority,
) -> None:
    pem = authority.server_credentials(("gate.example", "10.0.0.7")).certificate
    assert _server_names(pem) == {"gate.example", "10.0.0.7", "localhost", "127.0.0.1"}


def test_the_server_certificate_is_kept_while_it_serves(authority: Authority) -> None:
    first = authority.server_credentials(("gate.example",))
    assert authority.server_credentials(("gate.example",)) == first


def test_a_new_host_gets_a_new_server_certificate(authority: Authority) -> None:
    authority.server_credentials(("gate.example",))
    pem = authority.server_credentials(("door.example",)).certificate
    assert "door.example" in _server_names(pem)


def test_the_server_certificate_is_renewed_before_it_ends(
    authority: Authority, clock: Clock
) -> None:
    first = authority.server_credentials()
    clock.now += timedelta(days=300)
    second = authority.server_credentials()
    assert second.certificate != first.certificate


def test_a_server_key_that_does_not_belong_is_replaced(authority: Authority) -> None:
    first = authority.server_credentials()
    (authority.folder / "server.key").write_bytes(
        (authority.folder / "ca.key").read_bytes()
    )
    assert authority.server_credentials().certificate != first.certificate


def test_lifetimes_are_what_they_are_set_to(tmp_path: Path, clock: Clock) -> None:
    authority = Authority(
        tmp_path, clock=clock, lifetimes=Lifetimes(node=timedelta(hours=2))
    )
    authority.init()
    certificate = x509.load_pem_x509_certificate(join(authority, "sensor"))
    assert certificate.not_valid_after_utc == clock.now + timedelta(hours=2)


def test_a_host_that_is_no_name_is_a_config_error(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="neither an IP address nor"):
        authority.server_credentials(("höst",))
