"""Which teacher lies in a storage folder, and for which options it was trained.

Not here: training it (cloud.training.job).
"""

import hashlib
import json
from typing import Any

from pydantic import ValidationError

from cloud.storage import StorageDir
from common.config import RunConfig
from common.config.differences import first_difference
from common.errors import ConfigError
from common.release import TeacherCard

# Of [teacher], what decides how it is trained and not what it becomes.
_APART = {"max_failures", "min_workers", "use_gpu", "compile", "store", "trial"}
_TRIAL_EPOCHS = 2


def teacher_options(config: RunConfig) -> dict[str, Any]:
    """Return the part of a config that decides the teacher's weights, as JSON.

    Where the data lies does not.
    """
    options: dict[str, Any] = {
        "dataset": config.dataset.model_dump(mode="json", exclude={"data_dir"}),
        "threat": config.threat.model_dump(mode="json"),
        "teacher": config.teacher.model_dump(mode="json", exclude=_APART),
        "seed": config.seed,
    }
    if config.choice is not None:  # then a candidate, not [teacher], is the teacher
        options["choice"] = config.choice.model_dump(mode="json")
    return options


def teacher_digest(config: RunConfig) -> str:
    """Digest the part of a config that decides the teacher's weights."""
    options = teacher_options(config)
    if not config.teacher.all_images:  # as for the teachers that are older than it
        del options["teacher"]["all_images"]
    data = json.dumps(options, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:12]


def as_trial(config: RunConfig) -> RunConfig:
    """Turn a GPU-sized config into that of its trial: two epochs on CPUs."""
    epochs = min(config.teacher.epochs, _TRIAL_EPOCHS)
    trial = {"use_gpu": False, "epochs": epochs, "trial": True}
    teacher = config.teacher.model_copy(update=trial)
    return config.model_copy(update={"teacher": teacher})


def as_may_be_trained(config: RunConfig) -> list[RunConfig]:
    """List what a job may make of a config: itself, and the trial that it asks for.

    Only the job knows whether its cluster has a GPU.
    """
    teacher = config.teacher
    return [config, as_trial(config)] if teacher.trial and teacher.use_gpu else [config]


def check_teacher_options(config: RunConfig, storage: StorageDir) -> None:
    """Check that the teacher in a storage folder was trained as a config says.

    A card that is missing or damaged passes: the step that reads it says so. Older
    cards have a digest of the options without the options, or neither.

    Raises:
        ConfigError: an option has another value than it had for the training.
    """
    try:
        card = json.loads(storage.card.read_bytes())
        digest, options = card.get("recipe"), card.get("options")
    except (OSError, ValueError, AttributeError):
        return
    if digest is None or digest in map(teacher_digest, as_may_be_trained(config)):
        return
    found = None
    if isinstance(options, dict):
        found = first_difference(teacher_options(config), options)
    if found is None:
        raise ConfigError(
            f"the teacher in {storage.root} was trained with other options; give "
            "each step the same, or train and extract again with these"
        )
    raise ConfigError(
        f"{found.key} = {found.wanted}, but the teacher in {storage.root} was trained "
        f"with {found.recorded}; give each step the same, or train and extract again "
        "with these"
    )


def finished_teacher(config: RunConfig, storage: StorageDir) -> TeacherCard | None:
    """Return the card of a teacher that was finished for this config, if any."""
    try:
        data = storage.card.read_bytes()
        weights = storage.weights.read_bytes()
        card = TeacherCard.model_validate_json(data)
        recipe = json.loads(data).get("recipe")
    except (OSError, ValueError, ValidationError):
        return None
    whole = hashlib.sha256(weights).hexdigest() == card.weights_sha256
    return card if whole and recipe == teacher_digest(config) else None
