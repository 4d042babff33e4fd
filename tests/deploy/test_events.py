"""The event files of a run: TensorBoard's own format, with the run's curves."""

import struct
from pathlib import Path

import psutil
import pytest

from common.records import CurvePoint
from deploy.report.events import write_events, writing_events
from deploy.report.result import NodeResult, RunResult, read_result

SAMPLE = read_result(Path(__file__).parents[1] / "support" / "sample_result.json")
EPOCH = {
    "epoch": 2,
    "epochs": 2,
    "loss": 1.5,
    "clean_accuracy": 0.75,
    "robust_accuracy": 0.5,
    "cpu_s": 4.0,
}


def scalars_of(folder: Path) -> dict[tuple[str, int], float]:
    """Read the only event file of a folder: records of TFRecord's framing."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    content, place = path.read_bytes(), 0
    found = {}
    while place < len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        event = Event.FromString(content[place + 12 : place + 12 + size])
        place += 12 + size + 4
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    return found


def result(*nodes: NodeResult, baselines: tuple[NodeResult, ...] = ()) -> RunResult:
    return SAMPLE.model_copy(update={"nodes": nodes, "baselines": baselines})


def student(method: str = "takt", *curve: CurvePoint) -> NodeResult:
    changes = {"name": "sensor", "curve": curve, "method": method}
    return SAMPLE.nodes[0].model_copy(update=changes)


def test_an_epoch_of_the_teacher_has_its_loss_and_accuracies(tmp_path: Path) -> None:
    write_events(result(), [EPOCH], tmp_path)
    assert scalars_of(tmp_path / "tensorboard" / "teacher") == {
        ("loss/train", 2): 1.5,
        ("accuracy/clean", 2): 0.75,
        ("accuracy/robust", 2): 0.5,
        ("cpu_s", 2): 4.0,
    }


def test_students_and_baselines_of_one_node_have_a_folder_each(tmp_path: Path) -> None:
    point = CurvePoint(epoch=1, cpu_s=0.5, robust_accuracy=0.25)
    found = result(student("takt", point), baselines=(student("pgd_at", point),))
    write_events(found, [], tmp_path)
    folders = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert folders == ["sensor pgd_at", "sensor takt"]
    assert scalars_of(tmp_path / "tensorboard" / "sensor takt") == {
        ("cpu_s", 1): 0.5,
        ("accuracy/robust", 1): 0.25,
    }


def test_a_run_without_any_curve_has_no_folder_of_them(tmp_path: Path) -> None:
    write_events(result(student()), [{"damaged": True}], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_writes_its_events_beside_its_page_in_a_process_of_its_own(
    tmp_path: Path,
) -> None:
    log = tmp_path / "simulation.log"
    before = set(psutil.Process().children())
    with writing_events(result(), [EPOCH], tmp_path, log):
        (writer,) = set(psutil.Process().children()) - before
    assert not writer.is_running() and log.read_text() == ""
    assert len(scalars_of(tmp_path / "tensorboard" / "teacher")) == 4


def test_events_that_cannot_be_written_are_told_in_the_log_and_nowhere_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    log = tmp_path / "simulation.log"
    with writing_events(result(), [EPOCH], tmp_path, log):
        pass
    assert "tensorboard" in log.read_text()


def test_a_machine_without_tensorboardx_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with writing_events(result(), [EPOCH], tmp_path, tmp_path / "simulation.log"):
        pass
    assert list(tmp_path.iterdir()) == []
