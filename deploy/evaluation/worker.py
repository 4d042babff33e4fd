"""One evaluation worker: ``python -m deploy.evaluation.worker``.

Reads an `EvaluationJob` a line from stdin and answers each with an
`EvaluationReply` line on stdout; ends when stdin does. One thread, so that as
many workers as cores make full use of them. It loads torch and a data set once.
Not here: which images and models are worth measuring (`deploy/evaluation/pool.py`).
"""

import sys
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from common.config import DatasetConfig
from common.errors import TaktError
from common.records import Evaluation


class Message(BaseModel):
    """A line between the pool and its worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EvaluationJob(Message):
    """Images [first, first + count) of the test split, against one model."""

    model: Path
    dataset: DatasetConfig
    dataset_seed: int
    first: int
    count: int
    eps: float
    seed: int
    attack: bool = True  # False: clean accuracy only


class EvaluationReply(Message):
    """The result of a job: accuracies, or an error of takt."""

    clean_accuracy: float | None = None
    robust: Evaluation | None = None
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
    from common.robustness.evaluate import autoattack, clean_accuracy

    model, _ = load_model(job.model)
    images = slice(job.first, job.first + job.count)
    x, y = _test_images(job.dataset.model_dump_json(), job.dataset_seed)
    x, y = x[images], y[images]
    if not job.attack:
        return EvaluationReply(clean_accuracy=clean_accuracy(model, x, y))
    robust = autoattack(model, x, y, eps=job.eps, seed=job.seed)
    return EvaluationReply(robust=robust)


@cache
def _test_images(config: str, seed: int):  # type: ignore[no-untyped-def]
    from common.data.datasets import load_dataset

    dataset = load_dataset(DatasetConfig.model_validate_json(config), seed=seed)
    return dataset.test.tensors()


if __name__ == "__main__":
    main()
