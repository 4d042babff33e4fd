"""Run an exported student through onnxruntime, on one thread, without torch.

Not here: making the file (encode.py), reading images (common.data.image_folder).
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.errors import ConfigError, StorageError, one_line
from common.export.card import CARD_KEY, INPUT, OUTPUT, ExportCard, missing_extra
from common.regular_file import open_regular

MOST_BYTES = 512 * 2**20  # of a file; a model of 36 million parameters has 140 MiB


class OnnxStudent:
    """An ONNX file of a student, open for answers.

    Attributes:
        card: what the file says about itself.
        sha256: of the file, hex.
    """

    def __init__(self, data: bytes, *, source: str = "the ONNX file") -> None:
        """Open the bytes of a file.

        Args:
            data: as `common.export.encode` made them.
            source: how messages name them.

        Raises:
            ConfigError: onnxruntime is not installed.
            StorageError: these are no student of takt.
        """
        try:
            import onnxruntime
        except ImportError as e:
            raise ConfigError(missing_extra("onnxruntime")) from e
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # it prints to stderr; errors are raised, too
        options.enable_cpu_mem_arena = False  # which keeps what one large batch took
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
            written = self._session.get_modelmeta().custom_metadata_map[CARD_KEY]
            self.card = ExportCard.model_validate(json.loads(written))
        except (KeyError, ValidationError, ValueError) as e:
            raise _no_student(source, e) from e
        except Exception as e:  # onnxruntime raises classes of its C++ module
            if not type(e).__module__.startswith("onnxruntime"):
                raise
            raise _no_student(source, e) from e
        self.sha256 = hashlib.sha256(data).hexdigest()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of an image."""
        model = self.card.model
        return model.in_channels, model.image_size, model.image_size

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer images.

        Args:
            x: (N, C, H, W) in [0, 1].

        Returns:
            (N, K).
        """
        assert x.shape[1:] == self.shape, f"{x.shape} are no images of {self.shape}"
        answer: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: x})[0]
        return answer


def read_onnx(path: Path) -> OnnxStudent:
    """Open an exported student.

    Raises:
        ConfigError: onnxruntime is not installed.
        StorageError: the file is missing, too large, or no student of takt.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror or e}") from e
    if len(data) > MOST_BYTES:
        raise StorageError(f"{path} has more than {MOST_BYTES >> 20} MiB; no student")
    return OnnxStudent(data, source=str(path))


def _no_student(source: str, error: Exception) -> StorageError:
    return StorageError(
        f"{source} is damaged or no student that takt exported: "
        f"{one_line(error, 120)}; make it again with `takt export`"
    )
