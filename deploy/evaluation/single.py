"""`takt evaluate`: clean and robust accuracy of one saved model, in this process.

The model's card says which data set and which threat it belongs to. Not here:
the evaluation of a whole run (`deploy/evaluation/pool.py`), the attacks themselves.
"""

import json
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import AttackConfig, DatasetConfig
from common.errors import ConfigError, DataError
from common.models.card import ModelCard
from common.models.foreign import refuse_foreign
from common.text import counted
from deploy.evaluation.images import stratified_positions
from deploy.report.wording import describe, percent
from deploy.runtime.progress import Display
from deploy.runtime.settings import refuse_data_dir
from deploy.runtime.surroundings import require_address_space

if TYPE_CHECKING:
    from common.data.datasets import Dataset

ATTACKS = ("autoattack", "pgd")


def parse_eps(text: str) -> float:
    """Read a radius such as ``8/255`` or ``0.15``.

    Raises:
        ConfigError: it is no number above 0 and at most 1.
    """
    try:
        eps = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        eps = 0.0
    if not 0 < eps <= 1:
        raise ConfigError(
            f"--eps {text}: expected pixel scale, above 0 and at most 1, for instance "
            "8/255 or 0.15"
        )
    return eps


def evaluate_model(
    path: Path,
    *,
    attack: str,
    num_images: int,
    eps: float | None,
    data_dir: Path | None,
    seed: int,
    as_json: bool,
    display: Display,
) -> None:
    """Measure a model on the test split of its data set and print the results.

    Args:
        path: safetensors with takt's model card.
        attack: one of `ATTACKS`.
        num_images: attacked; some of each class of the test split.
        eps: radius in pixel scale; None: the one of the card.
        data_dir: where the data set lies; None: embedded or takt's usual place.
        seed: of the attack.
        as_json: print a JSON object instead of two lines.
        display: shows how far it is.

    Raises:
        ConfigError: the attack is unknown, or --data-dir is given to no purpose.
        DataError: the data set is missing, or is not the model's.
        StorageError: the model cannot be read.
    """
    if attack not in ATTACKS:
        raise ConfigError(f"--attack {attack}: expected one of {', '.join(ATTACKS)}")
    refuse_foreign(path)  # before torch is imported
    require_address_space()
    from common.models.files import load_model
    from common.robustness.evaluate import (
        autoattack,
        clean_accuracy,
        robust_accuracy_pgd,
    )

    with display, display.step("evaluate") as step:
        model, card = load_model(path)
        dataset = dataset_of(card, data_dir)
        x, y = dataset.test.tensors()
        step.update(stage="clean accuracy")
        clean = clean_accuracy(model, x, y)
        positions = stratified_positions(dataset.test.labels, num_images)
        x, y = x[positions], y[positions]
        radius = card.eps if eps is None else eps
        if attack == "autoattack":
            progress = partial(step, f"AutoAttack on {counted(len(y), 'image')}")
            robust = autoattack(model, x, y, eps=radius, seed=seed, progress=progress)
        else:
            step.update(stage=f"PGD on {counted(len(y), 'image')}")
            pgd = AttackConfig(steps=40, step_size=min(radius / 8, 1.0), restarts=2)
            robust = robust_accuracy_pgd(model, x, y, attack=pgd, eps=radius, seed=seed)
    if as_json:
        tree = {
            "architecture": card.architecture,
            "dataset": card.dataset,
            "clean_accuracy": clean,
            "num_test": len(dataset.test),
            "robust": [robust.model_dump(mode="json")],
        }
        print(json.dumps(tree, indent=1))
        return
    print(f"clean accuracy  {percent(clean)} % (all {len(dataset.test)} test images)")
    flags = f"; flags: {', '.join(robust.flags)}" if robust.flags else ""
    print(f"robust accuracy {percent(robust.accuracy)} % ({describe(robust)}{flags})")


def dataset_of(card: ModelCard, data_dir: Path | None) -> "Dataset":
    """Load the data set that a model was trained on.

    Args:
        card: of the model.
        data_dir: where the data set lies; None: embedded or takt's usual place.

    Raises:
        ConfigError: a folder is given, and the data set comes with takt.
        DataError: it is missing, or is not the model's.
    """
    from common.data.datasets import load_dataset

    settings = DatasetConfig.model_validate(
        {
            "name": card.dataset,
            "data_dir": data_dir,
            "limit": card.limit,
            "val_fraction": card.val_fraction,
            "image_size": card.image_size if card.dataset == "folder" else None,
        }
    )
    refuse_data_dir(settings)
    dataset = load_dataset(settings, seed=card.seed)
    found = dataset.train.fingerprint()
    # Of images that a release ships, the split here does not show which they are.
    if card.images == "same" and found != card.fingerprint:
        raise DataError(
            f"{card.dataset} here has fingerprint {found[:12]}, the model was trained "
            f"on {card.fingerprint[:12]}; give the same data with --data-dir"
        )
    return dataset
