"""Which images each training step sees: half a batch from each source.

With one source an epoch is a pass over it. With two, the release's images and the
node's own, half of each batch is of either, however many each has: a node of few images
then hears as much of them as of the release, and does not forget what its own images do
not show. Within a batch no image occurs twice, so that its kept delta is one. Not here:
what is known of an image (joined.py), the step (edge.distill.fitting.training).
"""

import torch
from torch import Tensor


class Sampler:
    """Draws the batches of a training from one or two sources."""

    def __init__(self, rows: Tensor, num_released: int, batch_size: int) -> None:
        """Take the images to train on.

        Args:
            rows: int64 (n,), ascending: positions in the training images.
            num_released: how many of all training images, the first, are the
                release's; the others are the node's own.
            batch_size: of a step; no more than there are rows are taken.
        """
        parts = (rows[rows < num_released], rows[rows >= num_released])
        self._parts = [part for part in parts if len(part)]
        self.num_rows = len(rows)
        self.batch_size = min(batch_size, len(rows))
        self._shares = _shares([len(part) for part in self._parts], self.batch_size)
        # How often each image was shown; needed where an epoch is no single pass.
        self._shown: Tensor | None = None
        if len(self._parts) > 1:
            self._shown = torch.zeros(int(rows[-1]) + 1, dtype=torch.int64)

    def steps_per_epoch(self) -> int:
        """Count the batches; a last one of less than half the size is left out."""
        return max(1, round(self.num_rows / self.batch_size))

    def epoch(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the batches of one epoch: positions of training images."""
        steps = self.steps_per_epoch()
        if self._shown is None:
            (rows,) = self._parts
            order = rows[torch.randperm(len(rows), generator=generator)]
            return torch.split(order, self.batch_size)[:steps]
        drawn = [
            torch.split(_stream(rows, steps, share, generator), share)
            for rows, share in zip(self._parts, self._shares, strict=True)
        ]
        return tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))

    def passes(self, positions: Tensor, epoch: int) -> Tensor | int:
        """Say how often images were shown before, in a training of so many epochs."""
        return epoch if self._shown is None else self._shown[positions]

    def count(self, positions: Tensor) -> None:
        """Note that images were shown."""
        if self._shown is not None:
            self._shown[positions] += 1

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint at the end of an epoch must hold."""
        return {} if self._shown is None else {"shown": self._shown.clone()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned.

        Raises:
            KeyError: it is of a training with one source.
        """
        if self._shown is not None:
            self._shown.copy_(tensors["shown"])


def _shares(counts: list[int], batch_size: int) -> list[int]:
    """Divide a batch: half from each, more where the other has too few for its half."""
    if len(counts) < 2:
        return [batch_size]
    own = min(batch_size // 2, counts[1])
    released = min(batch_size - own, counts[0])
    return [released, batch_size - released]


def _stream(rows: Tensor, steps: int, share: int, generator: torch.Generator) -> Tensor:
    """Draw steps * share positions: shuffled passes, one after the other.

    Where a batch has the end of one pass and the beginning of the next, what is in the
    former comes late in the latter.
    """
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < steps * share:
        order = rows[torch.randperm(len(rows), generator=generator)]
        begun = found[len(found) - len(found) % share :]
        late = torch.isin(order, begun)
        found = torch.cat([found, order[~late], order[late]])
    return found[: steps * share]
