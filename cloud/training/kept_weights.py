"""Which weights of a training are kept: their moving average, and the best epoch's.

Not here: the training that moves the weights (`cloud.training.teacher`), measuring an
epoch (`cloud.training.validation`).
"""

import copy
import math

import torch
from torch import Tensor, nn


class BestEpoch:
    """The weights of the best epoch so far, by robust accuracy on validation images.

    Robust overfitting is real (Rice et al., ICML 2020): the last epoch is often worse.

    Attributes:
        model: its weights; those of the start before any epoch.
        epoch: its number; 0 before any.
        score: the highest robust accuracy so far.
    """

    def __init__(self, model: nn.Module, *, num_images: int) -> None:
        """Copy the model; its accuracy will be measured on `num_images` images."""
        self.model: nn.Module = copy.deepcopy(model)
        self.epoch, self.score = 0, 0.0
        self._num_images = num_images

    def update(self, epoch: int, model: nn.Module, robust_accuracy: float) -> None:
        """Keep this epoch unless it is worse than the best by more than chance.

        Of epochs within one standard error the latest is kept: on a few validation
        images the highest accuracy is mostly luck, and a falling learning rate favours
        the end.
        """
        self.score = max(self.score, robust_accuracy)
        chance = math.sqrt(self.score * (1 - self.score) / self._num_images)
        if robust_accuracy >= self.score - chance:
            self.epoch = epoch
            self.model.load_state_dict(model.state_dict())


def average_weights(averaged: nn.Module, model: nn.Module, *, decay: float) -> None:
    """Move the averaged weights towards the present ones.

    An exponential moving average, as SWA (Izmailov et al., UAI 2018) with a decay.

    Args:
        averaged: is changed: decay * averaged + (1 - decay) * model, weights and
            BatchNorm's statistics alike; counters are copied.
        model: of the same architecture.
        decay: in [0, 1).
    """
    slow, counters = _values(averaged)
    fast, present = _values(model)
    with torch.no_grad():  # lists at once: on a GPU each launch costs
        torch._foreach_lerp_(slow, fast, 1 - decay)
        if counters:
            torch._foreach_copy_(counters, present)


def _values(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """List weights and statistics, and apart from them the counters."""
    values = [*model.parameters(), *model.buffers()]
    floating = [value for value in values if value.is_floating_point()]
    return floating, [value for value in values if not value.is_floating_point()]
