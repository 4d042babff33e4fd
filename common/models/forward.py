"""What a forward pass is: the type of a model, its input's normalisation, precision.

`Standardize` holds constants of the architecture, not of its weights: they are in no
saved file. `channels_last` is for a model that is trained: its convolutions are faster
so. `mixed` is for training on a GPU: evaluations stay in float32. `seeded` is for what
a model draws at random while it trains. Not here: layers and weights (zoo.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.model_names import is_packaged

Model = Callable[[Tensor], Tensor]  # x (N, C, H, W) in [0, 1] -> logits (N, K)

# Per-channel statistics of CIFAR-10's training images; close enough for others.
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2471, 0.2435, 0.2616)


class Standardize(nn.Module):
    """Subtracts a mean and divides by a deviation, a channel each."""

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int) -> None:
        """Take the constants for 3 channels (colour) or others (grey)."""
        super().__init__()
        mean = _MEAN if in_channels == 3 else (0.5,) * in_channels
        std = _STD if in_channels == 3 else (0.25,) * in_channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, H, W) in [0, 1]."""
        return (x - self.mean) / self.std


def channels_last(model: nn.Module, name: str) -> nn.Module:
    """Lay out the kernels of a model channels last (NHWC), in place; values stay.

    A convolution whose kernel lies so takes x in either layout and answers in this one,
    so that images and perturbations stay NCHW. A package's model stays as it was built:
    its code may `view` a feature map, which fails in this layout.

    Args:
        model: as `build_model` built it.
        name: of the model, as in a config.
    """
    if is_packaged(name):
        return model
    return model.to(memory_format=torch.channels_last)


def mixed(model: Model, device: torch.device) -> Model:
    """Run a model on a GPU in half the bytes; its logits are float32 in any case.

    bfloat16 where it does no harm, chosen by torch.autocast (Micikevicius et al., ICLR
    2018, with fp16), and channels last, the layout of the tensor cores. On a CPU
    nothing changes.
    """
    if device.type != "cuda":
        return model

    def answer(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        return logits.float()

    return answer


@contextmanager
def seeded(*numbers: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for the body, and put them back.

    Dropout draws from these: an epoch that is repeated after a kill must draw the same.

    Args:
        numbers: that decide, each from 0 on; such as a seed and an epoch.
        device: whose generator is meant beside the CPU's.
    """
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
