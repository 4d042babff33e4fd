"""A finished teacher as files: its weights, and the card that describes it.

Not here: its training (`cloud.training.teacher`), finding a finished teacher again
(`cloud.training.teacher_files`).
"""

import json
from pathlib import Path

from cloud.storage import CARD, WEIGHTS
from cloud.training.teacher import TeacherRun
from cloud.training.teacher_files import teacher_digest, teacher_options
from common.config import RunConfig
from common.data.datasets import Dataset
from common.durable import write_atomic
from common.models.card import ModelCard
from common.models.files import save_model
from common.models.zoo import num_parameters
from common.release import TeacherCard
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd

TEST_IMAGES = 1000  # of the card's PGD accuracy; AutoAttack is run elsewhere


def write_teacher(
    config: RunConfig, dataset: Dataset, run: TeacherRun, folder: Path
) -> TeacherCard:
    """Write the best epoch's model and its card.

    Raises:
        StorageError: the folder cannot be written.
    """
    model = run.best_model().to(run.device)
    x, y = dataset.test.tensors()
    # A trial on few images does not need a measurement on ten thousand.
    x, y = x[: 10 * len(dataset.train)], y[: 10 * len(dataset.train)]
    robust = robust_accuracy_pgd(
        model,
        x[:TEST_IMAGES],
        y[:TEST_IMAGES],
        attack=config.evaluation.node_attack,
        eps=config.threat.eps,
        seed=config.seed,
    )
    clean = clean_accuracy(model, x, y)
    model_card = ModelCard(
        architecture=config.teacher.model,
        in_channels=dataset.sample_shape[0],
        image_size=dataset.sample_shape[1],
        num_classes=dataset.num_classes,
        class_names=dataset.class_names,
        dataset=dataset.name,
        fingerprint=dataset.train.fingerprint(),
        norm=config.threat.norm,
        eps=config.threat.eps,
        seed=config.seed,
        val_fraction=config.dataset.val_fraction,
        limit=config.dataset.limit,
        method=config.teacher.objective,
        channel=config.channel,
    )
    card = TeacherCard(
        architecture=config.teacher.model,
        num_parameters=num_parameters(model),
        weights_sha256=save_model(folder / WEIGHTS, model, model_card),
        clean_accuracy=clean,
        robust=(robust,),
        trial=config.teacher.trial,
    )
    tree = card.model_dump(mode="json") | {
        "recipe": teacher_digest(config),
        "options": teacher_options(config),
        "best_epoch": run.best.epoch,
    }
    write_atomic(folder / CARD, json.dumps(tree, indent=1).encode())
    return card
