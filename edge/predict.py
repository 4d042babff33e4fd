"""Answers about images by the promoted student, through onnxruntime, without torch.

The student is the one that the node's current.json names, in the ONNX file that lies
in its folder; a new one is picked up between two answers, and an old one when the node
goes back to it. Not here: making the file (edge.distill.export), the verb (deploy.cli).
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.data.image_folder import Form, files_below, is_image, read_images
from common.data.listing import visible
from common.errors import DataError, StorageError, StudentError
from common.export.card import FORMATS, Format
from common.export.session import OnnxStudent, read_onnx
from common.records import Record
from common.regular_file import is_folder
from edge.state import Promoted, StateDir, is_at_work, read_status

STDIN = "-"
_POLL_S = 0.5
_INT8_FIRST: tuple[Format, ...] = tuple(reversed(FORMATS))


class Prediction(Record):
    """What a student says of one image."""

    image: str
    class_name: str
    probability: float  # softmax of the logits; no measure of being right
    margin: float  # largest logit minus the next
    channel: str  # the release
    version: int
    student: str  # name of the recipe
    format: Format


class Predictor:
    """Answers with the student that serves at that moment."""

    def __init__(self, state: StateDir, format: Format | None = None) -> None:
        """Open the node's exported student.

        Args:
            state: of the node.
            format: this one only; None: int8 where there is one.

        Raises:
            ConfigError: onnxruntime is not installed.
            StudentError: no student is promoted yet, or it was not exported.
            StorageError: the file is damaged.
        """
        self._state, self._format = state, format
        self._written: tuple[int, int] | None = None  # of current.json
        self._promoted: Promoted | None = None
        self._student: OnnxStudent | None = None
        self._refresh()

    def predict(self, path: Path, *, name: str | None = None) -> Prediction:
        """Answer one image of any size and mode, prepared as in training.

        Args:
            path: the image's file.
            name: how the answer calls it; None: its path.

        Raises:
            DataError: it cannot be read.
            StudentError: the student that serves now was not exported.
        """
        student, promoted = self._refresh()
        channels, size, _ = student.shape
        form = Form("L" if channels == 1 else "RGB", size)
        pixels = read_images([path], form, reduced=True)
        scaled = (pixels / np.float32(255)).astype(np.float32, copy=False)
        logits = student.logits(scaled)[0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        second, first = np.argsort(logits)[-2:]
        return Prediction(
            image=str(path) if name is None else name,
            class_name=student.card.model.class_names[first],
            probability=round(float(odds[first] / odds.sum()), 4),
            margin=round(float(logits[first] - logits[second]), 4),
            channel=promoted.channel,
            version=promoted.version,
            student=promoted.student,
            format=student.card.format,
        )

    def _refresh(self) -> tuple[OnnxStudent, Promoted]:
        """Open another file if current.json names another student."""
        written = None
        with contextlib.suppress(OSError):
            found = self._state.current.stat()
            written = (found.st_ino, found.st_mtime_ns)
        if self._student is None or written != self._written:
            promoted = self._state.read_current().promoted
            if promoted is None:
                raise StudentError(_nothing_promoted(self._state))
            if promoted != self._promoted or self._student is None:
                self._student = self._open(promoted)
                self._promoted = promoted
            self._written = written
        assert self._promoted is not None
        return self._student, self._promoted

    def _open(self, promoted: Promoted) -> OnnxStudent:
        wanted = _INT8_FIRST if self._format is None else (self._format,)
        for format in wanted:
            path = self._state.exported_file(promoted, format)
            if not path.exists():
                continue
            student = read_onnx(path)
            if student.card.student_sha256 != promoted.weights_sha256:
                raise StorageError(
                    f"{path} was made of another student than the one beside it; make "
                    "it again with `takt edge export`"
                )
            return student
        raise StudentError(
            f"the student of {promoted.channel} v{promoted.version} has no "
            f'{" or ".join(wanted)} file; set export = ["{wanted[0]}"] in edge.toml, '
            "or make one now with `takt edge export`"
        )


def _nothing_promoted(state: StateDir) -> str:
    """Say that no student is there yet, and what the node is doing."""
    try:
        status = read_status(state.root)
    except StorageError as e:
        return f"no student is promoted yet: {e}"
    what = status.state if is_at_work(status) else "not at work (`takt edge run`)"
    last = f", last outcome: {status.outcome}" if status.outcome else ""
    return f"no student is promoted yet; node {status.node} is {what}{last}"


def images_of(given: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """List files, the images of folders, and standard input for `-`.

    Yields:
        A file, and what answers call it.

    Raises:
        DataError: a folder holds no image.
    """
    for path in given:
        if str(path) == STDIN:
            with tempfile.NamedTemporaryFile(prefix="takt-predict-") as file:
                file.write(sys.stdin.buffer.read())
                file.flush()
                yield Path(file.name), STDIN
        elif is_folder(path):
            found = [p for p in files_below(visible(path)) if is_image(p)]
            if not found:
                raise DataError(f"{path} holds no image; give files, or another folder")
            yield from ((p, str(p)) for p in found)
        else:
            yield path, str(path)


def new_images(
    folder: Path, *, wait: Callable[[float], object] = time.sleep
) -> Iterator[Path]:
    """Yield each image that appears in a folder from now on, once it is whole.

    An image counts as whole when its size stays the same from one look to the next.

    Args:
        folder: watched until the caller stops.
        wait: between two looks, in seconds.
    """
    seen = set(_sizes(folder))
    before: dict[Path, int] = {}
    while True:
        sizes = _sizes(folder)
        for path, num_bytes in sizes.items():
            if path not in seen and num_bytes and before.get(path) == num_bytes:
                seen.add(path)
                yield path
        seen &= sizes.keys()  # one that comes back is new
        before = sizes
        wait(_POLL_S)


def _sizes(folder: Path) -> dict[Path, int]:
    sizes = {}
    for path in visible(folder):
        with contextlib.suppress(OSError):
            if is_image(path):
                sizes[path] = path.stat().st_size
    return sizes
