"""One evaluation worker: ``python -m deploy.evaluation.worker``.

Reads an `EvaluationJob` a line from stdin and answers each with an
`EvaluationReply` line on stdout; ends when stdin does. One thread, so that as
many workers as cores make full use of them. It loads torch and a data set once.
Not here: which images and models are worth measuring (`deploy/evaluation/pool.py`).
"""

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from common.config import DatasetConfig
from common.config.own_images import CameraShift
from common.errors import TaktError
from common.records import Evaluation
from deploy.evaluation.images import images_to_test, shift_flags, stratified_positions
from deploy.evaluation.samples import (
    AttackedImages,
    answers_to,
    every_pixel,
    sample_positions,
    take_samples,
    to_bytes,
)
from deploy.report.details import Answer, Mistake, Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common.models.card import ModelCard

Part = Literal["clean", "attack", "radii", "answers"]
MOST_AT_RADII = 200  # images that are attacked at several eps
RADII = tuple(k / 4 for k in range(9))  # in units of the threat model's eps


class Message(BaseModel):
    """A line between the pool and its worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EvaluationJob(Message):
    """A part of measuring one model.

    clean     its accuracy on the whole test split
    attack    AutoAttack on [first, first + count) of `num_images` stratified images
    radii     PGD at several eps, on some of these
    answers   what it says of `pixels`
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
    part: Part = "attack"
    sampled: bool = False  # an attack: give the samples among the images as well
    pixels: tuple[str, ...] = ()  # each uint8 (C, H, W) of the model's size, in base64


class ClassCount(Message):
    """How many images of one class there were, and how many the model got right."""

    images: int = 0
    right: int = 0


class AttackedSample(Message):
    """A sample, and its x_adv as `EvaluationJob.pixels` has it."""

    sample: Sample
    pixels: str


class EvaluationReply(Message):
    """The result of a job: what its part measures, or an error; or how far it is."""

    share: float | None = None  # done; not None: the result is yet to come
    clean_accuracy: float | None = None
    class_names: tuple[str, ...] = ()  # with the clean accuracy
    every: int = 1  # likewise, see `deploy.report.details`
    robust: Evaluation | None = None
    by_class: tuple[ClassCount, ...] = ()  # of the clean accuracy, or the robust one
    mistakes: tuple[Mistake, ...] = ()
    samples: tuple[AttackedSample, ...] = ()
    radii: tuple[Evaluation, ...] = ()
    answers: tuple[Answer, ...] = ()
    error_code: int = 0
    error: str = ""


def main() -> None:
    """Answer jobs until stdin ends."""
    import torch

    torch.set_num_threads(1)
    replies = sys.stdout
    sys.stdout = sys.stderr  # a library's print is no reply

    def send(reply: EvaluationReply) -> None:
        print(reply.model_dump_json(), file=replies, flush=True)

    def send_share(share: float) -> None:
        send(EvaluationReply(share=share))

    for line in sys.stdin:
        try:
            send(measure(EvaluationJob.model_validate_json(line), send_share))
        except TaktError as e:
            send(EvaluationReply(error_code=e.exit_code, error=str(e)))


def measure(
    job: EvaluationJob, on_share: Callable[[float], None] | None = None
) -> EvaluationReply:
    """Do one job in this process.

    Args:
        job: what is measured.
        on_share: called with the share of an attack that is done.

    Raises:
        DataError: the data set cannot be read.
        StorageError: the model cannot be read.
    """
    from common.models.files import load_model

    model, card = load_model(job.model)
    if job.part == "answers":
        return _answer(job, model, card)
    x, y = images_to_test(job.dataset.model_dump_json(), job.dataset_seed, job.shift)
    if job.part == "clean":
        return _clean(model, card, x, y)
    if job.part == "radii":
        return _radii(job, model, x, y)
    return _attack(job, model, card, x, y, on_share)


def _clean(
    model: "nn.Module", card: "ModelCard", x: "Tensor", y: "Tensor"
) -> EvaluationReply:
    from common.robustness.evaluate import predict

    right = predict(model, x) == y
    return EvaluationReply(
        clean_accuracy=float(right.double().mean()),
        class_names=card.class_names,
        every=every_pixel(card.image_size),
        by_class=_by_class(y, right, card.num_classes),
    )


def _attack(
    job: EvaluationJob,
    model: "nn.Module",
    card: "ModelCard",
    x: "Tensor",
    y: "Tensor",
    on_share: Callable[[float], None] | None,
) -> EvaluationReply:
    from common.robustness.evaluate import autoattack_each, predict

    chosen = stratified_positions(y.numpy(), job.num_images)
    positions = chosen[job.first : job.first + job.count]
    samples = sample_positions(chosen, y.numpy()[chosen])
    x, y = x[positions], y[positions]
    found = autoattack_each(model, x, y, eps=job.eps, seed=job.seed, progress=on_share)
    flags = (*found.evaluation.flags, *shift_flags(job.shift))
    attacked = AttackedImages(positions, x, y, found.x_adv)
    return EvaluationReply(
        robust=found.evaluation.model_copy(update={"flags": flags}),
        by_class=_by_class(y, found.robust, card.num_classes),
        mistakes=_mistakes(y, predict(model, found.x_adv)),
        samples=_samples(job, model, attacked, samples) if job.sampled else (),
    )


def _by_class(y: "Tensor", right: "Tensor", num_classes: int) -> tuple[ClassCount, ...]:
    counts = y.bincount(minlength=num_classes), y[right].bincount(minlength=num_classes)
    return tuple(
        ClassCount(images=int(images), right=int(held))
        for images, held in zip(*counts, strict=True)
    )


def _mistakes(y: "Tensor", answers: "Tensor") -> tuple[Mistake, ...]:
    """Count, of each class, which others its images were taken for."""
    wrong = answers != y
    pairs = np.stack([y[wrong].numpy(), answers[wrong].numpy()], 1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    return tuple(
        Mistake(label=int(label), answer=int(answer), count=int(count))
        for (label, answer), count in zip(kinds, counts, strict=True)
    )


def _samples(
    job: EvaluationJob,
    model: "nn.Module",
    attacked: AttackedImages,
    wanted: "np.typing.NDArray[np.int64]",
) -> tuple[AttackedSample, ...]:
    """Picture those among the attacked images that are wanted."""
    rows = np.flatnonzero(np.isin(attacked.positions, wanted))
    images = AttackedImages(
        attacked.positions[rows],
        attacked.x[rows],
        attacked.y[rows],
        attacked.x_adv[rows],
    )
    samples, x_adv = take_samples(model, images, eps=job.eps, seed=job.seed)
    return tuple(
        AttackedSample(
            sample=sample, pixels=base64.b64encode(to_bytes(image).tobytes()).decode()
        )
        for sample, image in zip(samples, x_adv, strict=True)
    )


def _radii(
    job: EvaluationJob, model: "nn.Module", x: "Tensor", y: "Tensor"
) -> EvaluationReply:
    from common.robustness.radii import accuracy_at_radii

    positions = stratified_positions(y.numpy(), min(job.num_images, MOST_AT_RADII))
    radii = sorted({min(1.0, share * job.eps) for share in RADII})
    found = accuracy_at_radii(
        model, x[positions], y[positions], radii=radii, seed=job.seed
    )
    flags = shift_flags(job.shift)
    return EvaluationReply(
        radii=tuple(
            each.model_copy(update={"flags": (*each.flags, *flags)}) for each in found
        )
    )


def _answer(
    job: EvaluationJob, model: "nn.Module", card: "ModelCard"
) -> EvaluationReply:
    import torch

    size = (card.in_channels, card.image_size, card.image_size)
    pixels = [
        np.frombuffer(base64.b64decode(each), np.uint8).reshape(size)
        for each in job.pixels
    ]
    return EvaluationReply(
        answers=answers_to(model, torch.from_numpy(np.stack(pixels)) / 255)
    )


if __name__ == "__main__":
    main()
