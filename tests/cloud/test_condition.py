"""What an operator must mend, said by the gateway and by its check in time."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gateway_site import DEADLINE_S, member

from cloud.gateway.condition import DATABASE, DISK, MIN_FREE_BYTES, SIGNATURES
from cloud.gateway.probe import check_gateway
from cloud.gateway.server import GatewayThread
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from common.durable import locked
from common.errors import StorageError


def look(gateway: GatewayThread) -> dict[str, str]:
    """Let a gateway look now; return what is wrong."""
    condition = gateway.running.condition
    asyncio.run_coroutine_threadsafe(condition.look(), gateway.loop).result(DEADLINE_S)
    return dict(condition.problems)


def keys_of(storage: StorageDir, role: str) -> Path:
    (key,) = storage.keys.glob(f"{role}-*")
    return key


@contextmanager
def signed_ago(storage: StorageDir, days: float, *, missing: str) -> Iterator[Path]:
    """Make a repository so long ago whose one key has gone; yield where it went."""
    past = datetime.now(UTC) - timedelta(days=days)
    ReleaseRepository(storage.repository, storage.keys, clock=lambda: past).create()
    key = keys_of(storage, missing)
    away = storage.root / key.name
    key.rename(away)
    yield away


@pytest.mark.parametrize(
    ("role", "days", "bound"), [("root", 310, 60), ("targets", 21, 10)]
)
def test_metadata_near_its_end_is_said_by_the_log_the_health_and_the_check(
    storage: StorageDir,
    caplog: pytest.LogCaptureFixture,
    role: str,
    days: int,
    bound: int,
) -> None:
    with (
        signed_ago(storage, days, missing=role) as away,
        GatewayThread(storage=storage) as gateway,
    ):
        assert list(look(gateway)) == [SIGNATURES]
        said = rf"{role} metadata ends on 20.*expected more than {bound} days"
        way = f".*bring the {role} key to .* or sign what `takt keys export {role}`"
        with pytest.raises(StorageError, match=f"answers, but {said}{way}"):
            check_gateway(storage)
        errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert [role in e and "bring the" in e for e in errors] == [True]
        away.rename(storage.keys / away.name)
        assert look(gateway) == {}
        assert check_gateway(storage) == gateway.address


@pytest.mark.parametrize(("role", "days"), [("root", 200), ("targets", 16)])
def test_a_key_that_is_elsewhere_is_no_problem_before_that(
    storage: StorageDir, role: str, days: int
) -> None:
    with (
        signed_ago(storage, days, missing=role),
        GatewayThread(storage=storage) as gateway,
    ):
        assert look(gateway) == {}
        assert check_gateway(storage) == gateway.address


@pytest.mark.parametrize(("role", "days"), [("timestamp", 0.55), ("snapshot", 16)])
def test_a_role_that_is_always_signed_here_is_said_at_once(
    storage: StorageDir, role: str, days: float
) -> None:
    with (
        signed_ago(storage, days, missing=role),
        GatewayThread(storage=storage) as gateway,
    ):
        assert f"cannot read the {role} key" in look(gateway)[SIGNATURES]
        with pytest.raises(StorageError, match=r"takt\.signatures.*gateway\.log"):
            check_gateway(storage)


def test_a_database_that_refuses_is_said_until_it_works_again(
    storage: StorageDir,
) -> None:
    with (
        GatewayThread(storage=storage) as gateway,
        closing(sqlite3.connect(storage.fleet)) as other,
    ):
        other.execute("ALTER TABLE nodes RENAME TO gone")
        assert "cannot write the fleet's database" in look(gateway)[DATABASE]
        with pytest.raises(StorageError, match=r"takt\.database must be mended"):
            check_gateway(storage)
        other.execute("ALTER TABLE gone RENAME TO nodes")
        assert look(gateway) == {}
        assert check_gateway(storage) == gateway.address


def test_a_disk_that_refuses_is_said_and_nodes_are_served(
    storage: StorageDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GatewayThread(storage=storage) as gateway:
        with monkeypatch.context() as patch:
            patch.setenv("TAKT_FAULT", "gateway.disk:enospc")
            assert "No space left" in look(gateway)[DISK]
        with pytest.raises(StorageError, match=r"takt\.disk must be mended"):
            check_gateway(storage)
        # Serve would not make it better by another gateway.
        check = gateway.running.check()
        asyncio.run_coroutine_threadsafe(check, gateway.loop).result(DEADLINE_S)
        with member(gateway).open(gateway.address) as stubs:
            assert stubs.fetch("metadata/timestamp.json")
        before = sorted(storage.root.iterdir())
        assert look(gateway) == {}
        assert sorted(storage.root.iterdir()) == before


def test_a_repository_that_another_process_holds_is_said_and_the_rest_looked_at(
    storage: StorageDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publish that was stopped, or waited for a device, made the watch blind."""
    monkeypatch.setattr("cloud.gateway.condition.LOCK_WAIT_S", 0.1)
    monkeypatch.setenv("TAKT_FAULT", "gateway.disk:enospc")
    with (
        GatewayThread(storage=storage) as gateway,
        closing(sqlite3.connect(storage.fleet)) as other,
    ):
        other.execute("ALTER TABLE nodes RENAME TO gone")
        with locked(storage.repository / ".lock"):
            problems = look(gateway)
            assert set(problems) == {SIGNATURES, DATABASE, DISK}
            assert "another process has held it for" in problems[SIGNATURES]
            with pytest.raises(StorageError, match=r"takt\.signatures must be mended"):
                check_gateway(storage)
        assert SIGNATURES not in look(gateway)


@pytest.mark.parametrize("left", [MIN_FREE_BYTES - 1, MIN_FREE_BYTES])
def test_a_disk_that_is_nearly_full_is_said(
    storage: StorageDir, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    monkeypatch.setattr(
        "shutil.disk_usage", lambda _: type("Usage", (), {"free": left})()
    )
    with GatewayThread(storage=storage) as gateway:
        assert (DISK in look(gateway)) == (left < MIN_FREE_BYTES)


def test_what_stays_wrong_is_logged_once(
    storage: StorageDir, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        signed_ago(storage, 21, missing="targets"),
        GatewayThread(storage=storage) as gateway,
    ):
        look(gateway)
        look(gateway)
        assert sum(SIGNATURES in r.getMessage() for r in caplog.records) == 1
        assert sum("cannot sign" in r.getMessage() for r in caplog.records) == 1
