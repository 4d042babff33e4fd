"""What takt asks of a package's model, checked before anything is trained.

A factory, called as ``factory(in_channels=3, image_size=32, num_classes=10)``, returns
a `torch.nn.Module` that

    takes x, float32 (N, C, H, W) in [0, 1], for any N of 2 and more (in eval mode of 1
    and more), and holds its own normalisation;
    returns finite logits, float32 (N, K), no probabilities, with a gradient for x;
    draws its initial weights by torch's generator, and nothing else at random but in
    training mode (dropout);
    in eval mode answers to an image alone as to one in a batch;
    holds float32 parameters, each its own tensor, and buffers that it changes in
    place. Integer counters, as of BatchNorm, are fine.

takt's own models have tests for that. Not here: building a model (packaged.py).
"""

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigError, TaktError, is_out_of_memory, one_line
from common.model_names import is_packaged
from common.models.zoo import build_model, shipped_bytes

_SEED = 0
_BATCH = 4
_TOLERANCE = 1e-3  # of logits: an image alone, and in a batch
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def check_contract(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    num_classes: int,
    most_bytes: int | None = None,
) -> None:
    """Check a package's model on a few random images; takt's own pass at once.

    torch's global generator is left as it was.

    Args:
        name: ``PACKAGE/NAME``; of takt's own nothing is asked.
        in_channels: of the images.
        image_size: their height and width.
        num_classes: of the data set.
        most_bytes: in half precision, where its weights are to be shipped.

    Raises:
        ConfigError: it cannot be built, or breaks the contract; the message says how.
    """
    if not is_packaged(name):
        return
    shape = (in_channels, image_size, image_size)
    with torch.random.fork_rng(devices=[]):
        try:
            model, again = (_built(name, shape, num_classes) for _ in range(2))
            x = torch.rand(_BATCH, *shape)
            problems = chain(
                _of_state(model),
                _of_start(model, again),
                _of_size(model, most_bytes),
                _of_answers(model, x, num_classes),
                _of_gradients(model, x),
                _of_training(model, x),
            )
            found = next(problems, None)  # each looks only where those before did not
        except TaktError:
            raise
        except Exception as e:  # whatever the code of others raises
            if is_out_of_memory(e):
                raise
            found = (
                f"fails on {in_channels}x{image_size}x{image_size} images: "
                f"{type(e).__name__}: {one_line(e)}"
            )
    if found is not None:
        raise ConfigError(f"model '{name}' {found}")


def _built(name: str, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    torch.manual_seed(_SEED)
    channels, size, _ = shape
    return build_model(
        name, in_channels=channels, image_size=size, num_classes=num_classes
    )


def _of_state(model: nn.Module) -> Iterator[str]:
    """Look at what is trained and saved."""
    if not any(p.requires_grad for p in model.parameters()):
        yield "has no parameter to train"
    owners: dict[int, str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            yield f"saves '{name}', which is no tensor; leave it out of the state dict"
        if value.dtype not in (torch.float32, *_INTEGERS):
            yield f"holds '{name}' as {value.dtype}, expected float32 or integers"
        if value.numel() and value.data_ptr() in owners:
            yield (
                f"holds '{name}' in the memory of '{owners[value.data_ptr()]}', "
                "expected a tensor of its own; do not tie weights"
            )
        owners[value.data_ptr()] = name
    copy.deepcopy(model)  # a training keeps a copy


def _of_start(model: nn.Module, again: nn.Module) -> Iterator[str]:
    """Look at initial weights: workers that train together begin with the same."""
    other = again.state_dict()
    for name, value in model.state_dict().items():
        if name not in other or not torch.equal(value, other[name]):
            yield (
                f"begins with another '{name}' each time, expected the same for the "
                "same torch.manual_seed; draw initial weights by torch alone"
            )


def _of_size(model: nn.Module, most_bytes: int | None) -> Iterator[str]:
    """Look at what its starting weights would take in a release."""
    found = shipped_bytes(model)
    if most_bytes is not None and found > most_bytes:
        yield (
            f"has {found:,} bytes of starting weights, a release ships at most "
            f"{most_bytes:,}; set knowledge.weights = false, or name a smaller model"
        )


def _of_answers(model: nn.Module, x: Tensor, num_classes: int) -> Iterator[str]:
    """Look at logits in eval mode."""
    logits = _answer(model.eval(), x)
    if not isinstance(logits, Tensor):
        yield f"returns a {type(logits).__name__}, expected a tensor of logits"
    if tuple(logits.shape) != (len(x), num_classes):
        yield (
            f"returns {tuple(logits.shape)} for {len(x)} images of {num_classes} "
            f"classes, expected {(len(x), num_classes)}"
        )
    if logits.dtype != torch.float32:
        yield f"returns {logits.dtype}, expected float32"
    if not bool(logits.isfinite().all()):
        yield "returns NaN or infinite logits for images in [0, 1]"
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums)):
        yield "returns probabilities, expected logits; leave the softmax out"
    if not _alike(_answer(model, x), logits):
        yield (
            "answers differently to the same images in eval mode, which no attack can "
            "measure; make what it does at random depend on self.training"
        )
    if not _alike(_answer(model, x[:1]), logits[:1]):
        yield (
            "answers differently to an image alone and in a batch, in eval mode; use "
            "BatchNorm with running statistics, or none"
        )


@torch.no_grad()
def _answer(model: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = model(x)
    return logits


def _alike(logits: Tensor, others: Tensor) -> bool:
    return torch.allclose(logits, others, rtol=_TOLERANCE, atol=_TOLERANCE)


def _of_gradients(model: nn.Module, x: Tensor) -> Iterator[str]:
    """Look at the gradient for x in eval mode, as attacks see it."""
    leaf = x.clone().requires_grad_()
    loss, gradient = model(leaf).logsumexp(1).sum(), None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
    if gradient is None:
        yield (
            "gives no gradient for its input, which every attack needs; do not detach "
            "x, nor compute without autograd"
        )
    elif not bool(gradient.isfinite().all()):
        yield "gives NaN or infinite gradients for its input"


def _of_training(model: nn.Module, x: Tensor) -> Iterator[str]:
    """Look at a pass in training mode: the gradients, and what becomes of buffers."""
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    model.train()
    logits = model(x)
    if not isinstance(logits, Tensor):
        yield (
            f"returns a {type(logits).__name__} in training mode, expected logits as "
            "in eval mode"
        )
    y = torch.zeros(len(x), dtype=torch.int64)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        F.cross_entropy(logits, y), parameters, materialize_grads=True
    )
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        yield "gives NaN or infinite gradients for its weights"
    for name, value in model.state_dict().items():
        if before.get(name) != value.data_ptr():
            yield f"replaces its buffer '{name}', expected changes in place (copy_)"
