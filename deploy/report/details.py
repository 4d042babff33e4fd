"""details/<node>/*.json: one model on the test images, by class and by image.

result.json has a model's figures; this file has what the page draws of it: accuracies
by class, what attacked images were taken for, robust accuracy against eps, and some
images. result.json names the file, relative to the run's folder; runs of earlier takts
have none. Pictures are PNG files in base64: of an image larger than `MOST_PIXELS` every
n-th pixel, so that single pixels of the perturbation stay what they are.

A reader may be given any file: it is an ordinary one below the run's folder, of bounded
size and of this shape, or an error in one line. Not here: the measuring
(deploy.evaluation), the page (deploy/report/pictured.py).
"""

import base64
import binascii
import struct
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from common.durable import make_folder, write_atomic
from common.errors import StorageError, one_line
from common.records import Evaluation, Record
from common.regular_file import open_below

MOST_PIXELS = 64  # of a picture's side
MOST_BYTES = 4 << 20  # of a file
_MOST_PNG = 64 << 10  # base64; noise of 64x64 pixels in colour has 17 KiB
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def _check_png(text: str) -> str:
    """Check that a text is a small PNG file in base64."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as e:
        raise ValueError("expected a PNG file in base64") from e
    if not data.startswith(_PNG_HEAD) or len(data) < len(_PNG_HEAD) + 8:
        raise ValueError("expected a PNG file in base64")
    width, height = struct.unpack_from(">II", data, len(_PNG_HEAD))
    if not (1 <= width <= MOST_PIXELS and 1 <= height <= MOST_PIXELS):
        raise ValueError(
            f"expected a picture of at most {MOST_PIXELS} pixels a side, found "
            f"{width} x {height}"
        )
    return text


Png = Annotated[str, Field(max_length=_MOST_PNG), AfterValidator(_check_png)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Index = Annotated[int, Field(ge=0, lt=10_000)]


class ClassDetail(Record):
    """One class: clean on the whole test split, robust on what AutoAttack was given."""

    name: str = Field(max_length=256)
    tested: Count = 0
    right: Count = 0  # of these
    attacked: Count = 0
    robust: Count = 0  # of these

    @property
    def clean_accuracy(self) -> float | None:
        """Give the share that is classified correctly; None: no image of it."""
        return self.right / self.tested if self.tested else None

    @property
    def robust_accuracy(self) -> float | None:
        """Give the share that withstands AutoAttack; None: no image was attacked."""
        return self.robust / self.attacked if self.attacked else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.right > self.tested or self.robust > self.attacked:
            raise ValueError("more images are right than there are")
        return self


class Mistake(Record):
    """So many images of a class were taken for another, under AutoAttack."""

    label: Index
    answer: int = Field(ge=-1, lt=10_000)  # -1: no finite answer
    count: Annotated[Count, Field(ge=1)]


class Answer(Record):
    """What a model says of an image."""

    label: Index
    confidence: float = Field(ge=0, le=1)  # softmax of its logits


class Sample(Record):
    """One test image as it was and attacked, with the model's answers.

    `attack` is "autoattack" where that changed the answer, "pgd" where nothing did (the
    picture is then of PGD's attempt), and "none" where the clean answer was wrong.
    """

    position: Count  # in the test split
    label: Index
    x: Png
    x_adv: Png
    delta: Png  # 127.5 is no change; black and white are eps
    attack: Literal["autoattack", "pgd", "none"]
    clean: Answer
    attacked: Answer
    # A natural twin's, of the x_adv that its student was given, in 8 bits.
    same_image: Answer | None = None


class Details(Record):
    """The whole file."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    eps: float = Field(gt=0, le=1)
    every: int = Field(default=1, ge=1)  # of the pixels, so many apart are in a picture
    classes: tuple[ClassDetail, ...] = Field(min_length=2, max_length=10_000)
    mistakes: tuple[Mistake, ...] = Field(default=(), max_length=100_000)
    radii: tuple[Evaluation, ...] = Field(default=(), max_length=64)
    samples: tuple[Sample, ...] = Field(default=(), max_length=16)

    model_config = Record.model_config | {"populate_by_name": True}

    @model_validator(mode="after")
    def _check(self) -> Self:
        found = [k for each in self.mistakes for k in (each.label, each.answer)]
        for sample in self.samples:
            answers = (sample.clean, sample.attacked, sample.same_image)
            found += [answer.label for answer in answers if answer is not None]
            found.append(sample.label)
        if max(found, default=0) >= len(self.classes):
            raise ValueError(f"class {max(found)} of {len(self.classes)}")
        if not all(0 <= each.eps <= 1 for each in self.radii):
            raise ValueError("radii are eps in pixel scale, from 0 to 1")
        return self


def write_details(details: Details, run_dir: Path, name: str) -> None:
    """Write a file by rename.

    Args:
        details: of a model.
        run_dir: the run's folder.
        name: of the file, relative to it.

    Raises:
        StorageError: the folder cannot be written to.
    """
    path = run_dir / name
    make_folder(path.parent)
    text = details.model_dump_json(by_alias=True, exclude_none=True)
    write_atomic(path, text.encode())


def read_details(run_dir: Path, name: str) -> Details | None:
    """Read a file that a result names.

    Args:
        run_dir: the run's folder.
        name: as result.json has it; links, and what leads out of the folder, are
            refused.

    Returns:
        None where there is no such file.

    Raises:
        StorageError: it cannot be read, is too large, or is not of this shape.
    """
    path = run_dir / name
    again = "remove it to have the page without its pictures"
    try:
        names = PurePosixPath(name).parts
        with open_below(run_dir, *names, most=MOST_BYTES) as file:
            return Details.model_validate_json(file.read(MOST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, IndexError) as e:
        reason = getattr(e, "strerror", None) or "no name of a file"
        raise StorageError(f"cannot read {path}: {reason}; {again}") from e
    except ValidationError as e:
        raise StorageError(f"{path} is damaged: {one_line(e)}; {again}") from e
