"""deploy/systemd/takt-edge.service and the config beside it: systemd's own judgement.

Where systemd is installed, its tools read the unit; that it starts and restarts a
daemon is systemd's matter, what the daemon says to it is in test_sd_notify.py.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import WAIT_S

from common.errors import (
    CapError,
    ClockError,
    ConfigError,
    IdentityError,
    LinkError,
    StorageError,
    TaktError,
)
from edge.config import load_edge_config
from edge.daemon.sd_notify import Notifier

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNIT = DEPLOY / "takt-edge.service"
ANALYZE = shutil.which("systemd-analyze")
PROGRAM = "/opt/takt/.venv/bin/takt"
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")


def service_section() -> dict[str, list[str]]:
    """The keys of [Service]; a key may come several times."""
    keys: dict[str, list[str]] = {}
    text = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            keys.setdefault(key, []).append(value)
    return keys


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    assert ANALYZE is not None
    return subprocess.run(
        [ANALYZE, *map(str, arguments)], capture_output=True, text=True, timeout=WAIT_S
    )


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name  # takt itself is not installed in /opt
    here.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    done = analyze("verify", "--man=no", here)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_rates_the_exposure_of_the_service_as_ok_or_better() -> None:
    # "OK" is below 5.0; the threshold is in tenths, and here stricter than that.
    done = analyze("security", "--offline=true", "--threshold=25", "--no-pager", UNIT)
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_the_daemon_owns_the_groups_below_its_own() -> None:
    # Read-only control groups would leave the child with the watchdog only.
    section = service_section()
    assert section["Delegate"] == ["cpu memory pids"]
    assert "ProtectControlGroups" not in section


def test_it_runs_as_an_ordinary_user_who_gains_nothing() -> None:
    section = service_section()
    assert section["User"] == ["takt"]
    assert section["NoNewPrivileges"] == ["yes"]
    assert section["CapabilityBoundingSet"] == [""]


def test_it_is_not_restarted_for_what_only_a_person_can_mend() -> None:
    lasting: list[type[TaktError]] = [ConfigError, CapError, IdentityError]
    codes = service_section()["RestartPreventExitStatus"][0].split()
    assert codes == [str(error.exit_code) for error in lasting]


def test_it_is_restarted_for_what_may_mend() -> None:
    passing: list[type[TaktError]] = [LinkError, StorageError, ClockError]
    codes = service_section()["RestartPreventExitStatus"][0].split()
    assert service_section()["Restart"] == ["always"]
    assert not {str(error.exit_code) for error in passing} & set(codes)


def test_the_config_beside_the_unit_suits_its_folders_and_its_watchdog(
    tmp_path: Path,
) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes((DEPLOY / "edge.toml").read_bytes())
    config = load_edge_config(path)
    assert service_section()["StateDirectory"] == [config.state_dir.name]
    assert config.state_dir == Path("/var/lib/takt")
    assert config.ca is not None and config.ca.parent == Path("/etc/takt")
    assert service_section()["WatchdogSec"] == ["3min"]
    Notifier({"WATCHDOG_USEC": str(180_000_000)}).check_watchdog(config)
