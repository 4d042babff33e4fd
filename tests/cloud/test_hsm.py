"""A key that never leaves a device: SoftHSM, through PKCS#11, as any other module.

Needs the programs of softhsm2 and `pip install python-pkcs11`; skipped without them.
"""

import importlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from repository_site import Node, draft
from securesystemslib.signer import SSlibKey

from cloud.publishing.ceremony import Ceremony
from cloud.publishing.key_files import read_signer
from cloud.publishing.offline_signing import with_signature
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.role_changes import RoleChange
from cloud.publishing.roles import SHORT
from cloud.publishing.signers import open_signer
from common.errors import StorageError, TrustError

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/libsofthsm2.so")
LABEL, PIN, URI = "takt", "5678", "hsm:2?label=takt"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSlibKey]:
    """Make a token with one key; return its public part."""
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    if importlib.util.find_spec("pkcs11") is None:
        pytest.skip("python-pkcs11 is not installed")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "conf").write_text(f"directories.tokendir = {folder}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", os.fspath(folder / "conf"))
        patch.setenv("PYKCS11LIB", module)
        command = ["softhsm2-util", "--init-token", "--free", "--label", LABEL]
        command += ["--pin", PIN, "--so-pin", "1234"]
        subprocess.run(command, check=True, capture_output=True)
        yield make_key(module)


def make_key(module: str) -> SSlibKey:
    """Make a key pair of P-256 in the token, number 2."""
    pkcs11: Any = importlib.import_module("pkcs11")
    ec: Any = importlib.import_module("pkcs11.util.ec")
    token = pkcs11.lib(module).get_token(token_label=LABEL)
    with token.open(user_pin=PIN, rw=True) as session:
        curve = {
            pkcs11.Attribute.EC_PARAMS: ec.encode_named_curve_parameters("secp256r1")
        }
        kind = pkcs11.KeyType.EC
        domain = session.create_domain_parameters(kind, curve, local=True)
        public, _ = domain.generate_keypair(store=True, id=b"\x02", label="sign")
        return SSlibKey.from_crypto(
            load_der_public_key(ec.encode_ec_public_key(public))
        )


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the file of the PIN for targets."""
    path = tmp_path / "pin"
    path.write_text(f"{PIN}\n")
    monkeypatch.setenv("TAKT_TARGETS_SECRET", os.fspath(path))
    return path


@pytest.fixture
def in_device(
    repository: ReleaseRepository,
    ceremony: Ceremony,
    key: SSlibKey,
    pin: Path,
    tmp_path: Path,
) -> ReleaseRepository:
    """Give targets the device's key in the place of the one in the folder."""
    (before,) = tmp_path.glob("keys/targets-*")
    old = before.stem.removeprefix("targets-")
    signers = f'[targets]\n{key.keyid[:SHORT]} = "{URI}"\n'
    (tmp_path / "keys" / "signers.toml").write_text(signers)
    ceremony.change(RoleChange("targets", add=(key,), remove=(old,)))
    before.unlink()
    return repository


def test_a_release_signed_in_a_device_is_accepted_by_nodes_that_knew_another_key(
    node: Node, in_device: ReleaseRepository, knowledge: Path
) -> None:
    assert in_device.publish(draft(), knowledge).version == node.version() == 1


def test_a_root_of_two_keys_is_signed_by_a_file_and_by_a_device(
    node: Node,
    repository: ReleaseRepository,
    ceremony: Ceremony,
    key: SSlibKey,
    tmp_path: Path,
) -> None:
    (file,) = tmp_path.glob("keys/root-*")
    ceremony.change(RoleChange("root", add=(key,)))
    data = ceremony.export("root", RoleChange("root", threshold=2))
    device = open_signer(URI, key, lambda _: PIN, name="the key")
    one = with_signature(data, device, URI)
    with pytest.raises(TrustError, match="1/2 keys"):
        ceremony.accept(one)
    here = read_signer(file, lambda _: "")
    ceremony.accept(with_signature(one, here, str(file)))
    node.updater().refresh()
    assert ceremony.roles()[0].threshold == 2


def test_a_wrong_pin_is_one_line_that_says_so(
    in_device: ReleaseRepository, knowledge: Path, pin: Path
) -> None:
    pin.write_text("0000")
    with pytest.raises(
        StorageError, match=r"targets key hsm:2.*PinIncorrect"
    ) as caught:
        in_device.publish(draft(), knowledge)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_one_line(
    in_device: ReleaseRepository, key: SSlibKey, knowledge: Path, tmp_path: Path
) -> None:
    signers = f'[targets]\n{key.keyid[:SHORT]} = "hsm:2?label=other"\n'
    (tmp_path / "keys" / "signers.toml").write_text(signers)
    with pytest.raises(StorageError, match="No PKCS#11 token found for label other"):
        in_device.publish(draft(), knowledge)
