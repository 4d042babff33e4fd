"""The gateway's teacher as a differentiable function of torch, for method adaad.

A distilling child opens a connection of its own, with the node's identity and within
the node's bandwidth; it carries images, logits, cotangents and gradients. Not here:
the calls themselves (edge/link/teacher_stream.py), the use of the logits
(edge/distill/methods/crafting.py, edge/distill/methods/losses.py).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from edge.distill.teacher.teacher_link import open_stream
from edge.jobs.job import LiveLink
from edge.link.teacher_stream import TeacherStream


class LiveTeacher:
    """x (N, C, H, W) -> logits (N, K), called like a local model."""

    def __init__(self, stream: TeacherStream) -> None:
        """Call the teacher over `stream`."""
        self._stream = stream

    @property
    def num_bytes(self) -> int:
        """Return the bytes exchanged so far, both directions."""
        return self._stream.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """Fetch the logits; they are differentiable with respect to x.

        Raises:
            TaktError: as `TeacherStream.logits` says; `backward` likewise.
        """
        logits: Tensor = _RemoteLogits.apply(x, self._stream)
        return logits


@contextlib.contextmanager
def live_teacher(
    where: LiveLink, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[LiveTeacher]:
    """Connect to a gateway's teacher for the body.

    Args:
        where: the gateway, and the node's identity and caps.
        should_stop: called while waiting; True ends the wait with `Interrupted`.

    Raises:
        IdentityError: a certificate file cannot be read.
    """
    with open_stream(where, should_stop) as stream:
        yield LiveTeacher(stream)


class _RemoteLogits(torch.autograd.Function):
    """Logits that the gateway computes, and their vector-Jacobian product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stream: TeacherStream) -> Tensor:
        ctx.save_for_backward(x)
        ctx.stream = stream
        return torch.from_numpy(stream.logits(x.detach().numpy()).copy())

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor, None]:
        (x,), (cotangent,) = ctx.saved_tensors, cotangents
        gradient = ctx.stream.pull_back(x.detach().numpy(), cotangent.numpy())
        return torch.from_numpy(gradient.copy()), None
