"""From stage 1's files to a signed release, or to one line with the error."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_run

from cloud.publishing.publish import publish_release
from cloud.storage import StorageDir
from common.config import AttackConfig
from common.data.datasets import Dataset
from common.errors import StorageError, TrustError
from common.release import TeacherCard, decode_shard, encode_shard, quantize_rows

ATTACK = AttackConfig(steps=4, step_size=0.06)
CONFIG = small_run(
    ATTACK,
    limit=None,
    model="cnn_large",
    epochs=1,
    knowledge={"temperature": 2.0},
    evaluation=AttackConfig(steps=7, step_size=0.04),
)
CARD = TeacherCard(
    architecture="cnn_large",
    num_parameters=120_000,
    weights_sha256="1" * 64,
    clean_accuracy=0.97,
    robust=(),
)


@pytest.fixture
def storage(tmp_path: Path, digits: Dataset) -> Path:
    """Make a storage folder as training and extraction leave it."""
    rng = np.random.default_rng(0)
    num_samples = len(digits.train)
    shards = []
    (tmp_path / "knowledge").mkdir()
    for first, last in ((0, 600), (600, num_samples)):
        logits = rng.standard_normal((last - first, 10)).astype(np.float32)
        quantised, scale = quantize_rows(logits)
        data = encode_shard({"logits": quantised, "logits_scale": scale})
        name = f"soft_labels-{first}.safetensors"
        (tmp_path / "knowledge" / name).write_bytes(data)
        shards.append(
            {
                "path": name,
                "content": "soft_labels",
                "first": first,
                "num_samples": last - first,
                "num_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    (tmp_path / "knowledge" / "index.json").write_text(json.dumps(shards))
    (tmp_path / "teacher.json").write_text(CARD.model_dump_json())
    return tmp_path


def test_a_manifest_holds_what_a_node_needs(storage: Path, digits: Dataset) -> None:
    manifest = publish_release(CONFIG, StorageDir(storage), digits)
    assert (manifest.channel, manifest.version) == ("test", 1)
    assert manifest.fingerprint == digits.train.fingerprint()
    assert manifest.num_samples == len(digits.train)
    assert manifest.sample_shape == (1, 8, 8)
    assert manifest.class_names == digits.class_names
    assert (manifest.eps, manifest.norm) == (0.15, "Linf")
    assert manifest.temperature == 2.0
    assert (manifest.seed, manifest.val_fraction, manifest.limit) == (0, 0.1, None)
    assert manifest.teacher == CARD
    assert manifest.students == CONFIG.students
    assert (manifest.node_attack_steps, manifest.node_attack_step_size) == (7, 0.04)
    assert [s.first for s in manifest.shards] == [0, 600]


def test_published_shards_are_where_the_manifest_says_and_decode(
    storage: Path, digits: Dataset
) -> None:
    manifest = publish_release(CONFIG, StorageDir(storage), digits)
    for shard in manifest.shards:
        folder, _, name = shard.path.rpartition("/")
        place = storage / "repository/targets" / folder / f"{shard.sha256}.{name}"
        arrays = decode_shard(place.read_bytes(), shard, manifest)
        assert arrays["logits"].shape == (shard.num_samples, 10)


def test_publishing_again_what_is_published_is_no_new_version(
    storage: Path, digits: Dataset
) -> None:
    first = publish_release(CONFIG, StorageDir(storage), digits)
    assert publish_release(CONFIG, StorageDir(storage), digits) == first
    assert publish_release(CONFIG, StorageDir(storage), digits, force=True).version == 2


def test_a_new_recipe_is_a_new_version_of_the_same_knowledge(
    storage: Path, digits: Dataset
) -> None:
    publish_release(CONFIG, StorageDir(storage), digits)
    recipes = {**CONFIG.students, "small": CONFIG.students["tiny"]}
    changed = CONFIG.model_copy(update={"students": recipes})
    assert publish_release(changed, StorageDir(storage), digits).version == 2


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("teacher.json", "train the teacher"),
        ("knowledge/index.json", "extract the knowledge"),
    ],
)
def test_a_step_that_was_left_out_or_is_damaged_is_named(
    storage: Path, digits: Dataset, path: str, step: str
) -> None:
    for content in ("{", "{}x", '{"a": 1}', "[1]"):
        (storage / path).write_text(content)
        with pytest.raises(StorageError, match=rf"is damaged: .*; {step} again"):
            publish_release(CONFIG, StorageDir(storage), digits)
    (storage / path).unlink()
    with pytest.raises(StorageError, match=f"{path}.*; {step} first"):
        publish_release(CONFIG, StorageDir(storage), digits)


def test_knowledge_that_misses_samples_is_not_published(
    storage: Path, digits: Dataset
) -> None:
    index = storage / "knowledge" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text())[:1]))
    with pytest.raises(TrustError, match="hold 600 samples, expected"):
        publish_release(CONFIG, StorageDir(storage), digits)
    assert not (storage / "repository").exists() and not (storage / "keys").exists()


@pytest.mark.parametrize(
    "path",
    ["teacher.json", "knowledge/index.json", "knowledge/soft_labels-0.safetensors"],
)
def test_no_keys_are_made_for_what_cannot_be_published(
    storage: Path, digits: Dataset, path: str
) -> None:
    (storage / path).unlink()
    with pytest.raises(StorageError, match=path.rpartition("/")[2]):
        publish_release(CONFIG, StorageDir(storage), digits)
    assert not (storage / "repository").exists() and not (storage / "keys").exists()
