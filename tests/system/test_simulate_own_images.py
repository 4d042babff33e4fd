"""The simulation with nodes that hold images of their own, few or none: really run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import WAIT_S

# A whole simulation with baselines: a quarter of what the default tests took.
pytestmark = [pytest.mark.ray, pytest.mark.slow]

# The default config, small: a camera that overexposes, one that shares its images of
# three classes with the teacher, and a node without any.
SMALL = {
    "dataset.limit": 400,
    "threat.eps": 0.05,  # against more, so short a training makes no student to ship
    "teacher.epochs": 8,
    "teacher.num_workers": 1,
    "teacher.model": "cnn_small",
    "knowledge.num_actors": 1,
    "knowledge.num_images": 100,
    "knowledge.num_val_images": 40,
    "students.tiny.epochs": 50,
    "students.small.epochs": 40,
    "students.medium.epochs": 12,
    "students.tiny.tuning.epochs": 4,
    "students.small.tuning.epochs": 4,
    "students.medium.tuning.epochs": 4,
    "evaluation.autoattack_images": 20,
    "evaluation.teacher_images": 10,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Give the folder and the output of one whole simulation, with baselines."""
    runs = tmp_path_factory.mktemp("runs")
    options = [f"--set={key}={json.dumps(value)}" for key, value in SMALL.items()]
    verb = [sys.executable, "-m", "deploy.cli.main", "simulate", "--compare"]
    done = subprocess.run(
        [*verb, "--runs-dir", str(runs), *options],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
    )
    # 11: so little training may well leave one answer for everything.
    assert done.returncode in (0, 11), done.stdout + done.stderr
    (run,) = runs.iterdir()
    return run, done.stdout


@pytest.fixture
def nodes(finished: tuple[Path, str]) -> dict[str, Any]:
    tree = json.loads((finished[0] / "result.json").read_text())
    return {node["name"]: node for node in tree["nodes"]}


def test_the_record_says_what_each_node_has_of_its_own(nodes: dict[str, Any]) -> None:
    sensor, camera = nodes["sensor"]["data"], nodes["camera"]["data"]
    assert sensor["images"] == 200 and sensor["shift"] == "brightness"
    assert sensor["labelled"] == 0.5 and "classes" not in sensor
    assert 0 < sensor["trained_on_labelled"] < sensor["trained_on"] < 200
    assert camera["classes"] == [2, 5, 8] and camera["share_images"]
    assert 0 < camera["trained_on"] < camera["images"]
    assert "data" not in nodes["hub"]


def test_each_student_is_seen_beside_the_shipped_one_and_own_images_alone(
    finished: tuple[Path, str], nodes: dict[str, Any]
) -> None:
    kinds = {
        name: [each["kind"] for each in node.get("references", ())]
        for name, node in nodes.items()
    }
    for name, node in nodes.items():
        beside = ["own_only", "shipped"] if "data" in node else ["shipped"]
        twin = ["natural"] if node["state"] == "promoted" else []
        assert kinds[name] == twin + beside
    for node in nodes.values():
        for each in node["references"]:
            assert each["robust"][0]["num_images"] == 20
            assert (finished[0] / each["student"]["path"]).is_file()


def test_own_images_alone_are_trained_on_for_the_nodes_own_cpu_seconds(
    nodes: dict[str, Any],
) -> None:
    for name in ("sensor", "camera"):
        (alone,) = [
            each for each in nodes[name]["references"] if each["kind"] == "own_only"
        ]
        assert alone["method"] == "warm_at"
        assert alone["cpu_s"]["distil"] >= 0.9 * nodes[name]["cpu_s"]["distil"]


def test_figures_of_a_shifted_camera_and_of_own_classes_are_marked(
    nodes: dict[str, Any],
) -> None:
    for each in nodes["sensor"]["references"]:
        assert "camera_brightness" in each["robust"][0]["flags"]
        assert "own_class_robust" not in each
    for each in nodes["camera"]["references"]:
        assert "own_classes" in each["own_class_robust"][0]["flags"]
        assert each["own_class_robust"][0]["num_images"] == 6


def test_the_baselines_had_the_release_but_no_teacher(
    finished: tuple[Path, str], nodes: dict[str, Any]
) -> None:
    tree = json.loads((finished[0] / "result.json").read_text())
    promoted = {name for name, node in nodes.items() if node["state"] == "promoted"}
    assert {each["name"] for each in tree["baselines"]} == promoted
    assert {each["method"] for each in tree["baselines"]} <= {"warm_at"}
    for name in promoted:
        release = finished[0] / "references" / name / "baseline" / "release"
        assert not [*release.glob("weights-*")]


def test_the_table_shows_what_training_at_the_nodes_added(
    finished: tuple[Path, str],
) -> None:
    _, out = finished
    assert "images of its own" in out and "as shipped" in out
    assert "80 of 2, 5, 8, shared" in out
    assert "Traceback" not in out and "WARNING" not in out
