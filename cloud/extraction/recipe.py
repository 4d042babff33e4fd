"""What decides the knowledge in a storage folder, and the check that it is still so.

The file knowledge/recipe.json holds it. Not here: the extraction (job.py), the
teacher's own options (cloud.training.teacher_files).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cloud.storage import StorageDir
from common.config import KnowledgeConfig, RunConfig
from common.config.differences import first_difference
from common.errors import ConfigError, DataError, StorageError
from common.release import SCHEMA

# Of [knowledge], what decides no shard: logits are shipped as they are.
_APART = {"num_actors", "temperature", "weights", "licence"}
_OF_A_TRANSFER_SET = {"num_images", "num_val_images"}


def recipe_of(config: RunConfig, storage: StorageDir, fingerprint: str) -> str:
    """Write down everything that decides the knowledge, as JSON text.

    Args:
        config: of the run.
        storage: with the teacher.
        fingerprint: of the training split.

    Raises:
        StorageError: there is no teacher.
    """
    path = storage.weights
    try:
        weights = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        raise StorageError(
            f"cannot read {path}: {e.strerror}; train the teacher first"
        ) from e
    apart = set(_APART)
    if config.knowledge.images == "same":
        apart |= _OF_A_TRANSFER_SET
    tree = {
        "schema": SCHEMA,
        "teacher": weights,
        "split": fingerprint,
        "eps": config.threat.eps,
        "knowledge": config.knowledge.model_dump(mode="json", exclude=apart),
        "seed": config.seed,
    }
    return json.dumps(tree, sort_keys=True)


def check_knowledge(config: RunConfig, storage: StorageDir, fingerprint: str) -> None:
    """Check that the knowledge in a storage folder is what a config now asks for.

    Args:
        config: of the run.
        storage: with the teacher and its knowledge.
        fingerprint: of the training split that the config gives now.

    Raises:
        ConfigError: an option has another value than it had for the extraction.
        DataError: the options are the same, and the images are not.
        StorageError: the knowledge is missing, or of another teacher or takt.
    """
    path = storage.knowledge_recipe
    again = "extract the knowledge again"
    wanted = json.loads(recipe_of(config, storage, fingerprint))
    try:
        recorded = json.loads(path.read_bytes())
        found = first_difference(_options(wanted), _options(recorded))
    except OSError as e:
        raise StorageError(
            f"cannot read {path}: {e.strerror}; extract the knowledge first"
        ) from e
    except (ValueError, TypeError, KeyError) as e:
        raise StorageError(f"{path} is damaged; {again}") from e
    if found is not None:
        raise ConfigError(
            f"{found.key} = {found.wanted}, but the knowledge in {storage.root} was "
            f"extracted with {found.recorded}; give each step the same, or {again}"
        )
    if recorded.get("split") != fingerprint:
        raise DataError(
            f"the knowledge in {storage.root} is of split "
            f"{str(recorded.get('split'))[:12]}, the data set gives "
            f"{fingerprint[:12]}; restore the images, or train and extract again"
        )
    if recorded != wanted:
        raise StorageError(
            f"the knowledge in {storage.root} is of another teacher or another takt; "
            f"{again}"
        )


def _options(recipe: Mapping[str, Any]) -> dict[str, object]:
    """Return what a recipe has of a run's config, by the config's keys.

    Recipes leave some keys out that are at their default.
    """
    fields = KnowledgeConfig.model_fields.items()
    defaults = {name: f.default for name, f in fields if f.exclude_if is not None}
    return {
        "seed": recipe["seed"],
        "threat": {"eps": recipe["eps"]},
        "knowledge": {**defaults, **recipe["knowledge"]},
    }
