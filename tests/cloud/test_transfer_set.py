"""The images that a release ships: which they are, and that it says what they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import TINY_ATTACK, small_card, small_run

from cloud.extraction.image_shards import write_images
from cloud.extraction.recipe import recipe_of
from cloud.extraction.worker import Extractor
from cloud.publishing.origins import ORIGINS
from cloud.publishing.publish import publish_release
from cloud.publishing.transfer_set import released_images, released_validation
from cloud.storage import StorageDir
from common.config import DatasetConfig, RunConfig
from common.data.datasets import Dataset, Split, load_dataset
from common.data.views import Views, show
from common.models.files import save_model
from common.models.zoo import build_model
from common.release import (
    Manifest,
    ShardInfo,
    TeacherCard,
    dequantize_rows,
    release_images,
)

TRANSFER = {"images": "transfer", "num_images": 100, "num_val_images": 20}


def run_with(**knowledge: Any) -> RunConfig:
    return small_run(TINY_ATTACK, model="cnn_tiny", epochs=1, knowledge=knowledge)


CONFIG = run_with(**TRANSFER, num_views=3, shift=1)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(CONFIG.dataset, seed=0)


@pytest.fixture
def storage(tmp_path: Path, dataset: Dataset) -> StorageDir:
    """Leave a teacher that knows nothing, as a training would."""
    storage = StorageDir(tmp_path)
    storage.create(storage.knowledge)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    card = small_card(fingerprint=dataset.train.fingerprint())
    sha256 = save_model(storage.weights, model, card)
    teacher = TeacherCard(
        architecture="cnn_tiny",
        num_parameters=1,
        weights_sha256=sha256,
        clean_accuracy=0.1,
        robust=(),
    )
    storage.card.write_text(teacher.model_dump_json())
    return storage


def published(config: RunConfig, storage: StorageDir, dataset: Dataset) -> Manifest:
    """Extract and publish in this process."""
    samples = len(released_images(config, dataset))
    extractor = Extractor(config.model_dump_json(), str(storage.root), dataset)
    shards = [s.model_dump() for s in write_images(config, dataset, storage)]
    shards += extractor.extract(0, samples)
    storage.knowledge_index.write_text(json.dumps(shards))
    return publish_release(config, storage, dataset)


def where_found(part: Split, whole: Split) -> list[int]:
    """Find the images of one split in another."""
    place = {image.tobytes(): i for i, image in enumerate(whole.images)}
    return [place[image.tobytes()] for image in part.images]


def test_a_transfer_set_has_each_class_at_its_own_share(dataset: Dataset) -> None:
    chosen = released_images(CONFIG, dataset)
    assert len(chosen) == 100
    wanted = np.bincount(dataset.train.labels) * 100 / len(dataset.train)
    assert (np.abs(np.bincount(chosen.labels) - wanted) < 1).all()
    positions = where_found(chosen, dataset.train)
    assert positions == sorted(set(positions))
    assert (dataset.train.labels[positions] == chosen.labels).all()


def test_a_transfer_set_is_the_same_each_time_and_another_with_another_seed(
    dataset: Dataset,
) -> None:
    first = released_images(CONFIG, dataset).fingerprint()
    assert released_images(CONFIG, dataset).fingerprint() == first
    other = CONFIG.model_copy(update={"seed": 1})
    assert released_images(other, dataset).fingerprint() != first


def test_shipped_validation_images_are_of_those_that_nobody_trains_on(
    dataset: Dataset,
) -> None:
    val = released_validation(CONFIG, dataset)
    assert len(val) == 20
    assert len(set(where_found(val, dataset.val))) == 20


def test_a_cloud_with_fewer_images_ships_all_of_them(dataset: Dataset) -> None:
    config = run_with(images="transfer", num_images=5000, num_val_images=5000)
    assert released_images(config, dataset) is dataset.train
    assert released_validation(config, dataset) is dataset.val


def test_where_nodes_hold_the_same_images_none_are_shipped(
    dataset: Dataset, storage: StorageDir
) -> None:
    config = run_with(num_images=50)
    assert released_images(config, dataset) is dataset.train
    manifest = published(config, storage, dataset)
    assert {s.content for s in manifest.shards} == {"soft_labels"}
    assert manifest.fingerprint == dataset.train.fingerprint()
    assert (manifest.images, manifest.num_val, manifest.source) == ("same", 0, "")


def test_a_release_ships_its_images_and_says_where_they_are_from(
    dataset: Dataset, storage: StorageDir
) -> None:
    manifest = published(CONFIG, storage, dataset)
    assert (manifest.images, manifest.num_samples, manifest.num_val) == (
        "transfer",
        100,
        20,
    )
    assert manifest.licence == "CC BY 4.0" and "Alpaydin" in manifest.source
    shipped, labels = release_images(manifest, "images", reader(storage))
    assert Split(shipped, labels).fingerprint() == manifest.fingerprint
    assert np.array_equal(shipped, released_images(CONFIG, dataset).images)
    val, _ = release_images(manifest, "val_images", reader(storage))
    assert np.array_equal(val, released_validation(CONFIG, dataset).images)


def reader(storage: StorageDir) -> Any:
    def read(shard: ShardInfo) -> bytes:
        return (storage.knowledge / Path(shard.path).name).read_bytes()

    return read


def test_soft_labels_are_of_the_views_of_the_shipped_images(
    dataset: Dataset, storage: StorageDir
) -> None:
    import torch
    from safetensors.numpy import load

    from common.models.files import load_model

    manifest = published(CONFIG, storage, dataset)
    model, _ = load_model(storage.weights)
    shipped, labels = release_images(manifest, "images", reader(storage))
    x, _ = Split(shipped, labels).tensors()
    views = Views.draw(100, 3, shift=1, flip=False, seed=manifest.seed)
    shards = [s for s in manifest.shards if s.content == "soft_labels"]
    assert [s.view for s in shards] == [0, 1, 2]
    for shard in shards:
        arrays = load(reader(storage)(shard))
        found = dequantize_rows(arrays["logits"], arrays["logits_scale"])
        which = torch.full((100,), shard.view)
        index = views.index(torch.arange(100), which, 8, 8)
        with torch.no_grad():
            exact = model(show(x, index, 1)).numpy()
        assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_a_stated_licence_takes_the_place_of_the_known_one(
    dataset: Dataset, storage: StorageDir
) -> None:
    config = run_with(**TRANSFER, licence="ours alone")
    assert published(config, storage, dataset).licence == "ours alone"


def test_every_data_set_has_an_origin() -> None:
    names = DatasetConfig.model_json_schema()["properties"]["name"]["enum"]
    assert set(ORIGINS) == set(names)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({}, {"num_images": 50, "num_val_images": 50}, True),
        ({}, {"licence": "x", "weights": True}, True),
        ({}, {"images": "transfer"}, False),
        (TRANSFER, {**TRANSFER, "num_images": 99}, False),
        (TRANSFER, {**TRANSFER, "num_val_images": 19}, False),
    ],
)
def test_knowledge_is_extracted_anew_for_other_samples_alone(
    storage: StorageDir, one: dict[str, Any], other: dict[str, Any], is_same: bool
) -> None:
    recipes = [recipe_of(run_with(**k), storage, "f" * 64) for k in (one, other)]
    assert (recipes[0] == recipes[1]) == is_same
