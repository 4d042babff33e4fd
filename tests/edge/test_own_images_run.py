"""A distillation on the release's images and the node's: what it uses and measures."""

import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_site import job_for, recipe, write_release
from PIL import Image
from transfer_site import (
    CLOUD,
    NUM_VAL,
    changed_release,
    own_folder,
    student,
    write_transfer_release,
)

from common.config import OwnImagesConfig, TuningConfig
from common.data.datasets import load_dataset
from common.errors import ConfigError, DataError, Interrupted, TrustError
from common.models.card import ModelCard
from common.models.files import load_model, save_model
from common.models.zoo import build_model
from edge.daemon.promotion import decide
from edge.distill.knowledge import read_manifest
from edge.distill.prepare import prepare
from edge.distill.run import distil
from edge.jobs.job import (
    RESULT,
    DistilJob,
    DistilResult,
    RobustAccuracies,
    read_message,
)
from edge.state import STUDENT, Promoted


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transfer_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def from_scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release without starting weights."""
    return write_transfer_release(tmp_path_factory.mktemp("lean"), weights=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_folder(tmp_path_factory.mktemp("own") / "images", 120, unlabelled=20)


def in_folder(folder: Path, **how: Any) -> OwnImagesConfig:
    return OwnImagesConfig(folder=folder, **how)


def test_a_node_without_images_is_taught_by_those_of_the_release(
    from_scratch: Path, tmp_path: Path
) -> None:
    result = distil(job_for(from_scratch, tmp_path))
    assert result.robust == result.release_robust
    assert result.robust[0].num_images == NUM_VAL
    assert result.own_images == 0
    assert result.shipped is None


def test_a_node_with_images_is_measured_on_both_and_counts_them(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    result = distil(job_for(release, tmp_path, own=in_folder(folder)))
    num_val = result.robust[0].num_images
    assert result.own_images == 120 - num_val
    assert result.own_labelled == 100 - num_val
    assert 10 <= num_val <= 20
    assert result.release_robust[0].num_images == NUM_VAL
    assert result.shipped is not None
    assert result.shipped.own_robust is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.safetensors",
        "outcome.json",
        "progress.jsonl",
        "student.safetensors",
    ]  # and no file of pixels


def test_a_result_is_written_where_an_unreadable_images_name_is_not_utf8(
    release: Path, tmp_path: Path
) -> None:
    folder = own_folder(tmp_path / "images", 40)
    (folder / "1" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    job = job_for(release, tmp_path / "work", own=in_folder(folder))
    assert any(r"caf\udce9.png" in note for note in distil(job).notes)
    assert read_message(job.work_dir / RESULT, DistilResult).own_images > 0


def test_drawn_images_are_a_nodes_own_like_those_of_a_folder(
    release: Path, tmp_path: Path
) -> None:
    own = OwnImagesConfig(images=90, classes=(2, 5, 8), labelled=0.5, shift="blur")
    result = distil(job_for(release, tmp_path, own=own))
    assert result.own_images == 90 - result.robust[0].num_images
    assert result.own_labelled + result.robust[0].num_images == 45


def test_the_starting_weights_are_trained_as_the_tuning_says(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(release)
    how = student(tuning=TuningConfig(epochs=2))
    changed = manifest.model_copy(update={"students": {"tiny": how}})
    other = changed_release(release, tmp_path / "release", changed)
    result = distil(job_for(other, tmp_path / "work", own=in_folder(folder)))
    assert result.epochs == 2


def interrupted(job: DistilJob, after: int) -> None:
    steps = count()
    with pytest.raises(Interrupted):
        distil(job, should_stop=lambda: next(steps) > after)


def test_a_distillation_on_both_that_was_stopped_repeats_exactly(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    own = in_folder(folder)
    whole = distil(job_for(release, tmp_path / "whole", own=own))
    job = job_for(release, tmp_path / "cut", own=own)
    interrupted(job, after=30)  # of 60: thirty epochs of two steps
    assert (job.work_dir / "checkpoint.safetensors").exists()
    assert distil(job).weights_sha256 == whole.weights_sha256


def test_a_checkpoint_of_other_own_images_is_not_taken_up(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    own = in_folder(own_folder(tmp_path / "images", 60))
    job = job_for(release, tmp_path / "work", own=own)
    interrupted(job, after=30)
    first, second = sorted((tmp_path / "images").glob("1/*.png"))[:2]
    first.write_bytes(second.read_bytes())  # as many as before, and one is another
    anew = distil(job_for(release, tmp_path / "anew", own=own))
    assert distil(job).weights_sha256 == anew.weights_sha256


def wild(release: Path, folder: Path, **fields: Any) -> Path:
    """A release whose tuning destroys the starting weights."""
    manifest = read_manifest(release)
    how = student(
        learning_rate=1000.0,
        max_gradient_norm=0.0,
        tuning=TuningConfig(learning_rate=1.0, epochs=4),
    )
    changed = manifest.model_copy(update={"students": {"tiny": how}, **fields})
    return changed_release(release, folder, changed)


def test_starting_weights_that_training_made_worse_stay_the_student(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    job = job_for(
        wild(release, tmp_path / "wild"), tmp_path / "work", own=in_folder(folder)
    )
    result = distil(job)
    assert "as_shipped" in result.flags
    assert not result.collapsed
    assert result.shipped is not None
    assert result.robust[0].accuracy == result.shipped.own_robust
    assert result.release_robust[0].accuracy == result.shipped.release_robust
    shipped, _ = load_model(release / "weights-tiny.safetensors")
    kept, _ = load_model(job.work_dir / STUDENT)
    weights = kept.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in shipped.state_dict().items())


def test_a_comparison_keeps_what_training_made_however_bad_it_is(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    other = wild(release, tmp_path / "wild")
    job = job_for(other, tmp_path / "work", own=in_folder(folder), without="teacher")
    assert "as_shipped" not in distil(job).flags


def test_the_student_that_serves_is_measured_on_the_same_images(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    serving = release / "weights-tiny.safetensors"
    result = distil(job_for(release, tmp_path, own=in_folder(folder), serving=serving))
    assert result.serving == result.shipped


def test_wrong_class_folders_are_pointed_out(release: Path, tmp_path: Path) -> None:
    wrong = own_folder(tmp_path / "images", 100, rename=1)
    result = distil(job_for(release, tmp_path / "work", own=in_folder(wrong)))
    (note,) = [note for note in result.notes if "disagree" in note]
    assert note.endswith(
        "own images disagree with the release's student: are they in the right class "
        "folders?"
    )


def test_right_class_folders_are_not(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    result = distil(job_for(release, tmp_path, own=in_folder(folder)))
    assert result.notes == ()


def lean(release: Path, folder: Path) -> Path:
    """A release without its soft labels on disk."""
    copy = changed_release(release, folder, read_manifest(release))
    for path in copy.glob("soft_labels-*"):
        path.unlink()
    return copy


def comparison(release: Path, folder: Path, work: Path, without: str) -> DistilResult:
    own = in_folder(folder)
    return distil(job_for(release, work, own=own, without=without))


def test_without_the_teacher_images_and_weights_stay_and_labels_are_the_true_ones(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    there = lean(release, tmp_path / "release")
    result = comparison(there, folder, tmp_path / "work", "teacher")
    assert result.method == "warm_at"
    assert result.shipped is not None
    assert result.own_images > 0
    assert any("without a label are left out" in note for note in result.notes)


def test_without_the_release_own_images_alone_are_trained_on_from_scratch(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    there = lean(release, tmp_path / "release")
    result = comparison(there, folder, tmp_path / "work", "release")
    assert result.method == "warm_at"
    assert result.shipped is None
    assert result.curve[0].epochs == student().epochs
    assert result.batch_size <= result.own_images


def test_without_the_release_unlabelled_images_are_too_little(
    release: Path, tmp_path: Path
) -> None:
    folder = own_folder(tmp_path / "images", 20, unlabelled=20)
    with pytest.raises(DataError, match=r"none of the 20 training images has labels"):
        comparison(release, folder, tmp_path / "work", "release")


def test_images_that_are_not_to_be_shared_are_not_trained_on_with_a_live_teacher(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    job = job_for(release, tmp_path, own=in_folder(folder), student="adaad")
    with pytest.raises(ConfigError, match="share_images"):
        distil(job)


def test_damaged_starting_weights_are_refused(release: Path, tmp_path: Path) -> None:
    there = changed_release(release, tmp_path / "release", read_manifest(release))
    path = there / "weights-tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(TrustError, match=r"weights .* have sha256 .* declares"):
        distil(job_for(there, tmp_path / "work"))


def test_starting_weights_of_another_model_are_refused_with_both_names(
    release: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(release)
    path = tmp_path / "weights-tiny.safetensors"
    _, card = load_model(release / "weights-tiny.safetensors")
    model = build_model("cnn_small", in_channels=1, image_size=8, num_classes=10)
    given = ModelCard.model_validate({**card.model_dump(), "architecture": "cnn_small"})
    sha256 = save_model(path, model, given)
    info = manifest.weights["tiny"].model_copy(update={"sha256": sha256})
    changed = manifest.model_copy(update={"weights": {"tiny": info}})
    there = changed_release(release, tmp_path / "release", changed)
    (there / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TrustError) as refused:
        distil(job_for(there, tmp_path / "work"))
    assert str(refused.value) == (
        "starting weights of 'tiny' are of cnn_small for 1x8x8, 10 classes, expected "
        "cnn_tiny for 1x8x8, 10 classes; publish the release again"
    )


def test_a_copy_of_an_image_that_the_release_measures_with_is_not_trained_on(
    release: Path, tmp_path: Path
) -> None:
    val = load_dataset(CLOUD, seed=0).val
    folder = own_folder(tmp_path / "images", 40)
    place = folder / "unlabelled" / "copy.png"
    place.parent.mkdir()
    Image.fromarray(val.images[0][0]).save(place)
    job = job_for(release, tmp_path / "work", own=in_folder(folder))
    ready = prepare(job, read_manifest(release), should_stop=lambda: False)
    assert ready.num_own + len(ready.own_val.y) == 40
    assert any("1 of 41 images" in note for note in ready.notes)


def with_method(release: Path, folder: Path, name: str) -> Path:
    """A release whose student is of another method."""
    changed = read_manifest(release).model_copy(
        update={"students": {"tiny": student(method=name)}}
    )
    return changed_release(release, folder, changed)


def test_a_method_without_a_teacher_shares_no_image_and_needs_no_gateway(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    there = with_method(release, tmp_path / "release", "pgd_at")
    own = in_folder(folder, share_images=True)
    job = job_for(there, tmp_path / "work", own=own)
    ready = prepare(job, read_manifest(there), should_stop=lambda: False)
    assert ready.num_own == ready.num_labelled == 100 - len(ready.own_val.y)
    assert ready.notes == (
        "20 own images without a label are left out: method pgd_at needs labels",
    )


def test_own_images_that_a_method_can_make_nothing_of_are_not_counted_as_used(
    release: Path, folder: Path, tmp_path: Path
) -> None:
    there = with_method(release, tmp_path / "release", "rslad")
    job = job_for(there, tmp_path / "work", own=in_folder(folder))
    result = distil(job)
    assert (result.own_images, result.own_labelled) == (0, 0)
    (note,) = result.notes
    assert "own images are left out: method rslad needs the teacher's answers" in note


def test_a_student_that_forgets_is_kept_back_where_own_images_only_measure(
    folder: Path, tmp_path: Path
) -> None:
    release = write_release(tmp_path)  # of the nodes' own images: it ships none
    how = recipe(method="rslad", epochs=1)
    manifest = read_manifest(release).model_copy(update={"students": {"tiny": how}})
    there = changed_release(release, tmp_path / "release", manifest)
    result = distil(job_for(there, tmp_path / "work", own=in_folder(folder)))
    assert result.own_images == 0
    serving = Promoted(
        channel=manifest.channel,
        version=manifest.version,
        student="tiny",
        folder="1",
        weights_sha256="0" * 64,
        dataset=manifest.dataset,
        fingerprint=manifest.fingerprint,
        eps=manifest.eps,
        clean_accuracy=0.9,
        robust=result.robust,
    )
    figures = RobustAccuracies(own_robust=0.0, release_robust=1.0)
    result = result.model_copy(update={"serving": figures})
    outcome, message = decide(result, manifest, serving)
    assert (outcome, message[:7]) == ("kept", "forgets")
