"""What a saved model is: the card that travels in its file's header.

Torch-free, so that the daemon and the reports can read cards. It does not
hold weights, and it carries no accuracy: those belong to an `Evaluation`.
"""

from typing import Annotated, Literal

from pydantic import Field

from common.records import Record

_MOST_CLASSES = 10_000
_Name = Annotated[str, Field(max_length=256)]


class ModelCard(Record):
    """Everything needed to rebuild a model and the split it was trained on."""

    architecture: _Name
    in_channels: int = Field(ge=1, le=16)
    image_size: int = Field(ge=1, le=4096)
    num_classes: int = Field(ge=2, le=_MOST_CLASSES)
    class_names: tuple[_Name, ...] = Field(min_length=2, max_length=_MOST_CLASSES)
    dataset: _Name
    fingerprint: _Name  # of the training split, see datasets.Split.fingerprint
    norm: str = "Linf"
    eps: float = Field(gt=0, le=1)  # what it was trained against, pixel scale
    seed: int
    val_fraction: float
    limit: int | None = None
    method: str = ""  # objective of a teacher, method of a student
    channel: str = ""  # of the release a student comes from
    version: int = 0  # of that release
    # transfer: `fingerprint` is of the images that the release ships.
    images: Literal["same", "transfer"] = Field(
        default="same", exclude_if=lambda images: images == "same"
    )
