"""Predictions, and checks of whether an evaluation can be trusted.

A robust accuracy is only an upper bound: an attack may fail because the model is
hard to attack, not because it is robust (Athalye et al., ICML 2018; Carlini et
al., "On Evaluating Adversarial Robustness", 2019). Each check here returns names
of flags for `Evaluation.flags`:

    zero_gradients      some correctly classified images have no loss gradient
    randomized          two passes over the same images differ
    non_finite_logits   NaN or infinite logits; counted as wrong
    fgsm_below_pgd      one step breaks more images than PGD: masked gradients
                        or a PGD that is too weak

Not here: the attacks (`attacks.py`) and AutoAttack's own checks
(`autoattack.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Hold a model in eval mode without parameter gradients; yields its device.

    Mode and `requires_grad` of every part are put back afterwards.
    """
    modes = [(m, m.training) for m in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    first = next(model.parameters(), None)
    try:
        model.eval()
        model.requires_grad_(False)
        yield torch.device("cpu") if first is None else first.device
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def scaled(x: Tensor) -> Tensor:
    """Scale uint8 pixels to float32 in [0, 1]; what is in [0, 1] stays as it is.

    Of many images a batch at a time: as float32 they take four times the memory.
    """
    return x.float().div_(255) if x.dtype == torch.uint8 else x


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 512) -> Tensor:
    """Predict the class of each image, in eval mode.

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1], or uint8 pixels; on any device.
        batch_size: images per forward pass.

    Returns:
        int64 (N,) on the CPU; -1 where the logits are NaN or infinite.
    """
    parts = []
    with evaluating(model) as device:
        for batch, _ in batches(x, x, batch_size):
            logits = model(scaled(batch).to(device))
            finite = logits.isfinite().all(1)
            parts.append(torch.where(finite, logits.argmax(1), -1).cpu())
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def is_collapsed(
    predictions: Tensor, num_classes: int, *, labels: Tensor | None = None
) -> bool:
    """Check whether a model predicts (nearly) always the same class.

    True when one class is predicted for every image; or for more than 90 % of them
    while that class has at most half of the labels (such a model ignores its input:
    at least two in five of its predictions are wrong in the same way); or when fewer
    than half of the classes that are present are ever predicted (then most classes
    have no recall at all; a merely weak model confuses classes but predicts them).

    Args:
        predictions: int (N,), as from `predict`; -1 counts as one more class.
        num_classes: classes of the data set.
        labels: int (N,); None takes all classes as present in equal parts. A
            split of a single class cannot show a collapse.
    """
    if len(predictions) == 0:
        return False
    counts = torch.bincount(predictions.cpu() + 1, minlength=num_classes + 1)
    top = int(counts.argmax()) - 1
    present = min(num_classes, len(predictions))
    top_share = 1 / num_classes
    if labels is not None:
        present = int((torch.bincount(labels.cpu()) > 0).sum())
        top_share = float((labels == top).float().mean())
    if present < 2:
        return False
    share = float(counts.max()) / len(predictions)
    constant = share == 1 or (share > 0.9 and top_share <= 0.5)
    return constant or 2 * int((counts[1:] > 0).sum()) < present


def batches(x: Tensor, y: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut images and labels into batches, in order; without any there is none."""
    for start in range(0, len(x), batch_size):
        yield x[start : start + batch_size], y[start : start + batch_size]


def gradient_flags(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, batch_size: int = 512
) -> tuple[set[str], float]:
    """Check logits, determinism and gradients of the loss at x.

    Args:
        model: x in [0, 1] -> logits.
        x: (N, C, H, W) in [0, 1], or uint8 pixels.
        y: labels (N,).
        eps: of the single step whose accuracy is returned.
        batch_size: images per pass.

    Returns:
        Flags, and the accuracy under one gradient-sign step of eps (FGSM).
    """
    flags: set[str] = set()
    num_correct = 0
    with evaluating(model) as device:
        for x_part, y_part in batches(x, y, batch_size):
            leaf = scaled(x_part).to(device).detach().clone().requires_grad_()
            target = y_part.to(device)
            with torch.enable_grad():
                logits = model(leaf)
                loss = F.cross_entropy(logits, target, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, leaf)
            with torch.no_grad():
                again = model(leaf)
                x_adv = (leaf + eps * gradient.sign()).clamp(0, 1)
                broken = model(x_adv).argmax(1) != target
            if not logits.isfinite().all():
                flags.add("non_finite_logits")
            elif not torch.allclose(logits, again, rtol=1e-4, atol=1e-4):
                flags.add("randomized")
            correct = logits.argmax(1) == target
            flat = gradient.flatten(1).abs().amax(1)
            if bool((correct & (flat == 0)).any()):
                flags.add("zero_gradients")
            num_correct += int((correct & ~broken).sum())
    return flags, num_correct / max(1, len(x))
