"""Views of an image: which crop of the padded image, mirrored or not.

View v of sample i is the same on every machine, whatever else is in its batch: its
place follows from a seed, i and v alone. View 0 is the image itself; the others are
drawn without repetition from the (2 shift + 1)^2 crops of the image with `shift`
black pixels around it (the pad-and-crop of CIFAR-10), times two with mirroring.
Cloud and node both cut views with this module, so that the teacher's logits belong to
exactly the pixels that a student sees. Not here: which view is used in which epoch
(edge.distill.fitting.training), the teacher's logits of it (cloud.extraction.block).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.config import count_views

_CHUNK = 4096  # samples that are drawn for at a time


@dataclass(frozen=True)
class Views:
    """The views of some samples."""

    drawn: NDArray[np.uint16]  # (samples, views): crop, and mirrored or not; 0 is plain
    shift: int
    # Views of each sample (samples,), where some have less; None: all have all.
    counts: NDArray[np.int64] | None = None

    @classmethod
    def draw(
        cls,
        num_samples: int,
        num_views: int,
        *,
        shift: int,
        flip: bool,
        seed: int,
        first: int = 0,
        keys: NDArray[np.uint64] | None = None,
    ) -> Self:
        """Draw the views of some samples.

        Args:
            num_samples: how many, from sample `first` on.
            num_views: of each; at most `count_views`.
            shift: largest translation, pixels each way.
            flip: mirror half of the views.
            seed: of the drawing.
            first: position of the first sample in the training split.
            keys: by which samples are told apart (num_samples,); None: their position.
        """
        others = np.arange(1, count_views(shift, flip), dtype=np.uint64)
        assert 1 <= num_views <= 1 + len(others), f"{num_views} of {len(others)} + 1"
        drawn = np.zeros((num_samples, num_views), np.uint16)
        key = _splitmix64(np.array([seed % 2**64], np.uint64))
        for start in range(0, num_samples, _CHUNK):
            stop = min(start + _CHUNK, num_samples)
            samples = np.arange(first + start, first + stop).astype(np.uint64)
            if keys is not None:
                samples = keys[start:stop]
            own = _splitmix64(key + samples)
            order = _splitmix64(own[:, None] + others).argsort(1, kind="stable")
            drawn[start:stop, 1:] = 1 + order[:, : num_views - 1]
        return cls(drawn, shift)

    @classmethod
    def plain(cls, num_samples: int, shift: int) -> Self:
        """Give each sample one view, the image itself."""
        return cls(np.zeros((num_samples, 1), np.uint16), shift)

    def joined(self, others: "Views") -> "Views":
        """Append the views of other samples, of the same shift."""
        assert self.shift == others.shift, f"{self.shift} and {others.shift}"
        both = (self, others)
        most = max(views.drawn.shape[1] for views in both)
        drawn = [
            np.pad(views.drawn, ((0, 0), (0, most - views.drawn.shape[1])))
            for views in both
        ]
        counts = np.concatenate([views.num_views() for views in both])
        return Views(np.concatenate(drawn), self.shift, counts)

    def num_views(self) -> NDArray[np.int64]:
        """Count the views of each sample: (samples,)."""
        num_samples, most = self.drawn.shape
        return np.full(num_samples, most) if self.counts is None else self.counts

    def turn(self, samples: Tensor, shown: Tensor | int) -> Tensor:
        """Choose the view whose turn it is: they take turns, neighbours a view apart.

        Args:
            samples: positions (n,).
            shown: how often each was shown before (n,), or all of them.
        """
        if self.counts is None:
            return torch.remainder(samples + shown, self.drawn.shape[1])
        return torch.remainder(samples + shown, torch.from_numpy(self.counts)[samples])

    def index(
        self,
        samples: Tensor,
        view: Tensor,
        height: int,
        width: int,
        device: torch.device | None = None,
    ) -> Tensor:
        """Compute where the pixels of some views lie on their canvas.

        Args:
            samples: positions (n,) among those that were drawn for.
            view: which view of each (n,), 0 for the image itself.
            height: of an image, pixels.
            width: the same.
            device: to work on; None: the CPU.

        Returns:
            (n, height * width); see `canvas_index`.
        """
        drawn = self.drawn[samples.numpy(), view.numpy()].astype(np.int64)
        side = 2 * self.shift + 1
        # Counted from the middle, so that 0 is the image itself.
        crop = (drawn + side * side // 2) % (side * side)
        return canvas_index(
            torch.from_numpy(crop // side).to(device),
            torch.from_numpy(crop % side).to(device),
            torch.from_numpy(drawn >= side * side).to(device),
            shift=self.shift,
            height=height,
            width=width,
        )


def canvas_index(
    rows: Tensor,
    columns: Tensor,
    mirrored: Tensor,
    *,
    shift: int,
    height: int,
    width: int,
) -> Tensor:
    """Map the pixels of crops to those of their canvas.

    The canvas is the image with `shift` pixels around it.

    Args:
        rows: int64 (n,) in [0, 2 shift], of each crop's upper left corner.
        columns: the same, across.
        mirrored: bool (n,), left-right.
        shift: pixels around an image.
        height: of an image, pixels.
        width: the same.

    Returns:
        int64 (n, height * width): pixel p of crop j is pixel [j, p] of its flattened
        canvas.
    """
    across = torch.arange(width, device=rows.device).expand(len(rows), width)
    across = torch.where(mirrored[:, None], across.flip(1), across) + columns[:, None]
    down = torch.arange(height, device=rows.device) + rows[:, None]
    return (down[:, :, None] * (width + 2 * shift) + across[:, None, :]).flatten(1)


def show(x: Tensor, index: Tensor, shift: int) -> Tensor:
    """Cut crops out of images (n, C, H, W), black outside; same shape and device."""
    canvas = F.pad(x, (shift,) * 4).flatten(2)
    return canvas.gather(2, index[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit numbers (splitmix64; Steele et al., OOPSLA 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64, as all of this
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
