"""The first use of a renewed certificate: let in at once, written when it can be."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from gateway_site import (
    Identity,
    Stubs,
    make_key,
    member,
    request_for,
)
from waiting import until

from cloud.gateway.server import GatewayThread
from cloud.pki.authority import Authority
from cloud.storage import StorageDir
from common.durable import locked
from common.errors import IdentityError, StorageError
from common.pb import takt_pb2 as pb

GUARD_S = 30.0  # of a call that must not wait for the list


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayThread]:
    with GatewayThread(storage=StorageDir(tmp_path)) as gateway:
        yield gateway


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "pki")
    authority.init()
    return authority


def renewed(authority: Authority, old: Identity) -> Identity:
    """Let a node have another certificate, for another key."""
    key = make_key()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    request = request_for("sensor", key)
    certificate = authority.renew(old.certificate_pem, request)
    return replace(old, key_pem=key_pem, certificate_pem=certificate)


def beat(stubs: Stubs) -> None:
    stubs.fleet.Heartbeat(pb.HeartbeatRequest(state="idle"), timeout=GUARD_S)


def is_refused(stubs: Stubs) -> bool:
    try:
        beat(stubs)
    except grpc.RpcError as e:
        assert "issued to it later" in str(e.details())
        return True
    return False


def test_nobody_waits_for_the_list_when_a_renewed_certificate_is_first_used(
    gateway: GatewayThread, tmp_path: Path
) -> None:
    """The loop of all calls waited for whoever was changing it."""
    old, other = member(gateway), member(gateway, "camera")
    new = renewed(gateway.running.authority, old)
    with (
        old.open(gateway.address) as with_old,
        new.open(gateway.address) as with_new,
        other.open(gateway.address) as camera,
    ):
        with locked(tmp_path / "pki" / ".allow.json.lock"):
            for _ in range(3):
                beat(with_new)
                beat(camera)
            beat(with_old)  # until the other one's use is written
        until("the old one's end", lambda: is_refused(with_old))
        beat(with_new)


def test_a_renewed_certificate_is_let_in_when_the_disk_is_full(
    gateway: GatewayThread,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = member(gateway)
    new = renewed(gateway.running.authority, old)
    with (
        old.open(gateway.address) as with_old,
        new.open(gateway.address) as with_new,
    ):
        monkeypatch.setenv("TAKT_FAULT", "allow.before_rename:enospc")
        beat(with_new)
        until("the gateway's word of it", lambda: "No space left" in caplog.text)
        beat(with_new)
        beat(with_old)
        monkeypatch.delenv("TAKT_FAULT")
        until("the old one's end", lambda: is_refused(with_old))
        beat(with_new)
    assert caplog.text.count("No space left") == 1


def test_a_node_that_is_revoked_before_its_new_certificate_is_written_stays_out(
    authority: Authority,
) -> None:
    old = authority.sign(request_for("sensor", make_key()), "sensor")
    new = authority.renew(old, request_for("sensor", make_key()))
    assert authority.check(new) == "sensor"
    Authority(authority.folder).revoke("sensor")
    authority.allow_list.note_used()
    for certificate in (old, new):
        with pytest.raises(IdentityError, match="revoked"):
            authority.check(certificate)


def test_a_node_that_enrols_anew_meanwhile_is_not_given_the_renewed_certificate(
    authority: Authority,
) -> None:
    old = authority.sign(request_for("sensor", make_key()), "sensor")
    new = authority.renew(old, request_for("sensor", make_key()))
    assert authority.check(new) == "sensor"
    other = Authority(authority.folder).sign(
        request_for("sensor", make_key()), "sensor"
    )
    authority.allow_list.note_used()
    assert authority.check(other) == "sensor"
    with pytest.raises(IdentityError, match="issued to it later"):
        authority.check(new)


def test_a_renewal_that_a_new_enrolment_overtakes_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had stolen the old certificate threw its owner out by it."""
    stolen = authority.sign(request_for("sensor", make_key()), "sensor")
    token, check = authority.allow("sensor"), authority.check
    owners: list[bytes] = []

    def check_and_be_overtaken(certificate: bytes) -> str:
        node = check(certificate)
        owner = Authority(authority.folder)
        owners.append(owner.enroll(node, token, request_for(node, make_key())))
        return node

    with monkeypatch.context() as patch:
        patch.setattr(authority, "check", check_and_be_overtaken)
        with pytest.raises(IdentityError, match="issued to it later"):
            authority.renew(stolen, request_for("sensor", make_key()))
    assert authority.allow_list.entries()["sensor"].next is None
    assert authority.check(owners[0]) == "sensor"


def test_a_use_is_written_with_whatever_changes_the_list_next(
    authority: Authority,
) -> None:
    old = authority.sign(request_for("sensor", make_key()), "sensor")
    new = authority.renew(old, request_for("sensor", make_key()))
    assert authority.check(new) == "sensor"
    assert authority.check(old) == "sensor"
    authority.allow("camera")
    assert authority.check(new) == "sensor"
    with pytest.raises(IdentityError, match="issued to it later"):
        authority.check(old)


@pytest.mark.parametrize("verb", ["renew", "enroll"])
def test_what_is_asked_for_again_writes_nothing(
    authority: Authority, verb: str
) -> None:
    """Each wrote the whole list, and all admissions were looked up again."""
    request, token = request_for("sensor", make_key()), authority.allow("sensor")
    certificate = authority.enroll("sensor", token, request)

    def ask() -> bytes:
        if verb == "renew":
            return authority.renew(certificate, request)
        return authority.enroll("sensor", token, request)

    first, path = ask(), authority.folder / "allow.json"
    before, state = path.stat(), authority.allow_list.state
    assert [ask() for _ in range(10)] == [first] * 10
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert authority.allow_list.state is state


def test_a_use_that_cannot_be_written_yet_is_kept(authority: Authority) -> None:
    old = authority.sign(request_for("sensor", make_key()), "sensor")
    new = authority.renew(old, request_for("sensor", make_key()))
    assert authority.check(new) == "sensor"
    with (
        locked(authority.folder / ".allow.json.lock"),
        pytest.raises(StorageError, match="another process"),
    ):
        authority.allow_list.note_used()
    assert authority.allow_list.entries()["sensor"].next is not None
    authority.allow_list.note_used()
    assert authority.allow_list.entries()["sensor"].next is None
