"""Starting weights: distilled once in the cloud, measured, kept, and shipped."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import small_run

from cloud.cluster.local import local_cluster
from cloud.cluster.tasks import run_tasks
from cloud.extraction.image_shards import write_images
from cloud.extraction.recipe import recipe_of
from cloud.extraction.worker import Extractor
from cloud.publishing.publish import (
    draft_manifest,
    publish_release,
    read_index,
    read_teacher,
)
from cloud.publishing.transfer_set import released_images, released_validation
from cloud.storage import StorageDir
from cloud.training.teacher import fit_teacher
from cloud.training.teacher_card import write_teacher
from common.config import AttackConfig, RunConfig, StudentConfig, TuningConfig
from common.data.datasets import Dataset, load_dataset
from common.errors import ClusterError, ConfigError, DataError, StorageError
from common.models.files import load_model
from common.release import decode_manifest
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd
from deploy.cloud_side import distil_weights
from deploy.selection.score import student_score
from deploy.starting_weights import (
    StartingStudent,
    distil_student,
    make_starting_weights,
    starting_weights,
)

ATTACK = AttackConfig(steps=1, step_size=0.15)


def student(**changes: Any) -> StudentConfig:
    values: dict[str, Any] = {
        "model": "cnn_tiny",
        "attack": ATTACK,
        "epochs": 12,
        "batch_size": 32,
        "learning_rate": 0.3,
        "num_views": 2,
    }
    return StudentConfig(**{**values, **changes})


STUDENTS = {"tiny": student(), "plain": student(method="pgd_at", epochs=2)}
CONFIG = small_run(
    AttackConfig(steps=3, step_size=0.06),
    model="cnn_small",
    epochs=8,
    batch_size=32,
    students=STUDENTS,
    knowledge={
        "images": "transfer",
        "num_images": 60,
        "num_val_images": 30,
        "num_views": 2,
        "shift": 1,
        "weights": True,
    },
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(CONFIG.dataset, seed=0)


def extract(config: RunConfig, dataset: Dataset, storage: StorageDir) -> None:
    """Extract in this process, as the actors would."""
    storage.create(storage.knowledge)
    shards = [s.model_dump() for s in write_images(config, dataset, storage)]
    extractor = Extractor(config.model_dump_json(), str(storage.root), dataset)
    shards += extractor.extract(0, len(released_images(config, dataset)))
    storage.knowledge_index.write_text(json.dumps(shards))
    recipe = recipe_of(config, storage, dataset.train.fingerprint())
    storage.knowledge_recipe.write_text(recipe)


@pytest.fixture(scope="module")
def storage(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> StorageDir:
    """A teacher, its knowledge of the shipped images and of all of them, a student."""
    storage = StorageDir(tmp_path_factory.mktemp("cloud"))
    storage.create()
    write_teacher(CONFIG, dataset, fit_teacher(CONFIG, dataset), storage.root)
    extract(CONFIG, dataset, storage)
    whole = StorageDir(storage.starting)
    whole.create()
    whole.weights.write_bytes(storage.weights.read_bytes())
    extract(of_knowledge(CONFIG, images="same"), dataset, whole)
    for name in STUDENTS:
        distil_student(CONFIG, storage, name)
    return storage


def of_knowledge(config: RunConfig, **changes: Any) -> RunConfig:
    knowledge = config.knowledge.model_copy(update=changes)
    return config.model_copy(update={"knowledge": knowledge})


def shipped(storage: StorageDir, dataset: Dataset, config: RunConfig = CONFIG) -> Any:
    return starting_weights(config, storage, dataset.train.fingerprint())


def test_weights_are_measured_as_they_are_shipped_on_the_releases_validation_images(
    storage: StorageDir, dataset: Dataset
) -> None:
    info = shipped(storage, dataset)["tiny"]
    path = storage.starting / info.path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == info.sha256
    assert path.stat().st_size == info.num_bytes
    floats = [v for v in load_file(path).values() if v.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float16}
    model, card = load_model(path)
    assert (card.architecture, card.method, card.channel) == (
        "cnn_tiny",
        "takt",
        "test",
    )
    x, y = released_validation(CONFIG, dataset).tensors()
    assert info.clean_accuracy == clean_accuracy(model, x, y)
    attack = CONFIG.evaluation.node_attack
    robust = robust_accuracy_pgd(model, x, y, attack=attack, eps=0.15, seed=0)
    assert info.robust == robust and robust.num_images == 30


def test_weights_are_of_all_the_clouds_images_and_not_of_those_it_ships(
    storage: StorageDir, dataset: Dataset
) -> None:
    # A student of 60 images does not come near this on test images.
    model, card = load_model(storage.starting / "weights-tiny.safetensors")
    x, y = dataset.test.tensors()
    assert card.fingerprint == dataset.train.fingerprint()
    assert clean_accuracy(model, x, y) > 0.75


def test_the_same_again_gives_the_same_weights(
    storage: StorageDir, dataset: Dataset
) -> None:
    before = shipped(storage, dataset)["plain"]
    again = distil_student(CONFIG, storage, "plain")
    assert again.info == before


def test_what_is_there_is_not_made_again(storage: StorageDir) -> None:
    # No Ray is connected here: to distil anything would fail.
    make_starting_weights(CONFIG, storage)
    distil_weights(CONFIG, storage)
    other = {**STUDENTS, "tiny": student(epochs=3)}
    changed = CONFIG.model_copy(update={"students": other})
    with pytest.raises(ClusterError, match="no Ray cluster"):
        make_starting_weights(changed, storage)


def test_how_nodes_train_the_weights_further_does_not_make_them_anew(
    storage: StorageDir, dataset: Dataset
) -> None:
    further = student(tuning=TuningConfig(epochs=7), own_views=5)
    changed = CONFIG.model_copy(update={"students": {**STUDENTS, "tiny": further}})
    make_starting_weights(changed, storage)  # no Ray is connected here
    assert shipped(storage, dataset, changed) == shipped(storage, dataset)


def test_where_the_config_ships_none_none_are_made_or_read(
    storage: StorageDir, dataset: Dataset
) -> None:
    without = of_knowledge(CONFIG, weights=False)
    other = without.model_copy(update={"students": {"huge": student(epochs=3)}})
    distil_weights(other, storage)
    assert shipped(storage, dataset, other) == {}


def test_weights_of_other_options_are_refused_with_the_step_to_take(
    storage: StorageDir, dataset: Dataset
) -> None:
    for changed in (
        CONFIG.model_copy(update={"students": {"tiny": student(epochs=3)}}),
        CONFIG.model_copy(update={"seed": 1}),
        of_knowledge(CONFIG, temperature=3.0),
        of_knowledge(CONFIG, num_val_images=20),
    ):
        with pytest.raises(ConfigError, match=r"'tiny' in .* `takt cloud extract`"):
            shipped(storage, dataset, changed)
    missing = CONFIG.model_copy(update={"students": {"other": student()}})
    with pytest.raises(StorageError, match=r"other\.json: the starting weights"):
        shipped(storage, dataset, missing)


def test_damaged_weights_are_refused(storage: StorageDir, dataset: Dataset) -> None:
    path = storage.starting / "weights-tiny.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(ConfigError, match=r"'tiny' in .* are damaged"):
            shipped(storage, dataset)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("learning_rate", [1e6, 1e-9])  # it explodes, or stands still
def test_a_student_that_learned_nothing_is_not_shipped(
    storage: StorageDir, dataset: Dataset, learning_rate: float
) -> None:
    useless = student(
        method="pgd_at", epochs=1, learning_rate=learning_rate, max_gradient_norm=0
    )
    config = CONFIG.model_copy(update={"students": {"useless": useless}})
    made = distil_student(config, storage, "useless")
    assert made.info is None
    assert shipped(storage, dataset, config) == {}
    assert not (storage.starting / "weights-useless.safetensors").exists()


def test_a_release_is_published_with_its_weights(
    storage: StorageDir, dataset: Dataset
) -> None:
    weights = shipped(storage, dataset)
    manifest = publish_release(CONFIG, storage, dataset, weights=weights)
    assert set(manifest.weights) == {"tiny", "plain"}
    folder = storage.repository / "targets" / "test" / "1"
    (signed,) = folder.glob("*.manifest.json")
    assert decode_manifest(signed.read_bytes()) == manifest
    info = manifest.weights["tiny"]
    assert info.path == "test/1/weights-tiny.safetensors"
    placed = folder / f"{info.sha256}.weights-tiny.safetensors"
    made = storage.starting / "weights-tiny.safetensors"
    assert placed.read_bytes() == made.read_bytes()
    again = publish_release(CONFIG, storage, dataset, weights=weights)
    assert again.version == 1


def test_a_teacher_is_chosen_by_a_student_of_the_images_that_would_be_shipped(
    storage: StorageDir, dataset: Dataset
) -> None:
    manifest = draft_manifest(
        CONFIG,
        dataset,
        teacher=read_teacher(storage.card),
        shards=read_index(storage.knowledge_index),
    )
    # Soft labels are of 60 images; with all 360 of the split this would be an error.
    found = student_score(
        student(epochs=3), manifest, storage.knowledge, dataset, seeds=(0,)
    )
    assert 0 <= found.robust_accuracy <= found.clean_accuracy <= 1


@pytest.mark.slow
@pytest.mark.ray
def test_ray_tasks_distil_each_recipe_and_their_errors_are_takts(
    storage: StorageDir, dataset: Dataset, tmp_path: Path
) -> None:
    fresh = StorageDir(tmp_path / "cloud")
    fresh.create()
    fresh.weights.write_bytes(storage.weights.read_bytes())
    fresh.card.write_bytes(storage.card.read_bytes())
    quick = {name: student(epochs=1, method="pgd_at") for name in ("one", "two")}
    config = CONFIG.model_copy(update={"students": quick})
    lines: list[str] = []

    def fails(kind: str) -> str:
        if kind == "data":
            raise DataError("the images are damaged")
        if kind == "bug":
            raise RuntimeError("what nobody foresaw")
        return f"done {kind}"

    with local_cluster(tmp_path / "logs"):
        make_starting_weights(config, fresh, lines.append)
        assert run_tasks(fails, [("a",), ("b",)], what="a test") == ["done a", "done b"]
        with pytest.raises(DataError, match="the images are damaged"):
            run_tasks(fails, [("a",), ("data",)], what="a test")
        with pytest.raises(ClusterError, match=r"a test failed: .*nobody foresaw"):
            run_tasks(fails, [("bug",)], what="a test")
    assert [line.split(":")[0] for line in lines] == [
        "starting weights of one",
        "starting weights of two",
    ]
    for name in quick:
        text = (fresh.starting / f"{name}.json").read_text()
        assert StartingStudent.model_validate_json(text)
    assert (fresh.starting / "knowledge" / "index.json").exists()
