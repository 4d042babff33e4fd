"""What a file is that is no model of takt: by its first bytes, without unpickling it.

Formats: PyTorch's and pickle's own (opcode PROTO), zip, safetensors (a length and a
JSON header), ONNX (protobuf: fields of ModelProto), HDF5, GGUF, TFLite, gzip, Git LFS.
Not here: reading a model (files.py); a damaged file of takt's counts as none of these.
"""

import json
import zipfile
from pathlib import Path

from common.errors import StorageError
from common.regular_file import open_regular

CARD_KEY = "takt.card"  # in the header of takt's own models
_HINT = (
    "give one that a run has made, for instance runs/RUN/students/sensor.safetensors"
)
_HEAD = 64
_UNKNOWN = ""
_MOST_HEADER = 1 << 20  # as common.tensor_file has it, which needs torch
_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS (git lfs pull fetches the file)",
    ),
)


def refuse_foreign(path: Path) -> None:
    """Refuse what is no model of takt; needs no torch.

    Raises:
        StorageError: it is missing, or of another program.
    """
    try:
        found = what_is(path)
    except OSError as e:
        raise unreadable(path, e) from e
    if found is not None:
        raise StorageError(f"{path} is {found}, expected a model of takt; {_HINT}")


def unreadable(path: Path, error: OSError) -> StorageError:
    """Make the error to raise for a model that cannot be read."""
    reason = error.strerror or str(error)
    return StorageError(f"cannot read model {path}: {reason}; {_HINT}")


def what_is(path: Path) -> str | None:
    """Say what lies at a path, where it is of another program; None: nothing known.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return _what_folder(path)
    with open_regular(path) as file:
        head = file.read(_HEAD)
    if not head:
        return "empty"
    if head[8:9] == b"{" and (found := _what_safetensors(path)) != _UNKNOWN:
        return found
    if head.startswith(b"PK\x03\x04"):
        return _what_zip(path)
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, as older versions of PyTorch write"
    for magic, meaning in _MAGIC:
        if head.startswith(magic):
            return meaning
    if head[4:8] == b"TFL3":
        return "a TFLite model"
    # ir_version, then the producer's name, the domain, the graph or the opset.
    if head[0] == 0x08 and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        return "an ONNX model"
    return None


def _what_folder(path: Path) -> str:
    if (path / "config.json").exists():
        return "a folder, such as Hugging Face's libraries write"
    found = sorted(path.glob("*.safetensors")) + sorted(path.glob("*/*.safetensors"))
    return f"a folder; a file in it is {found[0]}" if found else "a folder"


def _what_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a damaged zip archive"
    if any(name.endswith("data.pkl") for name in names):
        return "a checkpoint of PyTorch (torch.save)"
    if "model.weights.h5" in names:
        return "a Keras model"
    return "a zip archive"


def _what_safetensors(path: Path) -> str | None:
    """Tell safetensors of others; None: takt's, _UNKNOWN: no whole header."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MOST_HEADER, path.stat().st_size - 8):
            return _UNKNOWN
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return _UNKNOWN
    if not isinstance(header, dict):
        return _UNKNOWN
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        return _UNKNOWN
    if CARD_KEY in metadata:
        return None
    return "weights of another program (safetensors without takt's card)"
