"""Which teacher lies in a storage folder, and for which config it was trained.

Not here: training it (cloud.training.job).
"""

import hashlib
import json

from pydantic import ValidationError

from cloud.storage import StorageDir
from common.config import RunConfig
from common.release import TeacherCard


def teacher_digest(config: RunConfig) -> str:
    """Digest the part of a config that decides the teacher's weights.

    Where the data lies does not.
    """
    apart = {"max_failures", "min_workers", "use_gpu", "compile", "store"}
    if not config.teacher.all_images:  # as for the teachers that are older than it
        apart.add("all_images")
    recipe: dict[str, object] = {
        "dataset": config.dataset.model_dump(mode="json", exclude={"data_dir"}),
        "threat": config.threat.model_dump(mode="json"),
        "teacher": config.teacher.model_dump(mode="json", exclude=apart),
        "seed": config.seed,
    }
    if config.choice is not None:  # then a candidate, not [teacher], is the teacher
        recipe["choice"] = config.choice.model_dump(mode="json")
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


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
