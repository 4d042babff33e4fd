"""Make an ONNX file from a student: torch's exporter, onnxruntime's quantisation.

The graph takes x (N, C, H, W) in [0, 1] with any N and returns logits; the student's
own normalisation is part of it. int8 is static: weights a channel, activations by the
range they have on calibration images. Not here: whether the file is still as good
(gate.py).
"""

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import ConfigError, StudentError, one_line
from common.export.card import (
    CARD_KEY,
    INPUT,
    OUTPUT,
    ExportCard,
    Format,
    missing_extra,
)
from common.models.card import ModelCard

OPSET = 20
CALIBRATION_IMAGES = 256
_BATCH = 32  # of calibration images


def encode(
    model: nn.Module,
    card: ModelCard,
    format: Format,
    *,
    student_sha256: str,
    calibration: NDArray[np.float32],
) -> bytes:
    """Make the bytes of an ONNX file.

    Args:
        model: in eval mode, on the CPU.
        card: of the model.
        format: "onnx" keeps float32; "onnx-int8" needs calibration images.
        student_sha256: of the student's own file, hex.
        calibration: (N, C, H, W) in [0, 1], images that the student trained on.

    Raises:
        ConfigError: onnx, onnxscript or onnxruntime is not installed.
        StudentError: the model cannot be written as ONNX.
    """
    proto = _exported(model, card)
    if format == "onnx-int8":
        proto = _quantized(proto, calibration[:CALIBRATION_IMAGES])
    note = ExportCard(format=format, model=card, student_sha256=student_sha256)
    entry = proto.metadata_props.add()
    entry.key, entry.value = CARD_KEY, json.dumps(note.model_dump(mode="json"))
    proto.producer_name = "takt"
    data: bytes = proto.SerializeToString()
    return data


def _exported(model: nn.Module, card: ModelCard) -> Any:
    """Export a model to an onnx.ModelProto in float32."""
    try:
        import onnx  # noqa: F401 - torch's exporter fails without it, in many words
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise ConfigError(missing_extra(e.name or "onnx")) from e
    # Two images: of one alone the exporter would take their number for a constant.
    example = torch.rand(
        2, card.in_channels, card.image_size, card.image_size, generator=_seeded()
    )
    model = model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        with _quietly(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as e:  # many kinds, of torch.export and of the exporter
        raise StudentError(
            f"a {card.architecture} cannot be written as ONNX: {one_line(e, 160)}"
        ) from e
    assert program is not None
    return program.model_proto


def _quantized(proto: Any, images: NDArray[np.float32]) -> Any:
    """Quantise weights and activations to int8: an onnx.ModelProto again."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(np.array_split(images, -(-len(images) // _BATCH)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            part = next(self._left, None)
            return None if part is None else {INPUT: part}

    # Its functions take and write files.
    with tempfile.TemporaryDirectory(prefix="takt-export-") as folder, _quietly():
        plain, prepared, out = (
            Path(folder, name) for name in ("plain", "prepared", "int8")
        )
        plain.write_bytes(proto.SerializeToString())
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            out,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(out)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep both libraries' advice off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
