"""What a student is trained for: data, threat model, seed and limits.

A recipe (common.config.StudentConfig) says how to train; a `Task` holds the rest that
decides the result. Not here: what only observes or interrupts a training (fitting/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from common.models.forward import Model
from common.release import Manifest
from edge.distill.batch import Images
from edge.distill.knowledge import NO_KNOWLEDGE, Knowledge

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training's data and conditions."""

    # Those of the knowledge, in its order: the release's, then the node's own.
    train: Images
    num_released: int | None = None  # how many are the release's; None: all
    val: Images  # measured at milestones
    knowledge: Knowledge = NO_KNOWLEDGE  # of the release
    num_classes: int
    eps: float  # radius of the threat model, pixel scale
    seed: int = 0  # of weights, order and noise
    # Weights to begin with, trained further as the recipe's `tuning` says; None: drawn.
    start: Mapping[str, Tensor] | None = None
    batch_size: int | None = None  # None: the recipe's
    # Train until so many CPU-seconds are used, attacks included, measuring at
    # milestones not; None: the recipe's epochs.
    cpu_budget_s: float | None = None
    # Computes and keeps images, soft labels and deltas; method absld needs the CPU.
    device: torch.device = CPU
    teacher: Model | None = None  # a live one, x -> logits, differentiable
    # Against catastrophic overfitting (fitting/); off for comparisons only.
    guard_overfitting: bool = True

    @classmethod
    def of_release(
        cls,
        manifest: Manifest,
        *,
        train: Images,
        val: Images,
        knowledge: Knowledge,
        seed: int,
    ) -> Self:
        """Take classes and threat model from a release."""
        return cls(
            train=train,
            val=val,
            knowledge=knowledge,
            num_classes=manifest.num_classes,
            eps=manifest.eps,
            seed=seed,
        )
