"""What a training step works on: images, one batch of them, and its setting.

`Images` are a whole split in memory; a `Batch` is what is known of some of them;
a `Setting` holds the step's attack and schedules. Not here: where images come from
(common.data.datasets), their views (common.data.views), what a step does with a batch
(methods/).
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from common.config import StudentConfig
from common.data.datasets import Split
from common.models.forward import Model
from edge.distill.class_temperatures import ClassTemperatures


@dataclass(frozen=True)
class Images:
    """Images and labels: uint8 (N, C, H, W) and int64 (N,), -1 where there is none."""

    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, split: Split) -> Self:
        """View a split's arrays."""
        return cls(torch.from_numpy(split.images), torch.from_numpy(split.labels))

    def to(self, device: torch.device) -> Self:
        """Copy them to a device."""
        return type(self)(self.x.to(device), self.y.to(device))

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return some as float32 in [0, 1], with their labels."""
        return self.x[positions].float().div_(255), self.y[positions]


class Boundary(NamedTuple):
    """Points just beyond the teacher's decision boundary (Heo et al., 2019)."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    soft_labels: Tensor  # (N, K), the teacher's there


class Target(NamedTuple):
    """What some samples are fitted to, where it differs in kind (methods/)."""

    labels: Tensor  # (N, K), rows of probabilities
    weight: Tensor  # (N,), of each in the loss
    temperature: Tensor  # (N, 1), at which the student is fitted to them


class Batch(NamedTuple):
    """Some samples and what is known of them; None where there is nothing."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor  # (N,); -1: without a label
    soft_labels: Tensor | None = None  # (N, K), the teacher's on x
    delta: Tensor | None = None  # (N, C, H, W), where a warm start begins
    boundary: Boundary | None = None  # of the release's samples among them
    taught: Tensor | None = None  # bool (N,): which have soft labels; None: all
    target: Target | None = None  # None: soft labels and true label of each
    place: Tensor | None = None  # (N, H*W): of x on its canvas, see common.data.views


@dataclass(frozen=True)
class Setting:
    """What a step depends on, beside the model and the batch."""

    recipe: StudentConfig
    eps: float  # now, pixel scale; below the full one while warming up
    steps: int  # of the attack now: the recipe's, or more (fitting/)
    step_size: float  # of the attack now: the recipe's, in proportion to eps
    progress: float  # share of the training that is done, in [0, 1]
    temperature: float
    generator: torch.Generator | None = None
    class_temperatures: ClassTemperatures | None = None  # method absld
    teacher: Model | None = None  # method adaad: x -> logits, differentiable
