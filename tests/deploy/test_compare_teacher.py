"""The teacher of `takt compare`: cut, resumed, damaged; what it ships, and of what."""

import shutil
from pathlib import Path

import pytest
import torch
from small_runs import tiny_run

from cloud.training.images import for_teacher
from cloud.training.teacher import TeacherRun, fit_teacher
from cloud.training.teacher_card import write_teacher
from common.config import RunConfig
from common.data.datasets import Dataset, load_dataset
from common.errors import ConfigError
from common.models.files import load_model
from common.release import Manifest
from deploy.compare.teacher import prepare_shipping, prepare_stage, train_here
from edge.distill.knowledge import read_knowledge, read_manifest

CONFIG = tiny_run()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(CONFIG.dataset, seed=0)


class Cut(Exception):  # noqa: N818 - no error of ours
    """Ends a training from outside."""


def trained(dataset: Dataset, folder: Path) -> tuple[TeacherRun, list[float]]:
    """Train to the end; return the run and the shares that were reported."""
    shares: list[float] = []
    run = train_here(CONFIG, dataset, folder, lambda step, share: shares.append(share))
    return run, shares


def same_weights(one: TeacherRun, other: TeacherRun) -> bool:
    found, wanted = (r.best_model().state_dict() for r in (one, other))
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_training_that_was_cut_ends_as_a_whole_one(
    dataset: Dataset, tmp_path: Path
) -> None:
    folders = tmp_path / "whole", tmp_path / "cut"
    for folder in folders:
        folder.mkdir()
    whole, shares = trained(dataset, folders[0])
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1])

    def cut(step: str, share: float) -> None:
        if share > 0.5:
            raise Cut

    with pytest.raises(Cut):
        train_here(CONFIG, dataset, folders[1], cut)
    resumed, shares = trained(dataset, folders[1])
    assert shares == pytest.approx([2 / 3, 1])
    assert same_weights(resumed, whole)


def test_a_damaged_checkpoint_costs_time_only(dataset: Dataset, tmp_path: Path) -> None:
    whole, _ = trained(dataset, tmp_path)
    (checkpoint,) = tmp_path.iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    again, shares = trained(dataset, tmp_path)
    assert shares[0] == 0
    assert same_weights(again, whole)


def prepared(config: RunConfig, work: Path) -> tuple[Path, Path]:
    """Prepare what nodes pull, and what the cloud ships its student from."""
    release = prepare_stage(config, work, lambda step, share: None)
    recipes = [*config.students.values()]
    shipping = prepare_shipping(
        config, recipes, release, work, lambda step, share: None
    )
    return release, shipping


@pytest.mark.parametrize(("which", "count"), [("all", 1437 - 20), ("others", 1237)])
def test_what_is_shipped_is_distilled_from_all_that_the_teacher_has(
    dataset: Dataset, tmp_path: Path, which: str, count: int
) -> None:
    config = tiny_run(images=which)
    release, shipping = prepared(config, tmp_path)
    own, more = read_manifest(release), read_manifest(shipping)
    images = for_teacher(config, dataset).train
    assert (own.num_samples, more.num_samples) == (180, count)
    assert more.fingerprint == images.fingerprint() != own.fingerprint
    assert more.teacher == own.teacher
    known = read_knowledge(more, shipping, config.students["tiny"])
    model, _ = load_model(release.parent / "teacher.safetensors")
    x = images.tensors()[0]
    with torch.no_grad():
        answers = torch.softmax(model(x) / config.knowledge.temperature, -1)
    assert known.soft_labels is not None
    assert float((known.soft_labels - answers).abs().max()) < 0.05  # int8


def test_where_nodes_hold_the_teachers_images_the_release_is_what_it_ships_from(
    tmp_path: Path,
) -> None:
    release, shipping = prepared(CONFIG, tmp_path)
    assert shipping == release


@pytest.fixture(scope="module")
def job_storage(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder as a job leaves it that trained the teacher."""
    folder = tmp_path_factory.mktemp("storage")
    run = fit_teacher(CONFIG, dataset)
    write_teacher(CONFIG, dataset, run, folder)
    return folder


def with_teacher(config: RunConfig, work: Path, teacher: Path) -> Manifest:
    release = prepare_stage(config, work, lambda step, share: None, teacher=teacher)
    return read_manifest(release)


def test_a_jobs_teacher_is_taken_instead_of_training_one(
    job_storage: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    release = prepare_stage(
        CONFIG, tmp_path, lambda step, share: steps.append(step), teacher=job_storage
    )
    assert "teacher" not in steps
    taken = (release.parent / "teacher.safetensors").read_bytes()
    assert taken == (job_storage / "teacher.safetensors").read_bytes()


def test_a_teacher_of_other_options_is_refused_by_their_name(
    job_storage: Path, tmp_path: Path
) -> None:
    other = tiny_run(learning_rate=0.05)
    with pytest.raises(ConfigError, match=r"teacher\.learning_rate"):
        with_teacher(other, tmp_path, job_storage)


def test_a_storage_folder_without_a_finished_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished teacher"):
        with_teacher(CONFIG, tmp_path / "work", tmp_path)


def test_knowledge_of_another_teacher_is_not_taken_for_that_of_the_given_one(
    dataset: Dataset, job_storage: Path, tmp_path: Path
) -> None:
    work, changed = tmp_path / "work", tmp_path / "changed"
    with_teacher(CONFIG, work, job_storage)
    run = fit_teacher(CONFIG, dataset)
    with torch.no_grad():
        next(iter(run.best.model.parameters())).add_(0.01)
    changed.mkdir()
    write_teacher(CONFIG, dataset, run, changed)
    assert with_teacher(CONFIG, work, job_storage)
    with pytest.raises(ConfigError, match="another --work"):
        with_teacher(CONFIG, work, changed)


def test_of_the_teachers_images_nothing_is_extracted_that_no_student_reads(
    tmp_path: Path,
) -> None:
    knowledge = {
        "contents": ("soft_labels", "deltas", "boundary_points"),
        "num_views": 9,
        "shift": 1,
    }
    config = tiny_run(all_images=True)
    known = config.knowledge.model_copy(update=knowledge)
    config = config.model_copy(update={"knowledge": known})
    recipe = config.students["tiny"].model_copy(
        update={"method": "rslad", "num_views": 2}
    )
    config = config.model_copy(update={"students": {"tiny": recipe}})
    shards = read_manifest(prepared(config, tmp_path)[1]).shards
    assert {(s.content, s.view) for s in shards} == {
        ("soft_labels", 0),
        ("soft_labels", 1),
    }


def test_knowledge_to_ship_from_is_extracted_once(tmp_path: Path) -> None:
    config = tiny_run(all_images=True)
    shipping = prepared(config, tmp_path)[1]
    made = {path: path.stat().st_mtime_ns for path in shipping.iterdir()}
    assert prepared(config, tmp_path)[1] == shipping
    assert {path: path.stat().st_mtime_ns for path in shipping.iterdir()} == made


def test_knowledge_to_ship_from_follows_the_teacher(
    dataset: Dataset, tmp_path: Path
) -> None:
    config, work = tiny_run(images="others"), tmp_path / "work"
    release, shipping = prepared(config, work)
    first = read_manifest(shipping).teacher
    run = fit_teacher(config, for_teacher(config, dataset))
    with torch.no_grad():
        next(iter(run.best.model.parameters())).add_(0.01)
    write_teacher(config, dataset, run, release.parent)
    shutil.rmtree(release)
    release, shipping = prepared(config, work)
    second = read_manifest(shipping).teacher
    assert second == read_manifest(release).teacher != first
