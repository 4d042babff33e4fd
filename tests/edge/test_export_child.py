"""The child that exports a promoted student: what it refuses, and how it ended."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from distill_site import write_release
from edge_site import FAST
from small_runs import small_card
from waiting import WAIT_S, until

from common.config import DatasetConfig
from common.durable import locked
from common.errors import CapError, Interrupted, StorageError, TaktError
from common.models.files import save_model
from common.models.zoo import build_model
from edge.config import EdgeConfig
from edge.distill.export import export_promoted
from edge.distill.knowledge import read_manifest
from edge.jobs.exporting import ExportJob, run_export
from edge.state import Promoted, StateDir


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path)
    state.create()
    return state


@pytest.fixture
def promoted(state: StateDir) -> Promoted:
    """Let a random student of a release that is there serve."""
    release = state.releases / "1"
    release.mkdir()
    manifest = read_manifest(write_release(release))
    torch.manual_seed(0)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    sha256 = save_model(
        state.students / "1" / "student.safetensors", model, small_card()
    )
    return Promoted(
        channel=manifest.channel,
        version=manifest.version,
        student="tiny",
        folder="1",
        weights_sha256=sha256,
        dataset="digits",
        fingerprint=manifest.fingerprint,
        eps=manifest.eps,
        clean_accuracy=0.5,
        robust=(),
    )


def config_of(state: StateDir) -> EdgeConfig:
    return EdgeConfig(
        node="sensor",
        student="tiny",
        gateway="localhost:1",
        state_dir=state.root,
        profile=FAST,
    )


def exported(state: StateDir, promoted: Promoted) -> list[str]:
    stop = threading.Event()
    return run_export(config_of(state), promoted, ("onnx",), stop=stop)


@pytest.mark.parametrize("change", [{"channel": "other"}, {"version": 2}])
def test_a_release_that_is_not_the_students_does_not_measure_its_export(
    state: StateDir, promoted: Promoted, change: dict[str, object]
) -> None:
    (state.releases / "2").symlink_to(state.releases / "1")
    job = ExportJob(
        state_dir=state.root,
        promoted=promoted.model_copy(update=change),
        dataset=DatasetConfig(),
        formats=("onnx",),
    )
    with pytest.raises(StorageError, match="holds release digits 1, expected "):
        export_promoted(job, "onnx")
    assert not state.exported_file(promoted, "onnx").exists()


def test_what_a_library_says_on_stderr_is_not_in_the_report(
    state: StateDir, promoted: Promoted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_DISPLAY_ENV", "true")  # which torch's OpenMP writes there
    (line,) = exported(state, promoted)
    assert line.startswith("onnx: clean")
    written = "".join(path.read_text() for path in state.work.glob("export.*"))
    assert "OPENMP DISPLAY ENVIRONMENT" in written


def test_a_child_that_is_killed_was_not_out_of_memory(
    state: StateDir, promoted: Promoted
) -> None:
    job = str(state.work / "export.json")
    children = []

    def found() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if words[-1:] == [job] and not any(
                w.endswith("launcher.py") for w in words
            ):
                children.append(process)
        return bool(children)

    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(exported, state, promoted)
        until("the child", found)
        children[0].kill()
        with pytest.raises(
            TaktError, match="the export ended with status -9"
        ) as caught:
            end.result()
    assert not isinstance(caught.value, CapError)
    assert "memory" not in str(caught.value)


def test_two_exports_of_one_student_make_its_file_once(
    state: StateDir, promoted: Promoted
) -> None:
    begin = threading.Barrier(2)

    def export() -> list[str]:
        begin.wait()
        return exported(state, promoted)

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(export) for _ in range(2)]
    assert sorted(len(end.result()) for end in ends) == [0, 1]


def test_a_stop_ends_the_wait_for_another_export(
    state: StateDir, promoted: Promoted
) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool, locked(state.work / "export.lock"):
        end = pool.submit(run_export, config_of(state), promoted, ("onnx",), stop=stop)
        stop.set()
        with pytest.raises(Interrupted, match="stopped while waiting"):
            end.result(WAIT_S)
