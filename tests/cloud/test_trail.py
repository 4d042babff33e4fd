"""The trail: what is done with trust leaves a line, and no line changes unseen."""

import hashlib
import multiprocessing
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from gateway_site import make_key, request_for
from typer.testing import CliRunner
from victims import armed

from cloud.pki.authority import Authority
from cloud.publishing.repository import ReleaseRepository
from cloud.trail import START, Trail
from common.errors import IdentityError, StorageError, TaktError
from deploy.cli import pki

# A process that has the module but no thread forks the others.
OTHERS = multiprocessing.get_context("forkserver")
OTHERS.set_forkserver_preload(["cloud.trail", "edge.daemon"])


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    trail = Trail(tmp_path / "trail.log")
    for node in ("sensor", "camera", "hub"):
        trail.record("allow", node)
    return trail


def lines_of(trail: Trail) -> list[bytes]:
    return trail.path.read_bytes().splitlines(keepends=True)


def record_many(path: Path, who: str, start: Barrier) -> None:
    start.wait()
    for number in range(30):
        Trail(path).record("allow", f"{who}-{number}", who=who)


def record_one(path: Path) -> None:
    Trail(path).record("revoke", "hub")


def test_what_the_gateway_signs_again_by_itself_leaves_an_entry_and_no_more(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    repository, keys = tmp_path / "repository", tmp_path / "keys"
    ReleaseRepository(repository, keys, clock=lambda: now).create()
    for pem in keys.glob("targets-*"):
        pem.unlink()
    later = now + timedelta(days=16)
    then = ReleaseRepository(repository, keys, clock=lambda: later)
    for _ in range(3):  # of targets, whose key has gone, nothing is signed
        then.refresh()
    said = [f"{e.action} {e.subject}" for e in Trail(tmp_path / "trail.log").entries()]
    assert said == ["create root 1", "refresh timestamp 3", "refresh snapshot 3"]


def test_the_gateways_own_certificates_leave_their_entries(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    for hosts in ((), (), ("gate.example",)):
        authority.server_credentials(hosts)
    entries = Trail(tmp_path / "trail.log").entries()
    assert [f"{e.action} {e.subject}" for e in entries] == ["renew the gateway"] * 2
    assert entries[0].digest != entries[1].digest


def test_a_chain_that_nobody_touched_is_whole(trail: Trail) -> None:
    head = trail.verify()
    assert head.number == 3
    assert lines_of(trail)[-1].startswith(head.digest.encode())
    assert [e.subject for e in trail.entries()] == ["sensor", "camera", "hub"]


def test_no_trail_is_an_empty_chain(tmp_path: Path) -> None:
    assert Trail(tmp_path / "trail.log").verify().digest == START


def test_every_flipped_bit_is_seen_and_its_line_named(trail: Trail) -> None:
    data = trail.path.read_bytes()
    for at in range(len(data) - 1):
        changed = bytearray(data)
        changed[at] ^= 1
        trail.path.write_bytes(changed)
        line = data[:at].count(b"\n") + 1
        with pytest.raises(StorageError, match=rf"line {line} is broken"):
            trail.verify()


def edits() -> list[tuple[str, Callable[[list[bytes]], list[bytes]], int]]:
    return [
        ("first removed", lambda found: found[1:], 1),
        ("middle removed", lambda found: [found[0], found[2]], 2),
        ("reordered", lambda found: [found[0], found[2], found[1]], 2),
        ("repeated", lambda found: [*found, found[2]], 4),
        ("torn", lambda found: [*found[:2], found[2][:-9]], 3),
    ]


@pytest.mark.parametrize(
    ("edit", "line"), [pytest.param(e, at, id=name) for name, e, at in edits()]
)
def test_a_changed_order_of_lines_is_seen_and_named(
    trail: Trail, edit: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    trail.path.write_bytes(b"".join(edit(lines_of(trail))))
    with pytest.raises(StorageError, match=rf"line {line} is broken"):
        trail.verify()


def test_lines_cut_off_at_the_end_show_by_a_head_kept_elsewhere(trail: Trail) -> None:
    kept = trail.verify().digest
    trail.path.write_bytes(b"".join(lines_of(trail)[:2]))
    trail.verify()
    with pytest.raises(
        StorageError, match=f"no entry with the expected head {kept[:12]}"
    ):
        trail.verify(expected_head=kept)


def test_a_chain_that_has_grown_has_its_old_head(trail: Trail) -> None:
    kept = trail.verify().digest
    trail.record("revoke", "hub")
    assert trail.verify(expected_head=kept).number == 4


def test_a_chain_made_again_has_another_head(trail: Trail, tmp_path: Path) -> None:
    again = Trail(tmp_path / "again.log")
    for node in ("sensor", "camera"):
        again.record("allow", node)
    with pytest.raises(StorageError, match="expected head"):
        again.verify(expected_head=trail.verify().digest)


def test_a_last_line_torn_anywhere_is_cut_off_and_noted(
    trail: Trail, caplog: pytest.LogCaptureFixture
) -> None:
    lines = lines_of(trail)
    for kept in (1, 30, 64, 65, 66, 150, len(lines[2]) - 1):
        trail.path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
        trail.record("revoke", "sensor")
        actions = [entry.action for entry in trail.entries()]
        assert actions == ["allow", "allow", "mend", "revoke"]
    mend = trail.entries()[2]
    assert mend.digest == hashlib.sha256(lines[2][:-1]).hexdigest()
    assert "line 3 was torn by a kill" in caplog.text


def test_nothing_is_added_to_a_damaged_last_line(trail: Trail) -> None:
    data = trail.path.read_bytes()
    trail.path.write_bytes(data[:-5] + b"x" + data[-4:])
    with pytest.raises(
        StorageError, match=r"last line of .* is damaged; keep the file"
    ):
        trail.record("revoke", "hub")


def test_a_full_disk_leaves_the_chain_and_the_act_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    certificate = authority.sign(request_for("sensor", make_key()), "sensor")
    before = authority.trail.path.read_bytes()
    monkeypatch.setenv("TAKT_FAULT", "trail.written:enospc")
    with pytest.raises(StorageError, match="No space left"):
        authority.revoke("sensor")
    assert authority.trail.path.read_bytes() == before
    assert authority.check(certificate) == "sensor"


def test_writers_of_several_processes_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "trail.log"
    start = OTHERS.Barrier(2)
    writers = [
        OTHERS.Process(target=record_many, args=(path, name, start)) for name in "ab"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = [entry.subject for entry in Trail(path).entries()]
    assert sorted(found) == sorted(f"{w}-{n}" for w in "ab" for n in range(30))


@pytest.mark.parametrize("moment", ["before_write", "written", "synced"])
def test_a_kill_leaves_a_whole_chain_with_or_without_the_entry(
    trail: Trail, moment: str
) -> None:
    victim = OTHERS.Process(
        target=armed, args=(f"trail.{moment}:kill", record_one, trail.path)
    )
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert trail.verify().number == (3 if moment == "before_write" else 4)


def test_each_act_of_the_authority_leaves_its_entry(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    token = authority.allow("sensor")
    authority.enroll("sensor", token, request_for("sensor", make_key()))
    authority.sign(request_for("hub", make_key()), "hub")
    authority.revoke("sensor")
    found = [(e.action, e.subject) for e in Trail(tmp_path / "trail.log").entries()]
    assert found == [
        ("allow", "sensor"),
        ("enrol", "sensor"),
        ("sign", "hub"),
        ("revoke", "sensor"),
    ]


def test_an_entry_names_the_certificate_and_who_asked_for_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    authority.enroll("hub", authority.allow("hub"), request_for("hub", make_key()))
    allowed, enrolled = authority.trail.entries()
    bound = authority.allow_list.entries()["hub"].certificate_sha256
    assert (enrolled.who, enrolled.digest) == ("node hub", bound)
    assert "@" in allowed.who


def test_what_was_refused_leaves_no_entry(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    with pytest.raises(IdentityError):
        authority.enroll("hub", "wrong", request_for("hub", make_key()))
    assert authority.trail.entries() == []


def test_a_creation_and_a_rotation_name_the_root_before_and_after(
    tmp_path: Path,
) -> None:
    repository = ReleaseRepository(tmp_path / "repository", tmp_path / "keys")
    repository.create()
    roots = [hashlib.sha256(repository.root_json()).hexdigest()]
    repository.rotate("targets")
    roots.append(hashlib.sha256(repository.root_json()).hexdigest())
    entries = Trail(tmp_path / "trail.log").entries()
    assert [(e.action, e.subject) for e in entries] == [
        ("create", "root 1"),
        ("rotate", "targets"),
        ("rotated", "targets"),
    ]
    assert [e.digest for e in entries] == [roots[0], *roots]


def takt_pki_log(*arguments: str | Path) -> str:
    result = CliRunner().invoke(pki.app, ["log", *map(str, arguments)])
    if isinstance(result.exception, TaktError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_verb_shows_the_entries_and_checks_the_chain(tmp_path: Path) -> None:
    Authority(tmp_path / "pki").init()
    Authority(tmp_path / "pki").allow("sensor")
    assert takt_pki_log("--storage", tmp_path).split()[4:6] == ["allow", "sensor"]
    printed = takt_pki_log("--storage", tmp_path, "--verify")
    head = printed.split()[-1]
    assert printed == f"1 entry, unbroken; head {head}\n"
    takt_pki_log("--storage", tmp_path, "--expect-head", head)
    with pytest.raises(StorageError, match="expected head"):
        takt_pki_log("--storage", tmp_path, "--expect-head", "0" * 63 + "1")


def test_a_renewal_leaves_its_entry(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init()
    present = authority.sign(request_for("hub", make_key()), "hub")
    authority.renew(present, request_for("hub", make_key()))
    entry = authority.trail.entries()[-1]
    assert (entry.action, entry.subject, entry.who) == ("renew", "hub", "node hub")
