"""Temperatures of the soft labels by class, adapted to the student's losses.

Anti-bias soft label distillation (ABSLD; Zhao et al., NeurIPS 2024): a class with a
high loss gets sharper soft labels, one with a low loss smoother ones, so that the
losses of the classes become similar. Not here: the loss that uses them (methods/).
"""

import torch
from torch import Tensor

_RATE = 0.1  # an epoch's change for the class that is farthest from the mean
_LOWEST, _HIGHEST = 0.5, 5.0


class ClassTemperatures:
    """One temperature a class for clean and one for adversarial images.

    Attributes:
        clean: (K,), of the soft labels that clean images are fitted to.
        adversarial: (K,), of those that adversarial images are fitted to.
    """

    def __init__(self, num_classes: int) -> None:
        """Begin with temperature 1 everywhere."""
        self.clean = torch.ones(num_classes)
        self.adversarial = torch.ones(num_classes)
        self._begin_epoch()

    def observe(self, y: Tensor, clean: Tensor, adversarial: Tensor) -> None:
        """Add the losses (N,) of a batch with labels y (N,) to the epoch's sums."""
        self._counts.index_add_(0, y, torch.ones_like(clean))
        self._clean_sums.index_add_(0, y, clean.detach())
        self._adversarial_sums.index_add_(0, y, adversarial.detach())

    def end_epoch(self) -> None:
        """Move each temperature against its class's distance from the mean loss."""
        seen = self._counts.clamp(min=1)
        self.clean = _moved(self.clean, self._clean_sums / seen)
        self.adversarial = _moved(self.adversarial, self._adversarial_sums / seen)
        self._begin_epoch()

    def tensor(self) -> Tensor:
        """Return both as (2, K), for a checkpoint at the end of an epoch."""
        return torch.stack([self.clean, self.adversarial])

    def load(self, both: Tensor) -> None:
        """Restore what `tensor` returned."""
        self.clean, self.adversarial = both.clone().unbind()

    def _begin_epoch(self) -> None:
        self._counts = torch.zeros_like(self.clean)
        self._clean_sums = torch.zeros_like(self.clean)
        self._adversarial_sums = torch.zeros_like(self.clean)


def at_temperature(soft_labels: Tensor, temperatures: Tensor) -> Tensor:
    """Soften softmax(logits / t) to softmax(logits / (t * temperature)).

    Args:
        soft_labels: (N, K), rows of probabilities.
        temperatures: (N,), one a row.
    """
    return torch.softmax(soft_labels.log() / temperatures[:, None], 1)


def _moved(temperatures: Tensor, losses: Tensor) -> Tensor:
    distance = losses - losses.mean()
    largest = distance.abs().max().clamp(min=torch.finfo(distance.dtype).tiny)
    return (temperatures - _RATE * distance / largest).clamp(_LOWEST, _HIGHEST)
