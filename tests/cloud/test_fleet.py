"""The fleet's database: values from nodes are validated, bounded and kept."""

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from clocks import Clock
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cloud.errors import BadRequestError
from cloud.fleet.bounds import checked_heartbeat, checked_report
from cloud.fleet.database import KEEP_REPORTS, Fleet, sqlite_url
from common.errors import ConfigError, StorageError
from common.pb.takt_pb2 import (
    Cap,
    CpuSeconds,
    CurvePoint,
    Evaluation,
    HeartbeatRequest,
    Profile,
    ReportRequest,
)


@pytest.fixture
def fleet(tmp_path: Path, clock: Clock) -> Iterator[Fleet]:
    fleet = Fleet(sqlite_url(tmp_path / "fleet.sqlite"), clock=clock)
    yield fleet
    fleet.close()


def report(version: int = 1) -> ReportRequest:
    return ReportRequest(
        channel="digits",
        version=version,
        student="tiny",
        architecture="cnn_tiny",
        num_parameters=778,
        method="takt",
        seed=-3,
        profile=Profile(cpus=0.25, memory_mib=500, bandwidth_kib_s=128),
        cap=Cap(method="cgroup v1", hard=True),
        cpu_s=CpuSeconds(distil=12.5, attack=6.0, evaluate=1.5),
        peak_memory_mib=333.5,
        pulled_bytes=54321,
        clean_accuracy=0.93,
        robust=[
            Evaluation(
                attack="pgd",
                version="10 steps",
                norm="Linf",
                eps=0.15,
                num_images=143,
                accuracy=87 / 143,
                seed=0,
                flags=["randomized"],
            )
        ],
        curve=[CurvePoint(epoch=1, cpu_s=0.5), CurvePoint(epoch=2, robust_accuracy=0)],
        outcome="promoted",
        message="better than none",
        weights_sha256="a" * 64,
        release_clean_accuracy=0.9,
        release_robust=[
            Evaluation(attack="pgd", version="a", norm="Linf", eps=0.15, num_images=100)
        ],
        own_images=200,
        own_labelled=100,
        shipped_own_robust=0.0,
        shipped_release_robust=0.5,
        notes=["2 of 200 images are left out"],
    )


def test_a_report_comes_back_as_it_was_sent(fleet: Fleet, clock: Clock) -> None:
    fleet.report("sensor", report())
    (row,) = fleet.reports()
    assert (row.node, row.time, row.report) == ("sensor", clock.now, report())


def test_what_was_not_measured_stays_absent_and_zero_stays_zero(fleet: Fleet) -> None:
    fleet.report("sensor", report())
    (row,) = fleet.reports()
    first, second = row.report.curve
    assert not first.HasField("robust_accuracy")
    assert second.HasField("robust_accuracy")


def test_reports_are_found_by_node_and_release(fleet: Fleet) -> None:
    fleet.report("sensor", report(1))
    fleet.report("camera", report(1))
    fleet.report("sensor", report(2))
    assert [r.report.version for r in fleet.reports(node="sensor")] == [1, 2]
    assert [r.node for r in fleet.reports(version=1)] == ["sensor", "camera"]
    assert fleet.reports(node="hub") == []


def test_a_report_sent_twice_in_a_row_is_kept_once(fleet: Fleet) -> None:
    fleet.report("sensor", report())
    fleet.report("sensor", report())
    assert len(fleet.reports()) == 1


def test_a_node_keeps_a_bounded_number_of_reports(fleet: Fleet) -> None:
    for version in range(1, KEEP_REPORTS + 6):
        fleet.report("sensor", report(version))
    versions = [r.report.version for r in fleet.reports()]
    assert versions == list(range(6, KEEP_REPORTS + 6))


def test_the_newest_heartbeat_counts_and_the_first_is_remembered(
    fleet: Fleet, clock: Clock
) -> None:
    start = clock.now
    fleet.heartbeat("sensor", HeartbeatRequest(state="pulling", progress=0.5))
    clock.now += timedelta(seconds=5)
    fleet.heartbeat("sensor", HeartbeatRequest(state="distilling", version=7))
    (row,) = fleet.nodes()
    assert (row.state, row.version, row.progress) == ("distilling", 7, 0.0)
    assert (row.first_seen, row.last_seen) == (start, clock.now)


def test_gathered_heartbeats_are_written_together_and_reports_at_once(
    fleet: Fleet, tmp_path: Path
) -> None:
    with contextlib.closing(Fleet(sqlite_url(tmp_path / "fleet.sqlite"))) as reader:
        for node in ("sensor", "camera"):
            fleet.heartbeat(node, HeartbeatRequest(state="idle"))
        fleet.report("sensor", report())
        assert len(reader.reports()) == 1
        assert reader.nodes() == []
        fleet.flush()
        assert [row.node for row in reader.nodes()] == ["camera", "sensor"]


def test_a_node_that_was_never_written_was_first_seen_at_its_first_heartbeat(
    fleet: Fleet, clock: Clock
) -> None:
    start = clock.now
    fleet.heartbeat("sensor", HeartbeatRequest(state="pulling"))
    clock.now += timedelta(seconds=1)
    fleet.heartbeat("sensor", HeartbeatRequest(state="distilling"))
    (row,) = fleet.nodes()
    assert (row.first_seen, row.last_seen) == (start, clock.now)


def test_closing_writes_what_was_gathered(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "fleet.sqlite")
    first = Fleet(url)
    first.heartbeat("sensor", HeartbeatRequest(state="idle"))
    first.close()
    with contextlib.closing(Fleet(url)) as second:
        assert [row.node for row in second.nodes()] == ["sensor"]


def test_heartbeats_that_could_not_be_written_wait_and_no_more_are_taken(
    fleet: Fleet, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "fleet.sqlite")) as other:
        fleet.heartbeat("sensor", HeartbeatRequest(state="pulling"))
        other.execute("ALTER TABLE nodes RENAME TO gone")
        with pytest.raises(StorageError, match="cannot write"):
            fleet.flush()
        with pytest.raises(StorageError, match="cannot write"):
            fleet.heartbeat("camera", HeartbeatRequest(state="idle"))
        other.execute("ALTER TABLE gone RENAME TO nodes")
        fleet.flush()
        fleet.heartbeat("camera", HeartbeatRequest(state="idle"))
        states = {row.node: row.state for row in fleet.nodes()}
        assert states == {"sensor": "pulling", "camera": "idle"}


def test_another_process_reads_while_the_gateway_writes(
    fleet: Fleet, tmp_path: Path
) -> None:
    reader = Fleet(sqlite_url(tmp_path / "fleet.sqlite"))
    fleet.report("sensor", report())
    assert [r.node for r in reader.reports()] == ["sensor"]
    reader.close()


def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Fleet(sqlite_url(tmp_path / "fleet.sqlite"))
    first.report("sensor", report())
    first.close()
    second = Fleet(sqlite_url(tmp_path / "fleet.sqlite"))
    assert second.reports()[0].report == report()
    second.close()


def test_progress_beyond_its_range_is_clipped(fleet: Fleet) -> None:
    fleet.heartbeat("sensor", HeartbeatRequest(progress=7.0))
    fleet.heartbeat("camera", HeartbeatRequest(progress=-1.0))
    assert {r.node: r.progress for r in fleet.nodes()} == {"sensor": 1, "camera": 0}


NAN, INF = float("nan"), float("inf")
IMPOSSIBLE = [
    *(ReportRequest(clean_accuracy=value) for value in (NAN, -0.1, 1.1, INF)),
    *(ReportRequest(peak_memory_mib=value) for value in (NAN, -1, 1e30)),
    *(ReportRequest(cpu_s=CpuSeconds(distil=value)) for value in (NAN, -1, 1e12)),
    *(ReportRequest(cpu_s=CpuSeconds(evaluate=value)) for value in (NAN, -1, INF)),
    *(ReportRequest(profile=Profile(cpus=value)) for value in (NAN, -1, INF)),
    *(ReportRequest(release_clean_accuracy=value) for value in (NAN, -0.1, 1.1)),
    *(ReportRequest(shipped_own_robust=value) for value in (NAN, -0.1, 1.1)),
    *(ReportRequest(shipped_release_robust=value) for value in (INF, 2)),
    ReportRequest(own_images=2**63),
    ReportRequest(own_labelled=2**64 - 1),
    ReportRequest(live_bytes=2**63),
    ReportRequest(version=2**63),
    ReportRequest(pulled_bytes=2**64 - 1),
    ReportRequest(num_parameters=2**63),
]


@pytest.mark.parametrize(
    "wrong", IMPOSSIBLE, ids=lambda wrong: " ".join(str(wrong).split())
)
def test_an_impossible_number_is_refused(fleet: Fleet, wrong: ReportRequest) -> None:
    request = report()
    request.MergeFrom(wrong)
    with pytest.raises(BadRequestError, match=r" is .*, expected 0 to "):
        fleet.report("sensor", request)
    assert fleet.reports() == []


@pytest.mark.parametrize("value", [NAN, INF, -1.0, 1.5])
def test_lies_inside_lists_are_refused(fleet: Fleet, value: float) -> None:
    request = report()
    request.robust[0].accuracy = value
    with pytest.raises(BadRequestError, match=r"robust\.accuracy"):
        fleet.report("sensor", request)
    request = report()
    request.release_robust[0].accuracy = value
    with pytest.raises(BadRequestError, match=r"release_robust\.accuracy"):
        fleet.report("sensor", request)
    request = report()
    request.curve[0].clean_accuracy = value
    with pytest.raises(BadRequestError, match=r"curve\.clean_accuracy"):
        fleet.report("sensor", request)


def test_lists_without_end_are_refused(fleet: Fleet) -> None:
    request = report()
    request.curve.extend([CurvePoint()] * 10_001)
    with pytest.raises(BadRequestError, match="curve has 10003 entries"):
        fleet.report("sensor", request)
    request = report()
    request.notes.extend(["x"] * 16)
    with pytest.raises(BadRequestError, match=r"notes has 17 entries"):
        fleet.report("sensor", request)
    request = report()
    request.robust[0].flags.extend(["x"] * 17)
    with pytest.raises(BadRequestError, match=r"robust\.flags has 18"):
        fleet.report("sensor", request)


def test_huge_texts_are_cut_and_terminal_escapes_removed(fleet: Fleet) -> None:
    request = report()
    request.message = "\x1b[2J<b>" + "x" * 1_000_000
    request.architecture = "a\nb\0c"
    request.notes[0] = "\x1b[2J" + "y" * 1000
    fleet.report("sensor", request)
    (row,) = fleet.reports()
    assert row.report.message.startswith(" [2J<b>x")
    assert len(row.report.message) == 500
    assert row.report.architecture == "a b c"
    assert row.report.notes[0].startswith(" [2Jy")
    assert len(row.report.notes[0]) == 500


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_bounded(data: bytes) -> None:
    with contextlib.suppress(DecodeError, BadRequestError):
        checked = checked_report(ReportRequest.FromString(data))
        assert len(checked.SerializeToString()) < 2_000
    with contextlib.suppress(DecodeError, BadRequestError):
        beat = checked_heartbeat(HeartbeatRequest.FromString(data))
        assert len(beat.SerializeToString()) < 2_000


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fleet.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match=r"fleet's database.*not a database"):
        Fleet(sqlite_url(tmp_path / "fleet.sqlite"))


def test_a_database_of_an_older_takt_is_refused_in_one_line_and_left_as_it_was(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fleet.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE nodes (node VARCHAR(63) PRIMARY KEY)")
        old.execute("INSERT INTO nodes VALUES ('sensor')")
        old.commit()
    with pytest.raises(StorageError, match=r"of another takt.*nodes\.first_seen"):
        Fleet(sqlite_url(path))
    with contextlib.closing(sqlite3.connect(path)) as kept:
        assert kept.execute("SELECT * FROM nodes").fetchall() == [("sensor",)]


def test_a_database_with_columns_of_a_later_takt_is_used(tmp_path: Path) -> None:
    path = tmp_path / "fleet.sqlite"
    Fleet(sqlite_url(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as later:
        later.execute("ALTER TABLE nodes ADD COLUMN colour TEXT")
        later.commit()
    with contextlib.closing(Fleet(sqlite_url(path))) as fleet:
        fleet.heartbeat("sensor", HeartbeatRequest(state="idle"))
        assert [row.node for row in fleet.nodes()] == ["sensor"]


def test_a_clock_that_jumps_back_loses_no_heartbeat(fleet: Fleet, clock: Clock) -> None:
    fleet.heartbeat("sensor", HeartbeatRequest(state="pulling"))
    clock.now -= timedelta(minutes=10)
    fleet.heartbeat("sensor", HeartbeatRequest(state="idle"))
    (row,) = fleet.nodes()
    assert (row.state, row.last_seen) == ("idle", clock.now)


def test_a_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open database file"):
        Fleet(sqlite_url(tmp_path / "missing" / "fleet.sqlite"))


@pytest.mark.parametrize("url", ["", "nonsense", "nosuch://x/y"])
def test_a_url_that_is_none_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="database URL"):
        Fleet(url)


def test_a_password_in_the_url_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, StorageError)) as caught:
        Fleet("nosuch://takt:secret@db.example/fleet")
    assert "secret" not in str(caught.value)
