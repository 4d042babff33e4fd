"""Stage 1 as Ray jobs: trained by two workers, resumed, extracted by actors."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from train_ray import CONFIG, EPOCHS, epochs_in, reports_in

from cloud.cluster.cleanup import processes_of
from cloud.cluster.local import LocalCluster, local_cluster
from cloud.extraction.job import extract_knowledge
from cloud.storage import StorageDir
from cloud.training.job import train_teacher
from common.data.datasets import load_dataset
from common.errors import ClusterError
from common.models.files import load_model
from common.release import ShardInfo, TeacherCard

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="module")
def storage(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StorageDir, TeacherCard]:
    """An undisturbed training: its folder and the card it returned."""
    folder = StorageDir(tmp_path_factory.mktemp("storage"))
    return folder, train_teacher(CONFIG, folder)


def test_two_workers_train_a_teacher_and_report_each_epoch(
    storage: tuple[StorageDir, TeacherCard],
) -> None:
    folder, card = storage
    assert epochs_in(folder.progress) == list(range(1, EPOCHS + 1))
    model, model_card = load_model(folder.weights)
    assert model_card.fingerprint == (
        load_dataset(CONFIG.dataset, seed=0).train.fingerprint()
    )
    (robust,) = card.robust
    assert card.clean_accuracy > 0.6
    assert robust.num_images == 360
    assert 0.1 < robust.accuracy < card.clean_accuracy
    assert not model.training


def test_a_finished_training_is_returned_at_once(
    storage: tuple[StorageDir, TeacherCard],
) -> None:
    folder, card = storage
    written = folder.weights.stat().st_mtime_ns
    assert train_teacher(CONFIG, folder) == card
    assert folder.weights.stat().st_mtime_ns == written


def other_workers(cluster: LocalCluster, progress: Path) -> list[int]:
    """List the processes of the ranks that write no progress."""
    first = reports_in(progress)[-1]["pid"]
    workers = [
        process.pid
        for process in processes_of(cluster.folder)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    return [pid for pid in workers if pid != first]


@pytest.mark.slow
def test_neither_a_killed_worker_nor_ctrl_c_changes_the_teacher(
    cluster: LocalCluster, storage: tuple[StorageDir, TeacherCard], tmp_path: Path
) -> None:
    progress = tmp_path / "progress.jsonl"
    killed: list[int] = []
    ended = threading.Event()

    def disturb() -> None:
        while (done := len(epochs_in(progress))) < 8 and not ended.wait(0.01):
            if done >= 3 and not killed:
                killed.extend(other_workers(cluster, progress))
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    disturbance = threading.Thread(target=disturb)
    disturbance.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            train_teacher(CONFIG, StorageDir(tmp_path))
    finally:
        ended.set()
        disturbance.join()
    assert len(killed) == 1
    assert not psutil.pid_exists(killed[0])
    assert not (tmp_path / "teacher.json").exists()
    card = train_teacher(CONFIG, StorageDir(tmp_path))
    assert epochs_in(progress) == list(range(1, EPOCHS + 1))
    assert card == storage[1]  # the digest of the weights included


def test_actors_extract_every_sample_into_shards_that_the_index_describes(
    storage: tuple[StorageDir, TeacherCard],
) -> None:
    folder = extract_knowledge(CONFIG, storage[0])
    assert folder == storage[0].knowledge
    index = [
        ShardInfo.model_validate(s)
        for s in json.loads((folder / "index.json").read_text())
    ]
    total = len(load_dataset(CONFIG.dataset, seed=0).train)
    for content in CONFIG.knowledge.contents:
        covered = [
            i
            for shard in index
            if shard.content == content
            for i in range(shard.first, shard.first + shard.num_samples)
        ]
        assert np.array_equal(covered, range(total))
    assert all((folder / s.path).stat().st_size == s.num_bytes for s in index)
    last = json.loads((folder / "progress.jsonl").read_text().splitlines()[-1])
    assert last == {"done": total, "total": total}
    written = (folder / "index.json").stat().st_mtime_ns
    extract_knowledge(CONFIG, storage[0])
    assert (folder / "index.json").stat().st_mtime_ns == written


def test_more_workers_than_the_machine_has_are_refused_in_one_line(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    teacher = CONFIG.teacher.model_copy(update={"num_workers": 64})
    with pytest.raises(ClusterError, match="num_workers = 64") as e:
        train_teacher(
            CONFIG.model_copy(update={"teacher": teacher}), StorageDir(tmp_path)
        )
    assert "\n" not in str(e.value)
