"""Teachers and students by name, and their size.

Every model takes x in [0, 1], holds its own normalisation and returns logits.
Weights come from torch's global seed. Parameters (and MACs per image) for ten
classes:

    name         8x8 grey         28x28 grey        32x32 colour
    cnn_tiny        970 (10 k)      4,402 (63 k)        4,546 (0.11 M)
    cnn_small     4,218 (33 k)     28,746 (0.61 M)     29,178 (0.84 M)
    cnn_medium   20,602 (0.14 M)  113,162 (2.2 M)     113,738 (2.6 M)
    cnn_large   159,626 (0.68 M)  356,234 (2.4 M)     356,810 (2.8 M)
    resnet8                      75,002 (9.1 M)      75,290 (12 M)
    resnet20                    269,434 (31 M)      269,722 (41 M)
    resnet14_s2               1,562,986 (50 M)    1,564,522 (60 M)
    mobilenet_v2              2,236,106 (73 M)    2,236,682 (88 M)
    resnet18                 11,171,018 (0.46 G) 11,172,170 (0.56 G)
    wrn_28_10                                      36,479,194 (5.2 G)

Models of packages have names with a slash (common.model_names). Not here: how these
are built (packaged.py), files (files.py), training.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from common.catalog import check_name
from common.model_names import check_model, is_packaged
from common.models.cifar_resnet import CifarResNet
from common.models.convnet import ConvNet
from common.models.mobilenet import MobileNetV2
from common.models.resnet import ResNet

# widths, strides, hidden: for images of at most 16 pixels, and for larger ones.
_Plan = tuple[tuple[int, ...], tuple[int, ...], int]
_CNNS: dict[str, tuple[_Plan, _Plan]] = {
    "cnn_tiny": (((6, 6, 6), (1, 2, 2), 0), ((8, 8, 16), (2, 2, 2), 0)),
    "cnn_small": (((8, 16, 16), (1, 2, 2), 0), ((24, 32, 48), (2, 2, 2), 0)),
    "cnn_medium": (((16, 32, 48), (1, 2, 2), 0), ((32, 64, 128), (2, 2, 2), 0)),
    "cnn_large": (((32, 64, 128), (1, 2, 2), 128), ((32, 64, 128), (2, 2, 2), 128)),
}
_OTHERS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(CifarResNet, depth=1),
    "resnet20": partial(CifarResNet, depth=3),
    "resnet14_s2": partial(
        ResNet, stem=48, stem_kernel=4, stem_stride=2, widths=(48, 96, 192), depth=2
    ),
    "mobilenet_v2": MobileNetV2,
    "resnet18": partial(ResNet, stem=64, widths=(64, 128, 256, 512), depth=2),
    "wrn_28_10": partial(ResNet, stem=16, widths=(160, 320, 640), depth=4),
}
BUILT = (*_CNNS, *_OTHERS)  # the architectures of the catalogue, as a test holds


def build_model(
    name: str, *, in_channels: int, image_size: int, num_classes: int
) -> nn.Module:
    """Build an untrained model: x (N, C, H, W) in [0, 1] -> logits (N, K).

    Raises:
        ConfigError: there is no model of that name, or its package cannot build it.
    """
    if is_packaged(name):
        from common.models.packaged import build_packaged

        return build_packaged(
            check_model(name),
            in_channels=in_channels,
            image_size=image_size,
            num_classes=num_classes,
        )
    if check_name("model", name, BUILT) in _OTHERS:
        return _OTHERS[name](in_channels=in_channels, num_classes=num_classes)
    widths, strides, hidden = _CNNS[name][image_size > 16]
    if image_size > 32:  # a halving for each doubling: the head stays small
        extra = (image_size - 1).bit_length() - 5
        widths = widths + widths[-1:] * extra
        strides = strides + (2,) * extra
    return ConvNet(
        in_channels=in_channels,
        image_size=image_size,
        num_classes=num_classes,
        widths=widths,
        strides=strides,
        hidden=hidden,
    )


def num_parameters(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def shipped_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's tensors in half precision, as a release has them."""
    return sum(
        v.numel() * (2 if v.is_floating_point() else v.element_size())
        for v in model.state_dict().values()
    )


def num_macs(model: nn.Module, sample_shape: tuple[int, int, int]) -> int:
    """Count multiply-accumulates of one forward pass on one image (C, H, W).

    Convolutions and linear layers only; biases, normalisation and the products inside
    an attention are left out.
    """
    total = 0

    def count(
        module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            is_kernel = isinstance(module, nn.Conv2d)
            positions = out[0, 0].numel() if is_kernel else out[0, ..., 0].numel()
            total += module.weight.numel() * positions

    handles = [m.register_forward_hook(count) for m in model.modules()]
    device = next(model.parameters()).device
    was_training = model.training
    try:
        model.eval()  # BatchNorm statistics must not move
        with torch.no_grad():
            model(torch.zeros(1, *sample_shape, device=device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return total
