"""One evaluation worker: ``python -m deploy.evaluation.worker``.

Reads an `EvaluationJob` a line from stdin and answers each with an
`EvaluationReply` line on stdout; ends when stdin does. One thread, so that as
many workers as cores make full use of them. It loads torch and a data set once.
Not here: which images and models are worth measuring (`deploy/evaluation/pool.py`).
"""

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from common.config import DatasetConfig
from common.config.own_images import CameraShift
from common.errors import TaktError
from common.records import Evaluation
from deploy.evaluation.images import images_to_test, shift_flags, stratified_positions


class Message(BaseModel):
    """A line between the pool and its worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EvaluationJob(Message):
    """One model against [first, first + count) of `num_images` stratified test images.

    Without an attack: its clean accuracy on the whole test split.
    """

    model: Path
    dataset: DatasetConfig
    dataset_seed: int
    num_images: int
    first: int = 0
    count: int = 0
    shift: CameraShift = "none"
    eps: float
    seed: int
    attack: bool = True


class ClassCount(Message):
    """How many images of one class were attacked, and how many of them held."""

    attacked: int = 0
    robust: int = 0


class EvaluationReply(Message):
    """The result of a job: accuracies, or an error of takt."""

    clean_accuracy: float | None = None
    robust: Evaluation | None = None
    by_class: tuple[ClassCount, ...] = ()
    error_code: int = 0
    error: str = ""


def main() -> None:
    """Answer jobs until stdin ends."""
    import torch

    torch.set_num_threads(1)
    replies = sys.stdout
    sys.stdout = sys.stderr  # a library's print is no reply
    for line in sys.stdin:
        try:
            reply = measure(EvaluationJob.model_validate_json(line))
        except TaktError as e:
            reply = EvaluationReply(error_code=e.exit_code, error=str(e))
        print(reply.model_dump_json(), file=replies, flush=True)


def measure(job: EvaluationJob) -> EvaluationReply:
    """Do one job in this process.

    Raises:
        DataError: the data set cannot be read.
        StorageError: the model cannot be read.
    """
    from common.models.files import load_model
    from common.robustness.evaluate import autoattack_each, clean_accuracy

    model, card = load_model(job.model)
    config = job.dataset.model_dump_json()
    x, y = images_to_test(config, job.dataset_seed, job.shift)
    if not job.attack:
        return EvaluationReply(clean_accuracy=clean_accuracy(model, x, y))
    chosen = stratified_positions(y.numpy(), job.num_images)
    positions = chosen[job.first : job.first + job.count]
    x, y = x[positions], y[positions]
    found = autoattack_each(model, x, y, eps=job.eps, seed=job.seed)
    attacked = y.bincount(minlength=card.num_classes)
    robust = y[found.robust].bincount(minlength=card.num_classes)
    flags = (*found.evaluation.flags, *shift_flags(job.shift))
    return EvaluationReply(
        robust=found.evaluation.model_copy(update={"flags": flags}),
        by_class=tuple(
            ClassCount(attacked=int(n), robust=int(held))
            for n, held in zip(attacked, robust, strict=True)
        ),
    )


if __name__ == "__main__":
    main()
