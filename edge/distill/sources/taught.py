"""What the gateway's teacher says of a node's own images, of each view of them.

Only with `share_images`: the images leave the device, each view of each once. Not here:
the calls and the answers on disk (edge.distill.teacher.answers).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data.views import Views, show
from common.release import Manifest
from edge.distill.batch import Images
from edge.distill.teacher.answers import teacher_answers
from edge.jobs.job import LiveLink
from edge.link.teacher_stream import ReleasedTeacher

_BLOCK = 1024  # images whose views are cut at a time


class Taught(NamedTuple):
    """A teacher's answers about some images."""

    logits: Tensor  # (N, V, K), fp16; V is 1 where there are no views
    classes: Tensor  # (N,), the teacher's of the plain images
    num_bytes: int  # exchanged with the gateway
    notes: tuple[str, ...]


def ask_teacher(
    own: Images,
    views: Views | None,
    manifest: Manifest,
    *,
    link: LiveLink,
    answers: Path,
    should_stop: Callable[[], bool],
) -> Taught:
    """Ask about each view of each image that is not known yet.

    Raises:
        TaktError: as `teacher_answers` says; what was answered is kept.
    """
    said = teacher_answers(
        link,
        answers,
        ReleasedTeacher(manifest.teacher.weights_sha256, manifest.num_classes),
        pixels_of(own, views),
        should_stop,
    )
    num_views = 1 if views is None else views.drawn.shape[1]
    logits = torch.from_numpy(said.logits).view(num_views, len(own.y), -1)
    return Taught(
        logits=logits.transpose(0, 1),  # a view of what was answered, and no copy
        classes=logits[0].argmax(1),
        num_bytes=said.num_bytes,
        notes=said.notes,
    )


def pixels_of(own: Images, views: Views | None) -> Iterator[NDArray[np.uint8]]:
    """Cut all images' first view, then all images' second one, and so on."""
    positions = torch.arange(len(own.y))
    height, width = own.x.shape[2:]
    for v in range(1 if views is None else views.drawn.shape[1]):
        for rows in torch.split(positions, _BLOCK):
            x = own.x[rows]
            if views is not None:
                view = torch.full_like(rows, v)
                x = show(x, views.index(rows, view, height, width), views.shift)
            yield x.numpy()
