"""The steps of the cloud side after each other, on one storage folder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_run

from cloud.extraction.recipe import recipe_of
from cloud.publishing.repository import ReleaseRepository
from cloud.storage import StorageDir
from cloud.training.teacher_files import as_trial, teacher_digest, teacher_options
from common.config import AttackConfig, RunConfig
from common.data.datasets import Dataset, load_dataset
from common.errors import ConfigError, DataError, StorageError, TaktError
from deploy.cli.main import invoke
from deploy.cloud_side import extract, has_release, publish

CONFIG = small_run(AttackConfig(steps=4, step_size=0.06), model="cnn_tiny", epochs=1)
SAME = "give each step the same, or"


@pytest.fixture(scope="module")
def images() -> Dataset:
    return load_dataset(CONFIG.dataset, seed=CONFIG.seed)


@pytest.fixture
def storage(tmp_path: Path, images: Dataset) -> StorageDir:
    """Record what `train` and `extract` record, of a teacher that nobody reads."""
    storage = StorageDir(tmp_path)
    storage.create(storage.knowledge)
    storage.weights.write_bytes(b"weights")
    record_teacher(storage, CONFIG)
    recipe = recipe_of(CONFIG, storage, images.train.fingerprint())
    storage.knowledge_recipe.write_text(recipe)
    return storage


def record_teacher(storage: StorageDir, config: RunConfig) -> None:
    card = {"recipe": teacher_digest(config), "options": teacher_options(config)}
    storage.card.write_text(json.dumps(card))


def changed(table: str, **values: Any) -> RunConfig:
    if not table:
        return CONFIG.model_copy(update=values)
    inner = getattr(CONFIG, table).model_copy(update=values)
    return CONFIG.model_copy(update={table: inner})


def refusal(step: Any, config: RunConfig, storage: StorageDir) -> TaktError:
    with pytest.raises(TaktError) as caught:
        step(config, storage)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("step", [extract, publish])
@pytest.mark.parametrize(
    ("config", "told"),
    [
        (changed("", seed=1), "seed = 1, but the teacher in {} was trained with 0"),
        (changed("threat", eps=0.2), "threat.eps = 0.2, .* trained with 0.15"),
        (changed("dataset", limit=None), "dataset.limit = .none., .* with 400"),
        (changed("dataset", val_fraction=0.2), "dataset.val_fraction = 0.2, .* 0.1"),
        (changed("teacher", flip=True), "teacher.flip = True, .* with False"),
        (changed("teacher", all_images=True), "all_images = True, .* with False"),
        (
            changed("teacher", attack=AttackConfig(steps=9, step_size=0.06)),
            "teacher.attack.steps = 9, .* with 4",
        ),
    ],
)
def test_a_step_refuses_options_that_the_teacher_was_not_trained_with(
    storage: StorageDir, step: Any, config: RunConfig, told: str
) -> None:
    error = refusal(step, config, storage)
    assert isinstance(error, ConfigError)
    line = f"{told.format(storage.root)}.*; {SAME} train"
    assert re.search(line, str(error)), error


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (changed("knowledge", num_views=4, shift=1), "num_views = 4, .* with 1"),
        (changed("knowledge", contents=("deltas",)), "knowledge.contents = .*deltas"),
        (changed("knowledge", boundary_steps=3), "boundary_steps = 3, .* with 10"),
    ],
)
def test_publish_refuses_options_that_the_knowledge_was_not_extracted_with(
    storage: StorageDir, config: RunConfig, told: str
) -> None:
    error = refusal(publish, config, storage)
    assert isinstance(error, ConfigError)
    assert re.search(f"{told}.*; {SAME} extract", str(error)), error


def test_a_step_alone_that_fails_says_so_to_those_who_wait(storage: StorageDir) -> None:
    with pytest.raises(ConfigError):
        invoke(
            ["cloud", "publish", "--config", "digits", "--storage", str(storage.root)]
        )
    with pytest.raises(ConfigError, match=r"the cloud job failed: .* was trained with"):
        storage.raise_failure()


def test_publish_refuses_knowledge_of_another_teacher(storage: StorageDir) -> None:
    storage.weights.write_bytes(b"others")
    error = refusal(publish, CONFIG, storage)
    assert isinstance(error, StorageError) and "of another teacher" in str(error)


def test_publish_refuses_knowledge_of_images_that_have_changed(
    storage: StorageDir,
) -> None:
    recipe = recipe_of(CONFIG, storage, "f" * 64)
    storage.knowledge_recipe.write_text(recipe)
    error = refusal(publish, CONFIG, storage)
    assert isinstance(error, DataError) and "of split ffffffffffff" in str(error)


def test_publish_names_a_record_that_is_missing_or_damaged(storage: StorageDir) -> None:
    for text in ("{", "[]", "{}"):
        storage.knowledge_recipe.write_text(text)
        assert "is damaged; extract" in str(refusal(publish, CONFIG, storage))
    storage.knowledge_recipe.unlink()
    assert "extract the knowledge first" in str(refusal(publish, CONFIG, storage))


def test_an_older_card_without_its_options_is_compared_by_their_digest(
    storage: StorageDir,
) -> None:
    storage.card.write_text(json.dumps({"recipe": teacher_digest(CONFIG)}))
    # As far as its publishing would get with the same options: this is no card.
    assert "is damaged" in str(refusal(publish, CONFIG, storage))
    error = refusal(publish, changed("", seed=1), storage)
    assert isinstance(error, ConfigError) and "with other options" in str(error)


@pytest.mark.parametrize("step", [extract, publish])
def test_the_teacher_of_a_trial_is_used_only_where_a_trial_is_asked_for(
    step: Any, storage: StorageDir
) -> None:
    big = changed("teacher", use_gpu=True, epochs=30)
    record_teacher(storage, as_trial(big))
    error = refusal(step, big, storage)
    assert isinstance(error, ConfigError)
    assert str(error).startswith("teacher.epochs = 30, but the teacher in ")


def test_a_trial_that_is_asked_for_may_be_published(storage: StorageDir) -> None:
    asked = changed("teacher", use_gpu=True, epochs=30, trial=True)
    record_teacher(storage, as_trial(asked))
    # Accepted as far as this: it is no whole card.
    assert "teacher.json is damaged" in str(refusal(publish, asked, storage))


def test_a_folder_has_a_release_when_its_channel_has_one(tmp_path: Path) -> None:
    storage = StorageDir(tmp_path)
    assert not has_release(CONFIG, storage)
    repository = ReleaseRepository(storage.repository, storage.keys)
    repository.create()
    assert not has_release(CONFIG, storage)
