"""Stage 1 of `takt compare`: one teacher and its knowledge for all rows of a config.

Made in this process, without Ray, or taken from the storage folder of a job that
trained it (`takt cloud train`), and kept in the work folder: the next compare uses it
again, and a training that was cut goes on at its last epoch. Students read its
knowledge as they would read a pulled release. Where the teacher has other images than
nodes, a cloud distils what it ships from the teacher's: their knowledge has a folder of
its own. Not here: the students.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cloud.extraction.job import shard_ranges
from cloud.extraction.worker import Extractor
from cloud.publishing.publish import draft_manifest, read_teacher
from cloud.storage import StorageDir
from cloud.training.checkpoint import load_checkpoint, save_checkpoint
from cloud.training.images import for_teacher
from cloud.training.teacher import EpochReport, TeacherRun, fit_teacher
from cloud.training.teacher_card import write_teacher
from cloud.training.teacher_files import (
    check_teacher_options,
    finished_teacher,
    teacher_digest,
)
from common.catalog import contents_for
from common.config import RunConfig, StudentConfig
from common.data.datasets import Dataset, load_dataset
from common.durable import write_atomic
from common.errors import ConfigError, StorageError
from common.models.files import load_model, save_model
from common.release import (
    MANIFEST,
    ShardInfo,
    TeacherCard,
    decode_manifest,
    encode_manifest,
)
from deploy.runtime.progress import OnProgress

# Config, images, folder of checkpoints.
Train = Callable[[RunConfig, Dataset, Path, OnProgress], TeacherRun]


def prepare_stage(
    config: RunConfig,
    work: Path,
    on_progress: OnProgress,
    *,
    teacher: Path | None = None,
    train: Train | None = None,
) -> Path:
    """Train the teacher and extract its knowledge, unless they are there.

    Args:
        config: of the run; data set, threat, teacher, knowledge and seed decide.
        work: takes a folder for each teacher.
        on_progress: called with the step and the share of it that is done.
        teacher: a cloud's storage folder with the finished teacher; None: train it.
        train: makes the finished run of the teacher; `train_here` unless given.

    Returns:
        A folder like a pulled release: manifest.json and the shards.

    Raises:
        ConfigError: `teacher` has none, one of other options, or another than the one
            whose knowledge is in `work`.
        DataError: the data set is missing or damaged.
        StorageError: the folder cannot be written.
    """
    # Every method learns from the same images: the cloud's.
    same = {"images": "same", "weights": False}
    knowledge = config.knowledge.model_copy(update=same)
    config = config.model_copy(update={"knowledge": knowledge})
    storage = StorageDir(work / f"{config.dataset.name}-{_digest(config)}")
    release = storage.knowledge
    given = None if teacher is None else _finished(config, StorageDir(teacher))
    if (release / MANIFEST).exists():
        there = decode_manifest((release / MANIFEST).read_bytes()).teacher
        if given is not None and there.weights_sha256 != given.weights_sha256:
            raise ConfigError(
                f"--teacher {teacher}: {work} has the knowledge of another teacher of "
                "these options; give another --work"
            )
        return release
    storage.create(release)
    torch.set_num_threads(1)  # the same teacher, however many cores there are
    dataset = load_dataset(config.dataset, seed=config.seed)
    card = finished_teacher(config, storage)
    if teacher is not None and card != given:
        card = given
        write_atomic(storage.weights, StorageDir(teacher).weights.read_bytes())
        write_atomic(storage.card, StorageDir(teacher).card.read_bytes())
    if card is None:
        images = for_teacher(config, dataset)
        run = (train or train_here)(config, images, storage.root, on_progress)
        card = write_teacher(config, dataset, run, storage.root)
    shards = _extract(config, dataset, storage.root, on_progress)
    manifest = draft_manifest(config, dataset, teacher=card, shards=shards)
    write_atomic(release / MANIFEST, encode_manifest(manifest))
    return release


def prepare_shipping(
    config: RunConfig,
    recipes: Sequence[StudentConfig],
    release: Path,
    work: Path,
    on_progress: OnProgress,
) -> Path:
    """Extract the knowledge that a cloud distils its own students from.

    Args:
        config: of the run; which images its teacher has decides.
        recipes: of these students; what none of them reads is not extracted.
        release: what `prepare_stage` returned.
        work: takes a folder beside the teacher's.
        on_progress: called with the step and the share of it that is done.

    Returns:
        A folder like a pulled release of the teacher's images; `release` itself, where
        nodes hold the same.

    Raises:
        DataError: the data set is missing or damaged.
        StorageError: the folder cannot be written.
    """
    dataset = load_dataset(config.dataset, seed=config.seed)
    images = for_teacher(config, dataset)
    if images is dataset:
        return release
    needed = frozenset[str]().union(
        *(contents_for(recipe.method, recipe.boundary_weight) for recipe in recipes)
    )
    reduced = {
        "images": "same",
        "weights": False,
        "contents": tuple(c for c in config.knowledge.contents if c in needed),
        "num_views": max(recipe.num_views for recipe in recipes),
    }
    knowledge = config.knowledge.model_copy(update=reduced)
    config = config.model_copy(update={"knowledge": knowledge})
    name = f"{config.dataset.name}-{_digest(config)}-shipping"
    storage, teacher = StorageDir(work / name), StorageDir(release.parent)
    manifest_file = storage.knowledge / MANIFEST
    card_of_teacher = read_teacher(teacher.card)
    if manifest_file.exists():
        if decode_manifest(manifest_file.read_bytes()).teacher == card_of_teacher:
            return storage.knowledge
        manifest_file.unlink()  # of another teacher, whose shards are replaced
    storage.create(storage.knowledge)
    model, card = load_model(teacher.weights)
    own = card.model_copy(update={"fingerprint": images.train.fingerprint()})
    save_model(storage.weights, model, own)
    shards = _extract(config, images, storage.root, on_progress)
    manifest = draft_manifest(config, images, teacher=card_of_teacher, shards=shards)
    write_atomic(manifest_file, encode_manifest(manifest))
    return storage.knowledge


def _finished(config: RunConfig, storage: StorageDir) -> TeacherCard:
    """Return the card of the teacher that a job left in its storage folder.

    Raises:
        ConfigError: it has none for this config.
    """
    check_teacher_options(config, storage)
    card = finished_teacher(config, storage)
    if card is None:
        raise ConfigError(
            f"--teacher {storage.root}: it holds no finished teacher; train one there "
            "with takt cloud train"
        )
    return card


def _digest(config: RunConfig) -> str:
    """Digest what decides teacher and knowledge."""
    knowledge = config.knowledge.model_dump(mode="json", exclude={"num_actors"})
    parts = [teacher_digest(config), knowledge]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def train_here(
    config: RunConfig, images: Dataset, folder: Path, on_progress: OnProgress
) -> TeacherRun:
    """Train a teacher in this process, from the last checkpoint in the folder on."""
    try:
        state = load_checkpoint(folder)
    except StorageError:  # none yet, or a damaged one, which costs time only
        state = None
    on_progress("teacher", state.epoch / config.teacher.epochs if state else 0.0)

    def after_epoch(run: TeacherRun, report: EpochReport) -> None:
        save_checkpoint(folder, run.state())
        on_progress("teacher", report.epoch / report.epochs)

    return fit_teacher(config, images, resume_from=state, after_epoch=after_epoch)


def _extract(
    config: RunConfig, dataset: Dataset, folder: Path, on_progress: OnProgress
) -> tuple[ShardInfo, ...]:
    extractor = Extractor(config.model_dump_json(), str(folder), dataset)
    ranges = shard_ranges(
        len(dataset.train),
        config.knowledge.contents,
        dataset.sample_shape,
        dataset.num_classes,
        parts=8,  # of the work, with a report of progress after each
    )
    shards: list[ShardInfo] = []
    for part in ranges:
        on_progress("knowledge", part.start / len(dataset.train))
        for tree in extractor.extract(part.start, part.stop):
            path = f"{config.channel}/1/{tree['path']}"
            shards.append(ShardInfo.model_validate(tree | {"path": path}))
    return tuple(shards)
