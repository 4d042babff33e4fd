"""Files of models: safetensors with the `ModelCard` as JSON in the header.

The header also holds a digest of the weights, so that a damaged file is refused. Not
here: building a model (zoo.py), files in general (common.tensor_file), telling files of
other programs (foreign.py).
"""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.durable import make_folder, write_atomic
from common.errors import ConfigError, StorageError, one_line
from common.model_names import (
    TORCHVISION,
    check_model,
    installed_version,
    is_packaged,
)
from common.models.card import ModelCard
from common.models.foreign import CARD_KEY, refuse_foreign, unreadable
from common.models.zoo import build_model
from common.tensor_file import encode_tensors, read_tensors

_DIGEST = "weights_sha256"
_FILLING = frozenset({"uniform_", "normal_", "trunc_normal_", "fill_", "zero_"})


def save_model(
    path: Path, model: nn.Module, card: ModelCard, *, point: str | None = None
) -> str:
    """Write weights and card to `path`, atomically; `point` as in `write_atomic`.

    Returns:
        sha256 of the file, hex.

    Raises:
        StorageError: the file cannot be written; an older one is left as it was.
    """
    tensors = model.state_dict()
    note = {**card.model_dump(mode="json"), _DIGEST: _digest(tensors)}
    data = encode_tensors(tensors, CARD_KEY, note)
    make_folder(path.parent)
    write_atomic(path, data, point=point)
    return hashlib.sha256(data).hexdigest()


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Rebuild a saved model, in eval mode on the CPU, and read its card.

    Raises:
        StorageError: the file is missing, damaged or of another program, or its model
            is of a package that is not here; nothing in one is ever unpickled.
    """
    refuse_foreign(path)
    try:
        note, tensors = read_tensors(path, CARD_KEY)
        card = ModelCard.model_validate(note)
        if is_packaged(card.architecture):
            return _load_packaged(path, card, tensors, note[_DIGEST]), card
        with _ShapesAlone():
            _check_tensors(tensors, _build(card))
        if _digest(tensors) != note[_DIGEST]:
            raise ValueError("weights differ from their digest")
        model = _build(card)
        model.load_state_dict(tensors)
    except OSError as e:
        raise unreadable(path, e) from e
    except (ConfigError, KeyError, RuntimeError, ValidationError, ValueError) as e:
        reason = one_line(e, 160)
        raise StorageError(
            f"model {path} is damaged or not of takt: {reason}; make it again"
        ) from e
    return model.eval(), card


def _load_packaged(
    path: Path, card: ModelCard, tensors: dict[str, Tensor], digest: object
) -> nn.Module:
    """Rebuild a package's model, in eval mode.

    Without memory first, as takt's own and torchvision's; the code of another package
    may need values, and is built with them then.

    Raises:
        StorageError: the package is not installed, or its model is another here.
        ValueError: the file is damaged.
    """
    if _digest(tensors) != digest:
        raise ValueError("weights differ from their digest")
    try:
        check_model(card.architecture)
        of_torchvision = card.architecture.startswith(f"{TORCHVISION}/")
        without_values: contextlib.AbstractContextManager[None] = (
            contextlib.nullcontext()
            if of_torchvision
            else contextlib.suppress(ConfigError)
        )
        with without_values, _ShapesAlone():
            _check_tensors(tensors, _build(card))
        model = _build(card)
        _check_tensors(tensors, model)
    except ConfigError as e:
        raise StorageError(f"model {path} cannot be rebuilt here: {e}") from e
    except ValueError as e:
        raise StorageError(
            f"model {path} is of another '{card.architecture}' than "
            f"{installed_version(card.architecture)} has: {e}; install the version "
            "that it was made with"
        ) from e
    model.load_state_dict(tensors)
    return model.eval()


class _ShapesAlone(TorchFunctionMode):
    """Builds a card's model without its values: it takes no memory and no time.

    Layers make their parameters by `torch.empty`, which makes them on the device "meta"
    here, and fill them, which is left out: for values there torch would import its
    compiler (120 MiB). Everything else stays on the CPU, since torchvision computes the
    widths of its regnets with tensors.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function, unless it fills a tensor."""
        options = kwargs or {}
        if getattr(func, "__name__", "") in _FILLING:
            return args[0] if args else options["tensor"]
        if func is torch.empty and options.get("device") is None:
            options = {**options, "device": "meta"}
        return func(*args, **options)


def _build(card: ModelCard) -> nn.Module:
    return build_model(
        card.architecture,
        in_channels=card.in_channels,
        image_size=card.image_size,
        num_classes=card.num_classes,
    )


def _check_tensors(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Refuse tensors that are not those of the model which the card describes.

    A release's starting weights have half the precision of a model.
    """
    expected = model.state_dict()
    odd = sorted(tensors.keys() ^ expected.keys())
    if odd:
        raise ValueError(
            f"'{odd[0]}' is {'no' if odd[0] in tensors else 'a missing'} tensor of "
            "the architecture in its card"
        )
    for name, tensor in expected.items():
        found = tensors[name]
        types = {tensor.dtype}
        if tensor.dtype == torch.float32:
            types.add(torch.float16)
        if found.shape != tensor.shape or found.dtype not in types:
            raise ValueError(
                f"'{name}' is {found.dtype} {tuple(found.shape)}, by its card "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )


def _digest(tensors: dict[str, Tensor]) -> str:
    """Hash names, shapes and values of a model's tensors: sha256, hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().numpy()
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
