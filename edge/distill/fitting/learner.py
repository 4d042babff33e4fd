"""The update of a student's weights: gradient, clipping, SGD step, averaging.

Not here: the losses (edge.distill.methods), the order of steps (training.py).
"""

import copy

import torch
from torch import Tensor, nn

from common.config import StudentConfig
from common.models.forward import Model, channels_last, mixed
from common.optim import SGD


class Learner:
    """A model, its optimizer and the running average of its weights."""

    def __init__(self, model: nn.Module, recipe: StudentConfig) -> None:
        """Take over a model; `recipe` gives the optimizer's constants."""
        self._device = next(model.parameters()).device
        self.model = model = channels_last(model, recipe.model)
        self.forward: Model = mixed(model, self._device)  # x -> logits, in training
        self._decay = recipe.ema_decay
        self._max_norm = recipe.max_gradient_norm
        self._steps = 0
        self._sgd = SGD(
            (p for p in model.parameters() if p.requires_grad),
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        # BatchNorm's statistics are averaged with the weights: the current ones fit
        # the current weights, not the averaged ones.
        live = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        self._names, self._live = list(live), list(live.values())
        self._average = [v.clone() for v in self._live] if self._decay else []
        self._copy = copy.deepcopy(model)

    def begin_attack(self) -> None:
        """Hold the model in eval mode, as it will be attacked, while one is crafted.

        BatchNorm's statistics, of clean and adversarial batches alike, must not change
        while an attack computes its gradients, and dropout would blur these.
        """
        self.model.eval()

    def end_attack(self) -> None:
        """Go on in training mode."""
        self.model.train()

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Update the weights once, by the gradient of a scalar loss."""
        params = self._sgd.params
        # Of a weight that had no part in it (a layer left out at random): 0.
        gradients = torch.autograd.grad(loss, params, materialize_grads=True)
        if self._max_norm:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            if self._device.type == "cuda":  # reading the norm would wait for the GPU
                scale = (self._max_norm / norm).clamp(max=1)
                gradients = torch._foreach_mul(gradients, scale)
            elif norm > self._max_norm:
                gradients = torch._foreach_mul(gradients, self._max_norm / float(norm))
        self._sgd.learning_rate = learning_rate
        self._sgd.step(gradients)
        self._steps += 1
        if self._average:
            # Early on the average is of few steps: forget the initial weights faster.
            decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
            with torch.no_grad():
                torch._foreach_lerp_(self._average, self._live, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Copy the student's weights of now: the average, if there is one."""
        weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if self._average:
            for name, value in zip(self._names, self._average, strict=True):
                weights[name].copy_(value)
        return weights

    def student(self, weights: dict[str, Tensor] | None = None) -> nn.Module:
        """Return a copy of the model in eval mode, with `weights` or its own.

        There is one copy: each call overwrites and returns it.
        """
        self._copy.load_state_dict(self.weights() if weights is None else weights)
        return self._copy.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that `load` needs."""
        return {
            **{f"model.{k}": v.clone() for k, v in self.model.state_dict().items()},
            **{f"sgd.{k}": v for k, v in self._sgd.state_dict().items()},
            **{f"average.{i}": v.clone() for i, v in enumerate(self._average)},
            "steps": torch.tensor(self._steps),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.model.load_state_dict(under("model.", tensors))
        self._sgd.load_state_dict(under("sgd.", tensors))
        for i, average in enumerate(self._average):
            average.copy_(tensors[f"average.{i}"])
        self._steps = int(tensors["steps"])


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors whose names begin with `prefix`, and remove it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
