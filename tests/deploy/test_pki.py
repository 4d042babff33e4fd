"""`takt pki`, as an operator types it."""

import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from gateway_site import make_key, request_for
from typed_verbs import typed

from cloud.pki.authority import Authority
from common.errors import ConfigError, StorageError
from deploy.cli import pki

takt_pki = partial(typed, pki.app)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    takt_pki("init", "--storage", tmp_path, "--host", "gate.example")
    return tmp_path


def test_init_makes_an_authority_and_the_gateways_certificate(storage: Path) -> None:
    pem = (storage / "pki" / "server.crt").read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "gate.example" in names.value.get_values_for_type(x509.DNSName)


def test_allow_prints_a_token_that_enrols(storage: Path) -> None:
    token = takt_pki("allow", "sensor", "--storage", storage).strip()
    authority = Authority(storage / "pki")
    assert authority.enroll("sensor", token, request_for("sensor", make_key()))


def test_allow_without_an_authority_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="takt pki init"):
        takt_pki("allow", "sensor", "--storage", tmp_path)


def test_sign_makes_a_certificate_that_is_let_in(storage: Path) -> None:
    request = storage / "sensor.csr"
    request.write_bytes(request_for("sensor", make_key()))
    out = storage / "sensor.crt"
    takt_pki("sign", "sensor", request, "--storage", storage, "--out", out)
    printed = takt_pki("sign", "sensor", request, "--storage", storage)
    authority = Authority(storage / "pki")
    assert authority.check(printed.encode()) == "sensor"
    assert out.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")


def test_sign_signs_for_as_long_as_the_gateways_config_says(storage: Path) -> None:
    request = storage / "sensor.csr"
    request.write_bytes(request_for("sensor", make_key()))
    sign = ("sign", "sensor", request, "--storage", storage)
    config = ("--config", "digits", "--set", "gateway.node_days=7")
    for more, days in (((), 30), (config, 7)):
        pem = takt_pki(*sign, *more).encode()
        certificate = x509.load_pem_x509_certificate(pem)
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        assert left.days in (days - 1, days)
    with pytest.raises(ConfigError, match="name the gateway's with --config"):
        takt_pki(*sign, "--set", "gateway.node_days=7")


def test_sign_names_a_request_that_is_missing(storage: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csr: No such file"):
        takt_pki("sign", "sensor", storage / "none.csr", "--storage", storage)


def test_list_shows_each_nodes_state(storage: Path) -> None:
    assert "takt pki allow NODE" in takt_pki("list", "--storage", storage)
    authority = Authority(storage / "pki")
    for node in ("sensor", "camera", "hub"):
        token = authority.allow(node)
        if node != "hub":
            authority.enroll(node, token, request_for(node, make_key()))
    takt_pki("revoke", "camera", "--storage", storage)
    states = [
        line.split()[:2] for line in takt_pki("list", "--storage", storage).splitlines()
    ]
    assert states == [["camera", "revoked"], ["hub", "invited"], ["sensor", "allowed"]]


def test_list_shows_when_each_certificate_ends(storage: Path) -> None:
    authority = Authority(storage / "pki")
    present = authority.sign(request_for("sensor", make_key()), "sensor")
    end = x509.load_pem_x509_certificate(present).not_valid_after_utc
    assert f"ends {end:%Y-%m-%d %H:%M}" in takt_pki("list", "--storage", storage)
    authority.renew(present, request_for("sensor", make_key()))
    assert "renewed, not used yet" in takt_pki("list", "--storage", storage)


def test_revoke_names_the_nodes_that_there_are(storage: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sensor' is not.*known: none"):
        takt_pki("revoke", "sensor", "--storage", storage)


def test_the_verbs_load_neither_ray_nor_torch(storage: Path) -> None:
    script = (
        "import sys; from deploy.cli import pki; from typer.testing import CliRunner; "
        f"CliRunner().invoke(pki.app, ['list', '--storage', {str(storage)!r}]); "
        "assert 'cloud.pki.authority' in sys.modules; "
        "print({'ray', 'torch', 'sqlalchemy', 'tuf'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "verb",
    [
        ["list"],
        ["allow", "sensor"],
        ["revoke", "sensor"],
        ["sign", "sensor", "sensor.csr"],
        ["rotate", "targets"],
        ["rotate", "authority"],
        [
            "invite",
            "-c",
            "digits",
            "--out",
            "join",
            "--gateway",
            "a:1",
            "--enroll",
            "a:2",
        ],
    ],
)
def test_a_mistyped_storage_folder_is_refused_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sensor.csr").write_bytes(request_for("sensor", make_key()))
    for made in (False, True):
        if made:
            (tmp_path / "typo").mkdir()
        with pytest.raises(StorageError, match=r"^typo has no .* with --storage, or "):
            takt_pki(*verb, "--storage", "typo")
        assert (tmp_path / "typo").exists() == made
    assert [*(tmp_path / "typo").iterdir()] == []
    assert not (tmp_path / "join").exists()
