"""A short soak: what it measures, and that nothing is lost while all is killed."""

import argparse
from pathlib import Path

import pytest
from rows import Row
from soak import Schedule, failures, growth, run, slope_per_min
from soak_table import markdown

LOSSES = ("newest_missing", "lost", "doubled", "unsent", "ended_by_itself")


def samples(per_min: float, *, lives: int = 1, who: str = "gateway") -> list[Row]:
    """Make samples of processes that grow, each life from another level on."""
    return [
        {
            "t_s": 300.0 * life + t_s,
            "who": who,
            "life": life,
            "rss_mib": 50.0 + 7 * life + per_min * t_s / 60,
            "fds": 9,
            "threads": 5,
        }
        for life in range(lives)
        for t_s in range(0, 300, 10)
    ]


@pytest.mark.parametrize("per_min", [0.0, 0.5, -0.25])
def test_growth_is_found_within_lives_whatever_lies_between_them(
    per_min: float,
) -> None:
    found = slope_per_min(samples(per_min, lives=3), "rss_mib")
    assert found == pytest.approx(per_min, abs=1e-9)


def test_a_process_that_lived_too_shortly_has_no_slope() -> None:
    assert slope_per_min(samples(1.0)[:4], "rss_mib") is None


def test_the_disk_of_the_cloud_is_counted_by_release() -> None:
    disk: list[Row] = [
        {"t_s": t, "who": "disk", "releases": n, "cloud_mib": 1.0 + n, "node_mib": 0.3}
        for t, n in ((0, 1), (60, 2), (120, 5))
    ]
    found = growth([*samples(0.0), *samples(0.0, who="node-1"), *disk])
    assert found["cloud_mib_per_release"] == 1.0
    assert (found["node_mib_at_half"], found["node_mib_most"]) == (0.3, 0.3)


@pytest.mark.parametrize("what", LOSSES)
def test_whatever_is_lost_fails_a_soak(what: str) -> None:
    nothing: Row = dict.fromkeys(LOSSES, 0)
    assert failures(nothing) == []
    assert failures({**nothing, what: 1}) == [f"{what}: 1, expected 0"]


def test_what_is_due_is_due_once_a_period() -> None:
    schedule = Schedule(release=10.0, node=4.0)
    seen = [schedule.due(float(now)) for now in range(12)]
    assert [now for now, due in enumerate(seen) if "node" in due] == [4, 8]
    assert [now for now, due in enumerate(seen) if "release" in due] == [10]


@pytest.mark.slow
def test_a_minute_of_kills_loses_no_report_and_every_daemon_ends_with_the_newest(
    tmp_path: Path,
) -> None:
    options = argparse.Namespace(
        minutes=1.0,
        daemons=2,
        epochs=2,
        release_every_s=40.0,
        kill_node_every_s=20.0,
        kill_gateway_every_s=35.0,
        seed=0,
    )
    rows = run(options, tmp_path)
    assert failures(rows[0]) == []
    assert rows[0]["releases"] >= 2
    assert rows[0]["daemon_kills"] >= 1 and rows[0]["gateway_kills"] >= 1
    assert "reports kept" in markdown(rows)
