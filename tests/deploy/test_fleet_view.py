"""`takt cloud nodes`: what an operator sees of nodes, of heartbeats and reports."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cloud.fleet.database import Fleet, sqlite_url
from cloud.storage import StorageDir
from common.pb.takt_pb2 import Evaluation, HeartbeatRequest, Profile, ReportRequest
from deploy.cli.cloud import app
from deploy.report.fleet import print_fleet, read_fleet

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def robust(accuracy: float) -> Evaluation:
    return Evaluation(
        attack="pgd",
        version="10 steps",
        norm="Linf",
        eps=0.15,
        num_images=100,
        accuracy=accuracy,
    )


def report(**changes: object) -> ReportRequest:
    fields: dict[str, object] = {
        "channel": "digits",
        "version": 2,
        "student": "tiny",
        "profile": Profile(cpus=0.5, memory_mib=500, bandwidth_kib_s=64),
        "outcome": "promoted",
        "pulled_bytes": 2048,
        "clean_accuracy": 0.9,
        "robust": [robust(0.6)],
    }
    return ReportRequest(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def storage(tmp_path: Path) -> StorageDir:
    folder = StorageDir(tmp_path / "storage")
    folder.ca.parent.mkdir(parents=True)
    folder.ca.touch()
    return folder


@pytest.fixture
def fleet(storage: StorageDir) -> Iterator[Fleet]:
    fleet = Fleet(sqlite_url(storage.fleet), clock=lambda: NOW - timedelta(minutes=3))
    yield fleet
    fleet.close()


def shown(storage: StorageDir, width: int = 200) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    print_fleet(read_fleet(storage.fleet), console, clock=lambda: NOW)
    return out.getvalue()


def test_a_node_at_work_is_shown_with_its_state_and_how_long_ago_it_was_seen(
    fleet: Fleet, storage: StorageDir
) -> None:
    fleet.heartbeat("sensor", HeartbeatRequest(state="distilling", progress=0.4))
    fleet.flush()
    head, row, *_ = shown(storage).splitlines()
    assert head.split()[:3] == ["node", "state", "seen"]
    assert row.split()[:6] == ["sensor", "distilling", "40", "%", "3", "min"]


def test_figures_on_the_releases_images_stand_after_a_stroke(
    fleet: Fleet, storage: StorageDir
) -> None:
    sent = report(
        release_clean_accuracy=0.8,
        release_robust=[robust(0.5)],
        shipped_own_robust=0.4,
        shipped_release_robust=0.7,
        own_images=1200,
        own_labelled=100,
    )
    fleet.report("sensor", sent)
    row = shown(storage).splitlines()[1]
    assert "90.0 / 80.0" in row
    assert "60.0 / 50.0" in row
    assert "40.0 / 70.0" in row
    assert "1,200, 100 labelled" in row


def test_a_node_that_measures_on_the_releases_images_alone_has_each_figure_once(
    fleet: Fleet, storage: StorageDir
) -> None:
    sent = report(release_robust=[robust(0.6)], shipped_release_robust=0.7)
    fleet.report("hub", sent)
    row = shown(storage).splitlines()[1].split()
    assert row[-3:] == ["60.0", "70.0", "none"]


def test_the_newest_report_of_each_node_is_shown(
    fleet: Fleet, storage: StorageDir
) -> None:
    for node, version in (("hub", 2), ("sensor", 1), ("hub", 3)):
        fleet.report(node, report(version=version))
    rows = shown(storage).splitlines()[1:3]
    assert [(row.split()[0], "v3" in row) for row in rows] == [
        ("hub", True),
        ("sensor", False),
    ]


def test_what_failed_and_what_a_node_noted_follow_the_table(
    fleet: Fleet, storage: StorageDir
) -> None:
    sent = report(outcome="failed", message="disk full", notes=["2 are left out"])
    fleet.report("hub", sent)
    lines = shown(storage).splitlines()
    assert "hub: release 2: disk full" in lines
    assert "hub: note: 2 are left out" in lines


def test_a_student_that_training_did_not_improve_is_named(
    fleet: Fleet, storage: StorageDir
) -> None:
    fleet.report("hub", report(as_shipped=True))
    fleet.report("sensor", report())
    said = [line for line in shown(storage).splitlines() if ": as shipped" in line]
    assert said == ["hub: as shipped, since training did not improve it"]


def test_a_nodes_words_neither_steer_nor_style_the_terminal(
    fleet: Fleet, storage: StorageDir
) -> None:
    fleet.report("hub", report(student="[red]\x1b[2J", notes=["\x1b[1m[bold]"]))
    text = shown(storage)
    assert "\x1b" not in text
    assert "[red]" in text
    assert "[bold]" in text


def test_in_a_narrow_terminal_each_node_has_a_block(
    fleet: Fleet, storage: StorageDir
) -> None:
    fleet.report("hub", report())
    lines = shown(storage, width=60).splitlines()
    assert lines[0] == "hub: -"
    assert any(line.split() == ["robust", "%", "60.0"] for line in lines)


def test_json_has_the_whole_of_a_report(fleet: Fleet, storage: StorageDir) -> None:
    fleet.report("hub", report(shipped_own_robust=0.0, notes=["2 are left out"]))
    said = CliRunner().invoke(app, ["nodes", "-s", str(storage.root), "--json"])
    (node,) = json.loads(said.stdout)
    sent = node["report"]
    assert node["node"] == "hub"
    assert sent["shipped_own_robust"] == 0.0
    assert sent["release_clean_accuracy"] is None
    assert sent["robust"][0]["eps"] == 0.15
    assert sent["notes"] == ["2 are left out"]
    assert sent["profile"]["memory_mib"] == 500
    sent_fields = {field.name for field in ReportRequest.DESCRIPTOR.fields}
    assert sent_fields - set(sent) == {"curve"}


def test_before_any_node_was_seen_a_line_says_so_and_no_database_is_made(
    storage: StorageDir,
) -> None:
    said = CliRunner().invoke(app, ["nodes", "-s", str(storage.root)])
    assert said.exit_code == 0
    assert said.stdout == "no node was seen yet; who may join: takt pki list\n"
    assert not storage.fleet.exists()
