"""The simulation: the whole system, really run on a small digits config."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from stopping import Family, read_until, stop
from waiting import WAIT_S

from deploy.runtime.processes import end_trees

# Small, but every part of it: two nodes, two cap profiles, one worker.
SMALL = {
    "dataset.limit": 200,
    "teacher.epochs": 2,
    "teacher.num_workers": 1,
    "teacher.model": "cnn_small",
    "knowledge.num_actors": 1,
    "students.tiny.epochs": 2,
    "students.small.epochs": 2,
    "evaluation.autoattack_images": 12,
    "evaluation.teacher_images": 8,
}


NODES = (
    'nodes=[{name="sensor", student="tiny", profile={cpus=0.5, memory_mib=500, '
    'bandwidth_kib_s=512}}, {name="camera", student="small", profile={cpus=0.5, '
    "memory_mib=600, bandwidth_kib_s=512, cuts=[{after_s=0, for_s=5}]}}]"
)


def command(runs_dir: Path, *more: str) -> list[str]:
    assigned = [f"{key}={json.dumps(value)}" for key, value in SMALL.items()]
    options = [part for value in (*assigned, NODES) for part in ("--set", value)]
    verb = [sys.executable, "-m", "deploy.cli.main", "simulate"]
    verb += ["--config", "digits-same", "--runs-dir", str(runs_dir)]
    return [*verb, *options, *more]


def left_behind(marker: Path) -> list[str]:
    """List the processes that still name the run's folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(marker) in line and process.pid != os.getpid():
            found.append(line)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Give the folder and the output of one whole simulation."""
    runs = tmp_path_factory.mktemp("runs")
    process = subprocess.Popen(
        command(runs, "--compare"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    family = Family(process.pid)
    lines = []
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                lines.append(line)
                family.look()
        out = "".join(lines)
        # 11: with two epochs a student may well answer one class for everything.
        assert process.wait(WAIT_S) in (0, 11), out
    finally:
        end_trees([process], grace_s=20)
    assert family.alive() == []
    assert left_behind(runs) == []
    (run,) = runs.iterdir()
    yield run, out


@pytest.mark.ray
def test_a_whole_run_leaves_all_that_it_promises(finished: tuple[Path, str]) -> None:
    run, _ = finished
    assert {entry.name for entry in run.iterdir()} == {
        "result.json",
        "report.html",
        "config.toml",
        "students",
        "logs",
        "cloud",
        "nodes",
        "references",
        "tensorboard",
        *(["details"] if list((run / "students").glob("*")) else []),
    }
    assert {log.stem for log in (run / "logs").glob("*.log")} >= {
        "simulation",
        "evaluation",
        "sensor",
        "camera",
    }


@pytest.mark.ray
def test_a_nodes_network_is_cut_as_its_profile_says(finished: tuple[Path, str]) -> None:
    logs = finished[0] / "logs"
    assert "network is cut" in (logs / "camera.log").read_text()
    assert "network is cut" not in (logs / "sensor.log").read_text()


@pytest.mark.ray
def test_the_result_holds_what_nodes_reported_and_what_was_measured(
    finished: tuple[Path, str],
) -> None:
    tree = json.loads((finished[0] / "result.json").read_text())
    assert tree["dataset"]["num_train"] == tree["release"]["num_samples"] == 180
    assert set(tree["release"]["bytes_per_sample"]) == {"soft_labels"}
    assert tree["teacher"]["robust"][0]["attack"] == "autoattack"
    assert tree["teacher"]["robust"][0]["num_images"] == 8
    assert [node["name"] for node in tree["nodes"]] == ["sensor", "camera"]
    for node in tree["nodes"]:
        assert node["state"] in ("promoted", "refused")
        assert node["cap"]["method"] and node["pulled_bytes"] > 0
        assert 0 < node["peak_memory_mib"] <= node["profile"]["memory_mib"]
        assert node["cpu_s"]["distil"] > 0 and len(node["curve"]) >= 2
        if node["state"] == "promoted":
            assert node["robust"][0]["attack"] == "autoattack"
            assert node["robust"][0]["num_images"] == 12
            assert (finished[0] / node["student"]["path"]).is_file()
    timings = tree["timings_s"]
    phases = {name: s for name, s in timings.items() if name != "total"}
    assert list(phases) == [
        "data",
        "cluster",
        "teacher",
        "knowledge",
        "publish",
        "gateway",
        "nodes",
        "evaluation",
    ]
    assert sum(phases.values()) <= timings["total"] + 0.01


@pytest.mark.ray
def test_baselines_get_the_cpu_seconds_of_the_student_they_stand_for(
    finished: tuple[Path, str],
) -> None:
    tree = json.loads((finished[0] / "result.json").read_text())
    nodes = {node["name"]: node for node in tree["nodes"]}
    promoted = {name for name, node in nodes.items() if node["state"] == "promoted"}
    assert {baseline["name"] for baseline in tree["baselines"]} == promoted
    for baseline in tree["baselines"]:
        assert baseline["method"] == "pgd_at"
        budget_s = nodes[baseline["name"]]["cpu_s"]["distil"]
        assert baseline["cpu_s"]["distil"] >= 0.9 * budget_s


@pytest.mark.ray
def test_each_student_has_a_natural_twin_that_was_measured_as_it_was(
    finished: tuple[Path, str],
) -> None:
    tree = json.loads((finished[0] / "result.json").read_text())
    for node in tree["nodes"]:
        kinds = [each["kind"] for each in node.get("references", ())]
        assert kinds == (["natural"] if node["state"] == "promoted" else [])
        for twin in node.get("references", ()):
            assert twin["method"] == "natural"
            assert twin["student"]["architecture"] == node["student"]["architecture"]
            assert twin["robust"][0]["num_images"] == 12


@pytest.mark.ray
def test_the_page_pictures_each_promoted_student_beside_its_twin(
    finished: tuple[Path, str],
) -> None:
    run, _ = finished
    tree = json.loads((run / "result.json").read_text())
    page = (run / "report.html").read_text()
    for node in tree["nodes"]:
        if node["state"] != "promoted":
            continue
        own, twin = node["details"], node["references"][0]["details"]
        assert own == f"details/{node['name']}/student.json"
        kept = [json.loads((run / name).read_text())["samples"] for name in (own, twin)]
        for student, natural in zip(*kept, strict=True):
            assert student["x"] in page and student["x_adv"] in page
            assert student["position"] == natural["position"]
            assert "same_image" in natural and "same_image" not in student


@pytest.mark.ray
def test_the_terminal_gets_phases_table_and_paths_and_no_noise(
    finished: tuple[Path, str],
) -> None:
    run, out = finished
    for phase in ("cluster", "teacher", "knowledge", "publish", "gateway", "nodes"):
        assert f"] {phase} done in " in out
    assert "AutoAttack standard, Linf, eps 0.15" in out
    assert str(run / "report.html") in out
    assert "Traceback" not in out and "WARNING" not in out


@pytest.mark.ray
def test_report_says_the_same_again(finished: tuple[Path, str]) -> None:
    run, _ = finished
    before = (run / "report.html").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", "report", str(run)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0
    assert (run / "report.html").read_text() == before


@pytest.mark.ray
@pytest.mark.parametrize(
    ("line", "longer", "number", "code"),
    [
        ("cluster: start a local Ray", "seed=0", signal.SIGINT, 130),
        ("teacher: adversarial training", "teacher.epochs=500", signal.SIGINT, 130),
        ("nodes: pull, distil", "students.tiny.epochs=9000", signal.SIGTERM, 143),
        pytest.param(
            "knowledge: extract it",
            'knowledge.contents=["soft_labels","deltas"] knowledge.attack.steps=1000',
            *(signal.SIGINT, 130),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("evaluation: AutoAttack", "evaluation.autoattack_images=360"),
            *(signal.SIGINT, 130),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stopped_run_leaves_no_process_and_keeps_its_folder(
    line: str, longer: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(tmp_path, *(w for key in longer.split() for w in ("--set", key))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    family = Family(process.pid)
    with process:
        try:
            read_until(line, process)
            family.look()
            process.send_signal(number)
            _, err = process.communicate(timeout=WAIT_S)
        finally:  # a test that fails leaves no simulation behind
            end_trees([process], grace_s=20)
    assert process.returncode == code, err
    assert err.count("\n") == 1 and number.name in err
    assert family.alive() == []
    assert left_behind(tmp_path) == []
    (run,) = tmp_path.iterdir()
    tree = json.loads((run / "result.json").read_text())
    assert tree["status"] == "failed" and tree["error"]["code"] == code
    assert f"in phase '{line.partition(':')[0]}'" in tree["error"]["message"]
    assert (run / "report.html").is_file()
    assert not (run / "tensorboard").exists()  # their library takes seconds to load


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "reaches"),
    [
        (signal.SIGTERM, "group"),
        pytest.param(signal.SIGHUP, "group", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "all", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_more_than_the_run_itself_stops_it_all_the_same(
    number: signal.Signals, reaches: str, tmp_path: Path, short_folder: Path
) -> None:
    """As `timeout`, a closed terminal and systemd send it."""
    code, err = stop(
        command(tmp_path, "--set", "teacher.epochs=500"),
        partial(read_until, "/500"),  # any epoch: a fast machine skips the first
        number,
        reaches=reaches,
        folder=short_folder,
    )
    assert code == 143, err
    assert err.count("\n") == 1 and number.name in err
    (run,) = tmp_path.iterdir()
    tree = json.loads((run / "result.json").read_text())
    assert tree["status"] == "failed" and tree["error"]["code"] == 143


def test_missing_data_ends_the_run_before_anything_is_started(tmp_path: Path) -> None:
    data = tmp_path / "empty"
    data.mkdir()
    done = subprocess.run(
        command(
            *(tmp_path / "runs", "--set", "dataset.name=folder"),
            *("--set", "dataset.image_size=8", "--data-dir", str(data)),
        ),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("takt: ") and done.stderr.count("\n") == 1
    (run,) = (tmp_path / "runs").iterdir()
    tree = json.loads((run / "result.json").read_text())
    assert tree["status"] == "failed" and tree["error"]["code"] == 3
    assert list(tree["timings_s"]) == ["data", "total"]
