"""Teachers and students by name, their size, and their files.

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
    mobilenet_v2              2,236,106 (73 M)    2,236,682 (88 M)
    resnet18                 11,171,018 (0.46 G) 11,172,170 (0.56 G)
    wrn_28_10                                      36,479,194 (5.2 G)

A file is safetensors with the `ModelCard` as JSON in its header; nothing is
ever unpickled. Not here: training, and any registry that grows at run time.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from common.catalog import check_name
from common.durable import write_atomic
from common.errors import ConfigError, StorageError
from common.models.card import ModelCard
from common.models.cifar_resnet import SmallResNet
from common.models.convnet import ConvNet
from common.models.mobilenet import MobileNetV2
from common.models.resnet import ResNet

__all__ = [
    "BUILT",
    "ModelCard",
    "build_model",
    "load_model",
    "num_macs",
    "num_parameters",
    "save_model",
]

_CARD_KEY, _DIGEST = "takt.card", "weights_sha256"

# widths, strides, hidden: for images of at most 16 pixels, and for larger ones.
_Plan = tuple[tuple[int, ...], tuple[int, ...], int]
_CNNS: dict[str, tuple[_Plan, _Plan]] = {
    "cnn_tiny": (((6, 6, 6), (1, 2, 2), 0), ((8, 8, 16), (2, 2, 2), 0)),
    "cnn_small": (((8, 16, 16), (1, 2, 2), 0), ((24, 32, 48), (2, 2, 2), 0)),
    "cnn_medium": (((16, 32, 48), (1, 2, 2), 0), ((32, 64, 128), (2, 2, 2), 0)),
    "cnn_large": (((32, 64, 128), (1, 2, 2), 128), ((32, 64, 128), (2, 2, 2), 128)),
}
_OTHERS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(SmallResNet, depth=1),
    "resnet20": partial(SmallResNet, depth=3),
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
        ConfigError: there is no model of that name.
    """
    if check_name("model", name, BUILT) in _OTHERS:
        return _OTHERS[name](in_channels=in_channels, num_classes=num_classes)
    widths, strides, hidden = _CNNS[name][image_size > 16]
    if image_size > 32:  # one more halving for each doubling, or the head explodes
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


def num_macs(model: nn.Module, sample_shape: tuple[int, int, int]) -> int:
    """Count multiply-accumulates of one forward pass on one image (C, H, W).

    Convolutions and linear layers only; biases and normalisation are left out.
    """
    total = 0

    def count(
        module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            positions = out[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
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


def save_model(
    path: Path, model: nn.Module, card: ModelCard, *, point: str | None = None
) -> str:
    """Write weights and card to `path`, atomically; `point` as in `write_atomic`.

    Returns:
        sha256 of the file, hex.

    Raises:
        StorageError: the file cannot be written; an older one is left as it was.
    """
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    header = {**card.model_dump(mode="json"), _DIGEST: _digest(tensors)}
    # One key: safetensors writes several in random order, and the file must be
    # the same for the same weights.
    data = safetensors.torch.save(tensors, {_CARD_KEY: json.dumps(header)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(
            f"cannot make folder {path.parent}: {e.strerror}; fix its permissions"
        ) from e
    write_atomic(path, data, point=point)
    return hashlib.sha256(data).hexdigest()


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Rebuild a saved model, in eval mode on the CPU, and read its card.

    Raises:
        StorageError: the file is missing, damaged or not one of takt's.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise StorageError(
            f"cannot read model {path}: {e.strerror}; give a .safetensors file of takt"
        ) from e
    try:
        header = json.loads(_header(data)[_CARD_KEY])
        card = ModelCard.model_validate(header)
        tensors = safetensors.torch.load(data)
        if _digest(tensors) != header[_DIGEST]:
            raise ValueError("weights differ from their digest")
        model = build_model(
            card.architecture,
            in_channels=card.in_channels,
            image_size=card.image_size,
            num_classes=card.num_classes,
        )
        model.load_state_dict(tensors)
    except (
        ConfigError,
        KeyError,
        RuntimeError,
        TypeError,
        SafetensorError,
        ValidationError,
        ValueError,
    ) as e:
        reason = " ".join(str(e).split())[:160]
        raise StorageError(
            f"model {path} is damaged or not of takt: {reason}; make it again"
        ) from e
    return model.eval(), card


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """Hash names, shapes and values of a model's tensors: sha256, hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].numpy()
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _header(data: bytes) -> dict[str, str]:
    """Read the metadata of a safetensors file (8 bytes length, then JSON)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata
