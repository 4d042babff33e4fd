"""SGD with Nesterov momentum and weight decay, and learning-rate schedules.

The update is torch.optim.SGD's. It is written out here because constructing any
torch.optim optimizer imports torch._dynamo: 5 CPU-seconds and 85 MiB, too much for
a capped node. Not here: any other optimizer, parameter groups.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from common.catalog import check_name


class SGD:
    """Stochastic gradient descent with momentum (Sutskever et al., ICML 2013)."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        learning_rate: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = True,
    ) -> None:
        """Remember the parameters; nothing is copied.

        Args:
            params: leaf tensors that require a gradient.
            learning_rate: may be set anew before each step.
            momentum: 0 turns it off.
            weight_decay: added to the gradient as ``weight_decay * parameter``,
                for matrices and kernels only (biases and normalisation scales,
                of one dimension, are left alone).
            nesterov: look ahead along the momentum.
        """
        self.params = list(params)
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self._buffers = [torch.zeros_like(p) for p in self.params]
        self._decayed = [i for i, p in enumerate(self.params) if p.dim() > 1]

    @torch.no_grad()
    def step(self, gradients: Iterable[Tensor]) -> None:
        """Move the parameters once.

        Args:
            gradients: one a parameter, in order; the list is not changed.
        """
        found = list(gradients)
        if self.weight_decay:
            kept = self._decayed
            decayed = torch._foreach_add(
                [found[i] for i in kept],
                [self.params[i] for i in kept],
                alpha=self.weight_decay,
            )
            for i, gradient in zip(kept, decayed, strict=True):
                found[i] = gradient
        if self.momentum:
            torch._foreach_mul_(self._buffers, self.momentum)
            torch._foreach_add_(self._buffers, found)
            if self.nesterov:
                found = list(
                    torch._foreach_add(found, self._buffers, alpha=self.momentum)
                )
            else:
                found = self._buffers
        torch._foreach_add_(self.params, found, alpha=-self.learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the momentum buffers by index, as copies."""
        return {f"momentum.{i}": b.clone() for i, b in enumerate(self._buffers)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned for the same parameters."""
        for i, buffer in enumerate(self._buffers):
            buffer.copy_(state[f"momentum.{i}"])


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter, ICLR 2017).

    Args:
        progress: share of the training that is done, in [0, 1].
    """
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def one_cycle(progress: float, *, rise: float = 0.25) -> float:
    """Rise from 0.05 to 1, then fall to 0, both along straight lines.

    After Smith and Topin's super-convergence (2019).

    Args:
        progress: share of the training that is done, in [0, 1].
        rise: share of the training spent rising.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < rise:
        return 0.05 + 0.95 * progress / rise
    return (1 - progress) / (1 - rise)


def multi_step(progress: float) -> float:
    """Fall to a tenth at 215, 260 and 285 epochs of 300 (RSLAD; Zi et al., ICCV 2021).

    Args:
        progress: share of the training that is done, in [0, 1].
    """
    return 0.1 ** sum(progress >= epoch / 300 for epoch in (215, 260, 285))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "multi_step": multi_step,
    "one_cycle": one_cycle,
}


def schedule(name: str) -> Callable[[float], float]:
    """Look up a schedule: progress in [0, 1] -> factor of the learning rate.

    Raises:
        ConfigError: there is none of that name.
    """
    return SCHEDULES[check_name("schedule", name, SCHEDULES)]


def warmed_up(progress: float, share: float) -> float:
    """Grow from 0 to 1 over the first `share` of the training, then stay at 1."""
    return 1.0 if share <= 0 else min(progress / share, 1.0)
