"""Stage 1's results -> a signed release: teacher.json and knowledge/ become a manifest.

Not here: making the knowledge (`cloud.extraction.job`), signatures and their files
(`cloud.publishing.repository`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cloud.publishing.origins import origin_of
from cloud.publishing.repository import ReleaseRepository
from cloud.publishing.transfer_set import released_images, released_validation
from cloud.storage import StorageDir
from common.clock import Clock, utc_now
from common.config import RunConfig
from common.data.datasets import Dataset
from common.errors import StorageError, one_line
from common.release import Manifest, ShardInfo, TeacherCard, WeightsInfo


def publish_release(
    config: RunConfig,
    storage: StorageDir,
    dataset: Dataset,
    *,
    weights: Mapping[str, WeightsInfo] | None = None,
    force: bool = False,
    unsigned: Path | None = None,
    clock: Clock = utc_now,
) -> Manifest:
    """Publish what lies in a run's storage to the config's channel.

    Args:
        config: names the channel and holds the students' recipes.
        storage: has the teacher's card, its knowledge, and the repository, which is
            made if it is missing.
        dataset: the one that the knowledge was extracted on.
        weights: starting weights by student; the files lie in the storage's starting/.
        force: publish a new version also when nothing is new.
        unsigned: see `ReleaseRepository.publish`.
        clock: the wall clock, UTC.

    Returns:
        The manifest of the channel's newest release.

    Raises:
        StorageError: the teacher or the knowledge is missing or damaged, or the
            disk is full.
        TrustError: the shards do not cover the data set.
    """
    repository = ReleaseRepository(storage.repository, storage.keys, clock=clock)
    draft = draft_manifest(
        config,
        dataset,
        teacher=read_teacher(storage.card),
        shards=read_index(storage.knowledge_index),
    )
    if not storage.repository.exists():  # keys are for what can be published
        repository.check(draft, storage.knowledge)
    repository.create()
    draft = draft.model_copy(update={"weights": dict(weights or {})})
    return repository.publish(
        draft,
        storage.knowledge,
        weights=storage.starting,
        force=force,
        unsigned=unsigned,
    )


def draft_manifest(
    config: RunConfig,
    dataset: Dataset,
    *,
    teacher: TeacherCard,
    shards: tuple[ShardInfo, ...],
) -> Manifest:
    """Describe a release; its version and the shards' places are still open.

    Args:
        config: of the run.
        dataset: of the config; the release's samples are some or all of its training
            split.
        teacher: who answers in the shards.
        shards: their paths are plain file names.
    """
    samples = released_images(config, dataset)
    shipped: dict[str, Any] = {}
    if config.knowledge.images == "transfer":
        origin = origin_of(config)
        shipped = {
            "images": "transfer",
            "num_val": len(released_validation(config, dataset)),
            "source": origin.source,
            "licence": origin.licence,
        }
    return Manifest(
        **shipped,
        channel=config.channel,
        version=1,
        dataset=dataset.name,
        fingerprint=samples.fingerprint(),
        num_samples=len(samples),
        sample_shape=dataset.sample_shape,
        class_names=dataset.class_names,
        norm=config.threat.norm,
        eps=config.threat.eps,
        temperature=teacher.choice.temperature
        if teacher.choice
        else config.knowledge.temperature,
        num_views=config.knowledge.num_views,
        shift=config.knowledge.shift,
        flip=config.knowledge.flip,
        seed=config.seed,
        val_fraction=config.dataset.val_fraction,
        limit=config.dataset.limit,
        image_size=config.dataset.image_size,
        teacher=teacher,
        students=config.students,
        node_attack_steps=config.evaluation.node_attack.steps,
        node_attack_step_size=config.evaluation.node_attack.step_size,
        shards=shards,
    )


def read_teacher(path: Path) -> TeacherCard:
    """Read the card of a finished teacher.

    Raises:
        StorageError: it is missing or damaged.
    """
    try:
        return TeacherCard.model_validate(_read_json(path, "train the teacher"))
    except ValidationError as e:
        raise _damaged(path, e, "train the teacher") from e


def read_index(path: Path) -> tuple[ShardInfo, ...]:
    """Read the list of shards that an extraction leaves.

    Raises:
        StorageError: it is missing or damaged.
    """
    step = "extract the knowledge"
    try:
        return tuple(ShardInfo.model_validate(s) for s in _read_json(path, step))
    except (ValidationError, TypeError) as e:
        raise _damaged(path, e, step) from e


def _read_json(path: Path, step: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}; {step} first") from e
    except ValueError as e:
        raise _damaged(path, e, step) from e


def _damaged(path: Path, error: Exception, step: str) -> StorageError:
    cause = one_line(error)
    return StorageError(f"{path} is damaged: {cause}; {step} again")
