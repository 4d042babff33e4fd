"""Models of installed packages: torchvision's, adapted, and those of entry points.

torchvision's classifiers are made for colour images of 224 pixels and a thousand
classes. Here they get takt's normalisation, a first convolution for the images'
channels, for smaller images fewer halvings at their beginning, where there is a single
path, and BatchNorm's statistics follow in tens of steps rather than in thousands, as a
training here may have no more. Their weights are untrained. Not here: names
(common.model_names), what is asked of a package's model (contract.py).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ConfigError, TaktError, is_out_of_memory, one_line
from common.model_names import GROUP, TORCHVISION, entry_point
from common.models.forward import Standardize

_WANTED_MAP = 4  # pixels of the last feature map, at a stride of 32
_MOST_HALVINGS = 3  # that are taken back
_MOMENTUM = 0.1  # of BatchNorm's statistics; MobileNetV3 has 0.01, MNASNet 0.0003
_PROBE = 128  # pixels: no map is of one pixel, which would fit any other


class TorchvisionModel(nn.Module):
    """One of torchvision's classifiers behind takt's normalisation."""

    def __init__(self, net: nn.Module, in_channels: int) -> None:
        """Take over a network for so many channels."""
        super().__init__()
        self.standardize = Standardize(in_channels)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.net(self.standardize(x))
        return logits


def build_packaged(
    name: str, *, in_channels: int, image_size: int, num_classes: int
) -> nn.Module:
    """Build an untrained model ``PACKAGE/NAME``.

    Raises:
        ConfigError: it cannot be built, or is no module; the message has the package's
            own reason.
    """
    package, _, model = name.partition("/")
    try:
        if package == TORCHVISION:
            return _torchvision(model, in_channels, image_size, num_classes)
        factory = entry_point(name).load()
        made = factory(
            in_channels=in_channels, image_size=image_size, num_classes=num_classes
        )
    except TaktError:
        raise
    except Exception as e:  # whatever the code of others raises
        if is_out_of_memory(e):
            raise
        raise ConfigError(
            f"model '{name}' cannot be built for {in_channels}x{image_size}x"
            f"{image_size} images of {num_classes} classes: {type(e).__name__}: "
            f"{one_line(e)}"
        ) from e
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"model '{name}': its entry point in '{GROUP}' returned a "
            f"{type(made).__name__}, expected a torch.nn.Module"
        )
    return made


def _torchvision(
    model: str, in_channels: int, image_size: int, num_classes: int
) -> nn.Module:
    """Build one of torchvision's classifiers, adapted to the images."""
    from torchvision.models import get_model

    options: dict[str, Any] = {"num_classes": num_classes}
    if model.startswith("vit_"):
        options["image_size"] = image_size
    elif model.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    elif model in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    net = get_model(model, weights=None, **options)
    if not model.startswith(("vit_", "maxvit")):
        _take_back_halvings(net, image_size)
    _set_channels(net, in_channels)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = max(module.momentum, _MOMENTUM)
    return TorchvisionModel(net, in_channels)


def _set_channels(net: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one for other images than colour ones."""
    if in_channels == 3:
        return
    name, old = next(
        (name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d)
    )
    kernel: Any = old.kernel_size
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        kernel,
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, new)


def _take_back_halvings(net: nn.Module, image_size: int) -> None:
    """Give the first strided layers a stride of 1, for images below 128 pixels.

    So many that a network of stride 32 ends with about four pixels, and not beyond the
    first layer with a path around it, whose other path would be too small.
    """
    wanted = round(math.log2(max(1.0, 32 * _WANTED_MAP / image_size)))
    left = min(wanted, _MOST_HALVINGS)
    for layer in net.modules():
        if left <= 0:
            return
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            continue
        stride: Any = layer.stride
        number = stride if isinstance(stride, int) else stride[0]
        if number < 2:
            continue
        layer.stride = 1 if isinstance(stride, int) else (1, 1)
        if not _works(net):
            layer.stride = stride
            return
        left -= round(math.log2(number))


def _works(net: nn.Module) -> bool:
    """Tell whether a network still maps an image to logits."""
    device = next(net.parameters()).device
    was_training = net.training
    try:
        net.eval()
        with torch.no_grad():
            net(torch.zeros(1, 3, _PROBE, _PROBE, device=device))
    except RuntimeError as e:
        if is_out_of_memory(e):
            raise
        return False
    finally:
        net.train(was_training)
    return True
