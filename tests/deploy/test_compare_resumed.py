"""A compare that is stopped goes on: trainings together, an attack from its batch."""

from pathlib import Path

import pytest
import torch
from compare_site import BUDGET_S, Site

from cloud.training.images import for_teacher
from common.data.datasets import load_dataset
from common.models.files import load_model
from common.release import TeacherCard
from common.tensor_file import encode_tensors, read_tensors
from deploy.compare.messages import GroupJob, starts_of
from deploy.compare.trained import TrainedStudents
from deploy.compare.worker import make_rows
from deploy.runtime.progress import OnProgress

STATE = "takt.state"  # of a checkpoint's header
MARK = 1000  # epochs that no training here has


class Stop(Exception):  # noqa: N818 - no error of ours
    """Ends a compare from outside."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Give a site with a teacher and its knowledge."""
    site = Site(tmp_path_factory.mktemp("compare"))
    site.group("takt", site.folder)
    return site


def stopping(at: str, share: float) -> OnProgress:
    def on_progress(step: str, done: float) -> None:
        if step == at and done >= share:
            raise Stop

    return on_progress


def stopped(group: GroupJob, at: str, share: float) -> TrainedStudents:
    with pytest.raises(Stop):
        [*make_rows(group, stopping(at, share))]
    return TrainedStudents(group.trained)


def marked(checkpoint: Path) -> None:
    """Count epochs in a checkpoint that nobody has trained."""
    note, tensors = read_tensors(checkpoint, STATE)
    note["state"]["epoch"] += MARK
    checkpoint.write_bytes(encode_tensors(tensors, STATE, note))


def epochs_of(group: GroupJob) -> list[int]:
    """Go on to the end of the trainings; say how many epochs each student has had."""
    students = stopped(group, f"attacking {group.jobs[0].method}", 0.0)
    card = (group.jobs[0].release_dir.parent / "teacher.json").read_bytes()
    teacher = TeacherCard.model_validate_json(card).weights_sha256
    found = [students.load(job.digest, teacher) for job in group.jobs]
    assert not list(group.trained.glob("*.checkpoint"))
    summaries = [student[1] for student in found if student is not None]
    assert all(each.cpu_s >= 0.99 * BUDGET_S for each in summaries if each.cpu_s)
    return [each.epochs for each in summaries]


def test_trainings_that_were_stopped_go_on_from_their_checkpoints(
    site: Site, tmp_path: Path
) -> None:
    group = site.group("takt", tmp_path)
    students = stopped(group, "training", 0.5)
    for job in group.jobs:
        marked(students.checkpoint(job.digest))
    assert all(epochs > MARK for epochs in epochs_of(group))


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_where_one_cannot_go_on_all_that_are_interleaved_begin_anew(
    site: Site, tmp_path: Path, damage: str
) -> None:
    group = site.group("takt", tmp_path)
    students = stopped(group, "training", 0.5)
    first, second = (students.checkpoint(job.digest) for job in group.jobs)
    marked(first)
    if damage == "missing":
        second.unlink()
    else:
        second.write_bytes(second.read_bytes()[:-9])
    assert all(epochs < MARK for epochs in epochs_of(group))


def test_trainings_that_others_join_begin_anew(site: Site, tmp_path: Path) -> None:
    group = site.group("takt", tmp_path)
    students = stopped(group, "training", 0.5)
    for job in group.jobs:
        marked(students.checkpoint(job.digest))
    more = site.group("takt warm_at", tmp_path)
    epochs = epochs_of(more)
    assert len(epochs) == 3 and all(each < MARK for each in epochs)


def test_the_clouds_own_student_is_not_trained_again(
    site: Site, tmp_path: Path
) -> None:
    group = site.group("shipped", tmp_path)
    stopped(group, "training", 0.0)
    shipped = tmp_path / "trained" / f"{group.jobs[0].digest}.safetensors"
    before = shipped.stat().st_mtime_ns
    stopped(group, "training", 0.0)
    assert shipped.stat().st_mtime_ns == before


def test_a_student_that_begins_with_the_clouds_own_starts_from_its_weights(
    site: Site, tmp_path: Path
) -> None:
    nothing_learnt: dict[str, object] = {"students__tiny__tuning__learning_rate": 1e-9}
    group = site.group("takt", tmp_path, "from_shipped = true", **nothing_learnt)
    stopped(group, "attacking takt", 0.0)
    (job, other), (start,) = group.jobs, starts_of(group.jobs).values()
    shipped, begun, drawn = (
        load_model(group.trained / f"{digest}.safetensors")[0].state_dict()
        for digest in (start.digest, job.digest, other.digest)
    )
    for name, weights in shipped.items():
        assert torch.allclose(begun[name], weights, atol=1e-6), name
        assert not torch.allclose(drawn[name], weights, atol=1e-2), name


def test_the_clouds_own_student_learns_from_the_images_that_its_teacher_has(
    site: Site, tmp_path: Path
) -> None:
    group = site.group("shipped", tmp_path, teacher__all_images=True)
    stopped(group, "attacking shipped", 0.0)
    trained_on = {
        job.method: load_model(group.trained / f"{job.digest}.safetensors")[
            1
        ].fingerprint
        for job in group.jobs
    }
    config = group.jobs[0].config
    dataset = load_dataset(config.dataset, seed=config.seed)
    whole = for_teacher(config, dataset).train
    assert len(whole) > 3 * len(dataset.train)
    assert trained_on == {
        "shipped": whole.fingerprint(),
        "pgd_at": dataset.train.fingerprint(),
    }


@pytest.mark.slow
def test_an_attack_that_was_stopped_goes_on_and_its_row_leaves_nothing(
    site: Site, tmp_path: Path
) -> None:
    group = site.group("takt", tmp_path)
    students = stopped(group, "attacking takt", 0.01)
    record = students.attack(group.jobs[0].digest)
    assert record.exists()
    rows = [*make_rows(group, lambda step, share: None)]
    assert not record.exists()
    for row in rows:
        students.drop(row.identity)
    assert not list(group.trained.iterdir())


def test_the_record_of_an_attack_goes_with_a_row_that_is_written(
    site: Site, tmp_path: Path
) -> None:
    group = site.group("takt", tmp_path)
    students = stopped(group, "attacking takt", 0.01)
    students.drop(group.jobs[0].digest)
    assert not students.attack(group.jobs[0].digest).exists()
