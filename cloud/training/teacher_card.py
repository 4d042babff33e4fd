"""What a finished teacher leaves in a folder: its weights, and its card.

Not here: its training (teacher.py), and who asks for it (worker.py under
Ray, `takt compare` without).
"""

import json
from pathlib import Path

from cloud.storage import CARD, WEIGHTS
from cloud.training.teacher import TeacherRun
from cloud.training.teacher_files import recipe_digest
from common.config import RunConfig
from common.data.datasets import Dataset
from common.durable import write_atomic
from common.models.card import ModelCard
from common.models.files import save_model
from common.models.zoo import num_parameters
from common.release import TeacherCard
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd

TEST_IMAGES = 1000  # of the card's own PGD figure; AutoAttack is made elsewhere


def leave_teacher(
    config: RunConfig, dataset: Dataset, run: TeacherRun, folder: Path
) -> TeacherCard:
    """Write the best epoch's model and its card.

    Raises:
        StorageError: the folder cannot be written.
    """
    model = run.best_model().to(run.device)
    x, y = dataset.test.tensors()
    # A trial on few images is not worth a measurement on ten thousand.
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
    )
    tree = card.model_dump(mode="json") | {
        "recipe": recipe_digest(config),
        "best_epoch": run.best_epoch,
    }
    write_atomic(folder / CARD, json.dumps(tree, indent=1).encode())
    return card
