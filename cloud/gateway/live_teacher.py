"""The teacher that answers nodes' queries: its logits, and gradients through it.

`LiveTeacher` is the interface that the gateway calls, wherever the model runs;
`FileTeacher` is the model. Not here: the messages (`cloud.gateway.teacher_service`),
batching over nodes (`cloud.gateway.ray_serve`).
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.catalog import needs_live_teacher
from common.config import RunConfig
from common.errors import StorageError

Batch = NDArray[np.float32]
MAX_IMAGES = 64  # computed at a time: a ResNet-18 takes 28 MiB for each


class Shapes(NamedTuple):
    """A teacher's input and output, without the number of images, and which it is."""

    sample: tuple[int, int, int]  # (C, H, W)
    num_classes: int
    weights_sha256: str = ""  # of its file, hex, as on a release's teacher card


@dataclass(frozen=True)
class LiveTeacher:
    """The teacher behind TeacherService.

    Attributes:
        shapes: the shapes of its input and output, and its file's digest.
        query: x (N, C, H, W) -> logits (N, K).
        pull_back: x (N, C, H, W), dL/dlogits (N, K) -> dL/dx (N, C, H, W).
    """

    shapes: Callable[[], Awaitable[Shapes]]
    query: Callable[[Batch], Awaitable[Batch]]
    pull_back: Callable[[Batch, Batch], Awaitable[Batch]]


def is_wanted(config: RunConfig) -> bool:
    """Tell whether a config asks for the live teacher, which costs a process.

    Itself (`gateway.live_teacher`), by a student's method, or by a simulated node that
    shares its images.
    """
    return (
        config.gateway.live_teacher
        or any(needs_live_teacher(s.method) for s in config.students.values())
        or any(n.data is not None and n.data.share_images for n in config.nodes)
    )


class FileTeacher:
    """A teacher's safetensors file; read at the first query, and when it changes.

    A batch is computed `MAX_IMAGES` at a time: no image's answer depends on another.
    """

    def __init__(self, path: Path) -> None:
        """Answer from `path`, which need not be there yet."""
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._model: Any = None
        self._shapes = Shapes((0, 0, 0), 0)

    def shapes(self) -> Shapes:
        """Return the shapes of the teacher's input and output, and its digest.

        Raises:
            StorageError: the file is missing or damaged.
        """
        self._read()
        return self._shapes

    def query(self, x: Batch) -> Batch:
        """Return logits (N, K) of x (N, C, H, W).

        Raises:
            StorageError: the file is missing or damaged.
        """
        import torch

        model = self._read()
        with torch.inference_mode():
            logits = [model(torch.from_numpy(x[rows])) for rows in _slices(len(x))]
            return np.asarray(torch.cat(logits))

    def pull_back(self, x: Batch, cotangent: Batch) -> Batch:
        """Return dL/dx for dL/dlogits (N, K) at x (N, C, H, W).

        Raises:
            StorageError: the file is missing or damaged.
        """
        import torch

        model = self._read()
        gradients: list[torch.Tensor] = []
        for rows in _slices(len(x)):
            leaf = torch.from_numpy(x[rows]).requires_grad_()
            back = torch.from_numpy(cotangent[rows])
            gradients += torch.autograd.grad(model(leaf), leaf, back)
        return np.asarray(torch.cat(gradients))

    def _read(self) -> Any:
        from common.models.files import load_model

        try:
            status = self._path.stat()
            found = (status.st_mtime_ns, status.st_size)
            if found == self._seen:
                return self._model
            with self._path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as e:
            raise StorageError(
                f"cannot read {self._path}: {e.strerror}; train the teacher first"
            ) from e
        model, card = load_model(self._path)
        self._model = model.requires_grad_(False)
        size = card.image_size
        sample = (card.in_channels, size, size)
        self._shapes = Shapes(sample, card.num_classes, digest)
        self._seen = found
        return self._model


def _slices(num: int) -> list[slice]:
    """Divide a batch of `num` images, one at least."""
    return [slice(i, i + MAX_IMAGES) for i in range(0, num, MAX_IMAGES)]


def in_threads(teacher: FileTeacher) -> LiveTeacher:
    """Run a teacher of this process in threads of the event loop."""

    async def shapes() -> Shapes:
        return await asyncio.to_thread(teacher.shapes)

    async def query(x: Batch) -> Batch:
        return await asyncio.to_thread(teacher.query, x)

    async def pull_back(x: Batch, cotangent: Batch) -> Batch:
        return await asyncio.to_thread(teacher.pull_back, x, cotangent)

    return LiveTeacher(shapes, query, pull_back)
