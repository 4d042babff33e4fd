"""Data parallelism by hand: what the ranks of one training exchange.

Few and large messages: gradients are averaged once a step as one flat tensor, weights
and statistics agreed on once an epoch as another. torch's
DistributedDataParallel would overlap that with the backward pass, but an
adversarial step holds ten or so forward and backward passes for each exchange,
and constructing it imports torch._dynamo (5 CPU-seconds a worker). With one
rank nothing here communicates. Not here: who starts the ranks (job.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1

    def share(self, batch: Tensor) -> Tensor:
        """Take this rank's rows of a global batch; shares differ by one at most."""
        return batch[self.rank :: self.world_size]

    def average(self, gradients: Sequence[Tensor], num_samples: int) -> list[Tensor]:
        """Average gradients of mean losses, each weighted by its samples.

        Args:
            gradients: of this rank's loss, one a parameter.
            num_samples: that this rank's loss was the mean of.
        """
        if self.world_size == 1:
            return list(gradients)
        flat = torch.cat([g.flatten().float() for g in gradients] + [_one(gradients)])
        flat *= num_samples
        dist.all_reduce(flat)
        flat /= flat[-1].clone()
        parts = torch.split(flat[:-1], [g.numel() for g in gradients])
        return [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]

    def total(self, counts: Tensor) -> Tensor:
        """Add up a tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(counts)
        return counts

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors of float32 with those of rank 0, in place."""
        ours = list(tensors)
        if self.world_size == 1 or not ours:
            return
        flat = torch.cat([t.flatten() for t in ours])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(
            ours, torch.split(flat, [t.numel() for t in ours]), strict=True
        ):
            tensor.copy_(part.view_as(tensor))


def _one(gradients: Sequence[Tensor]) -> Tensor:
    return torch.ones(1, device=gradients[0].device)
