"""What is said about a student inside its ONNX file: one key of the file's metadata.

Not here: the file itself (encode.py, session.py).
"""

from typing import Literal, get_args

from pydantic import Field

from common.errors import ConfigError
from common.models.card import ModelCard
from common.records import Record

Format = Literal["onnx", "onnx-int8"]
FORMATS: tuple[Format, ...] = get_args(Format)
CARD_KEY = "takt"  # in the metadata of the file
INPUT, OUTPUT = "x", "logits"  # (N, C, H, W) in [0, 1], any N; (N, K)
EXTRA = "export"  # of the distribution


class ExportCard(Record):
    """Where an ONNX file comes from and what it expects."""

    format: Format
    model: ModelCard  # class names, size, threat model, release
    student_sha256: str = Field(max_length=64)  # of the safetensors file


def format_of(name: str) -> Format:
    """Return the format of that name.

    Raises:
        ConfigError: there is none.
    """
    for format in FORMATS:
        if name == format:
            return format
    raise ConfigError(
        f"no export format is called '{name}'; expected one of {', '.join(FORMATS)}"
    )


def missing_extra(name: str) -> str:
    """Say which package lacks here, and how to install it."""
    return (
        f"{name} is not installed; install the extra '{EXTRA}' "
        f"(TAKT_EXTRAS={EXTRA} ./takt ..., or: pip install 'takt[{EXTRA}]')"
    )
