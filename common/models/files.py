"""Files of models: safetensors with the `ModelCard` as JSON in the header.

The header also holds a digest of the weights, so that a damaged file is refused. Not
here: building a model (zoo.py), files in general (common.tensor_file), telling files of
other programs (foreign.py).
"""

import hashlib
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from common.durable import make_folder, write_atomic
from common.errors import ConfigError, StorageError, one_line
from common.models.card import ModelCard
from common.models.foreign import CARD_KEY, refuse_foreign, unreadable
from common.models.zoo import build_model
from common.tensor_file import encode_tensors, read_tensors

_DIGEST = "weights_sha256"


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
        StorageError: the file is missing, damaged or of another program; nothing in
            one is ever unpickled.
    """
    refuse_foreign(path)
    try:
        note, tensors = read_tensors(path, CARD_KEY)
        card = ModelCard.model_validate(note)
        if _digest(tensors) != note[_DIGEST]:
            raise ValueError("weights differ from their digest")
        model = build_model(
            card.architecture,
            in_channels=card.in_channels,
            image_size=card.image_size,
            num_classes=card.num_classes,
        )
        model.load_state_dict(tensors)
    except OSError as e:
        raise unreadable(path, e) from e
    except (ConfigError, KeyError, RuntimeError, ValidationError, ValueError) as e:
        reason = one_line(e, 160)
        raise StorageError(
            f"model {path} is damaged or not of takt: {reason}; make it again"
        ) from e
    return model.eval(), card


def _digest(tensors: dict[str, Tensor]) -> str:
    """Hash names, shapes and values of a model's tensors: sha256, hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().numpy()
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
