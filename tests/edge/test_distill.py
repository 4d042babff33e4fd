"""The child that distils: from a pulled release to a student, whatever happens."""

import gc
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from distill_site import job_for, write_release
from waiting import WAIT_S

from common.config import DatasetConfig
from common.data.datasets import load_dataset
from common.errors import Interrupted, StorageError, TrustError
from common.faults import VARIABLE
from common.models.files import load_model
from common.release import (
    encode_manifest,
)
from common.robustness.evaluate import predict
from edge.distill.__main__ import main
from edge.distill.knowledge import read_manifest
from edge.distill.run import distil
from edge.jobs.job import (
    CHECKPOINT,
    PROGRESS,
    RESULT,
    DistilJob,
    DistilResult,
    read_message,
    read_progress,
)
from edge.state import STUDENT


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


def written(job: DistilJob) -> str:
    path = job.work_dir / "job.json"
    path.write_text(job.model_dump_json())
    return str(path)


@pytest.fixture(scope="module")
def undisturbed(
    release: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DistilJob, DistilResult]:
    job = job_for(release, tmp_path_factory.mktemp("work"))
    return job, distil(job)


def forked(action: Callable[[], int]) -> int:
    """Run `action` in a forked child: its exit code, negative for a signal.

    What is garbage by now is not collected there: an asyncio server of gRPC that an
    earlier test left would wait for its thread, which the child does not have.
    """
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = action()
        finally:
            os._exit(code)
    gc.unfreeze()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """Read what a forked child said, without what gRPC says of the fork itself.

    It does where tests before this one left threads of it in this process.
    """
    lines = capfd.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if "fork_posix.cc" not in line)


def test_the_student_left_behind_is_the_one_that_was_measured(
    release: Path, undisturbed: tuple[DistilJob, DistilResult]
) -> None:
    job, result = undisturbed
    student, card = load_model(job.work_dir / STUDENT)
    x, y = load_dataset(DatasetConfig(), seed=0).val.tensors()
    with torch.no_grad():
        accuracy = float((student(x).argmax(1) == y).double().mean())
    data = (job.work_dir / STUDENT).read_bytes()
    assert result.clean_accuracy == accuracy
    assert result.weights_sha256 == hashlib.sha256(data).hexdigest()
    assert card.fingerprint == read_manifest(release).fingerprint
    assert read_message(job.work_dir / RESULT, DistilResult) == result
    assert result.robust[0].num_images == len(y)


def test_the_curve_has_a_point_an_epoch_with_growing_cpu_seconds(
    undisturbed: tuple[DistilJob, DistilResult],
) -> None:
    job, result = undisturbed
    curve = read_progress(job.work_dir / PROGRESS)
    assert [p.epoch for p in curve] == [1, 2, 3, 4]
    assert [p.cpu_s for p in curve] == sorted(p.cpu_s for p in curve)
    assert tuple(curve) == result.curve
    assert curve[-1].robust_accuracy is not None
    assert 0 < result.cpu_s.attack < result.cpu_s.distil
    assert result.cpu_s.evaluate > 0


def test_the_child_needs_neither_torchvision_nor_sklearn_nor_a_compiler(
    release: Path, tmp_path: Path
) -> None:
    job = written(job_for(release, tmp_path))
    code = (
        "import sys\n"
        "from edge.distill.__main__ import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'torchvision', 'sklearn', 'torch._dynamo', 'scipy', 'ray'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, job],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_child_killed_at_any_durable_step_ends_with_the_same_student(
    release: Path,
    tmp_path: Path,
    undisturbed: tuple[DistilJob, DistilResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job_for(release, tmp_path)
    path = written(job)
    for point in [
        "child.checkpoint.before_rename",
        "child.checkpoint.after_rename",
        "child.student.before_rename",
        "child.student.after_rename",
        "child.outcome.before_rename",
    ]:
        monkeypatch.setenv(VARIABLE, f"{point}:kill")
        assert forked(lambda: main([path])) == -signal.SIGKILL, point
        assert not (tmp_path / RESULT).exists()
    monkeypatch.delenv(VARIABLE)
    assert forked(lambda: main([path])) == 0
    result = read_message(tmp_path / RESULT, DistilResult)
    assert result.weights_sha256 == undisturbed[1].weights_sha256
    assert [p.epoch for p in read_progress(tmp_path / PROGRESS)] == [1, 2, 3, 4]


def test_a_training_stopped_between_checkpoints_repeats_exactly(
    release: Path, tmp_path: Path, undisturbed: tuple[DistilJob, DistilResult]
) -> None:
    job = job_for(release, tmp_path)
    steps = count()
    with pytest.raises(Interrupted):
        distil(job, should_stop=lambda: next(steps) > 25)  # in the third epoch
    assert (tmp_path / CHECKPOINT).exists()
    assert distil(job).weights_sha256 == undisturbed[1].weights_sha256


def test_class_temperatures_go_on_where_a_stopped_training_left_them(
    release: Path, tmp_path: Path
) -> None:
    whole = distil(job_for(release, tmp_path / "whole", student="absld"))
    job, steps = job_for(release, tmp_path / "cut", student="absld"), count()
    with pytest.raises(Interrupted):
        distil(job, should_stop=lambda: next(steps) > 25)
    assert distil(job).weights_sha256 == whole.weights_sha256


def test_batch_statistics_go_on_where_a_stopped_training_left_them(
    release: Path, tmp_path: Path
) -> None:
    whole = distil(job_for(release, tmp_path / "whole", student="resnet8"))
    job, steps = job_for(release, tmp_path / "cut", student="resnet8"), count()
    with pytest.raises(Interrupted):
        distil(job, should_stop=lambda: next(steps) > 15)  # in the second epoch
    assert distil(job).weights_sha256 == whole.weights_sha256
    student, _ = load_model(job.work_dir / STUDENT)
    x, y = load_dataset(DatasetConfig(), seed=0).val.tensors()
    clean = float((predict(student, x) == y).double().mean())
    assert clean == whole.clean_accuracy


def test_a_checkpoint_of_another_job_or_a_damaged_one_is_not_taken_up(
    release: Path, tmp_path: Path, undisturbed: tuple[DistilJob, DistilResult]
) -> None:
    distil(job_for(release, tmp_path, seed=5))
    job = job_for(release, tmp_path)
    assert distil(job).weights_sha256 == undisturbed[1].weights_sha256
    (tmp_path / CHECKPOINT).write_bytes(b"\x10" * 40)
    assert distil(job).weights_sha256 == undisturbed[1].weights_sha256


def test_sigterm_ends_the_child_with_143_and_keeps_the_checkpoint(
    release: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(job_for(release, tmp_path, cpu_budget_s=60.0))

    def run_and_be_terminated() -> int:
        signal.setitimer(signal.ITIMER_REAL, 3.5)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
        return main([path])

    assert forked(run_and_be_terminated) == 143
    assert said(capfd) == ("stopped while training; the last checkpoint stays\n")
    assert not (tmp_path / RESULT).exists()


WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from edge.distill.__main__ import main
status = Path("/proc/self/status").read_text()
used = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**24, used + 2**24))
sys.exit(main([sys.argv[1]]))
"""


def test_a_failed_allocation_ends_the_child_with_4_and_one_line(
    release: Path, tmp_path: Path
) -> None:
    path = written(job_for(release, tmp_path, student="large"))
    # A new interpreter: a fork of this one has room in what earlier tests freed.
    ended = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_MEMORY, path], capture_output=True, text=True
    )
    assert ended.returncode == 4
    assert ended.stderr.startswith("out of memory while distilling: ")
    assert ended.stderr.count("\n") == 1


def test_a_full_disk_ends_the_child_with_8_and_one_line(
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = written(job_for(release, tmp_path))
    monkeypatch.setenv(VARIABLE, "child.checkpoint.before_rename:enospc")
    assert forked(lambda: main([path])) == StorageError.exit_code
    err = said(capfd)
    assert "No space left on device" in err
    assert err.count("\n") == 1


def test_images_other_than_the_releases_are_refused(
    release: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "release"
    elsewhere.mkdir()
    manifest = read_manifest(release).model_copy(update={"seed": 7})
    (elsewhere / "manifest.json").write_bytes(encode_manifest(manifest))
    with pytest.raises(TrustError, match="not those of the release"):
        distil(job_for(elsewhere, tmp_path / "work"))


def test_a_missing_shard_is_named_before_any_training(
    release: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "release"
    elsewhere.mkdir()
    (elsewhere / "manifest.json").write_bytes((release / "manifest.json").read_bytes())
    with pytest.raises(TrustError, match=r"(soft_labels|deltas)-0\.safetensors"):
        distil(job_for(elsewhere, tmp_path / "work"))
