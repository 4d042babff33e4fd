"""Random translations and mirrorings of one batch, on its own device.

Not here: crops of other sizes, colour, mixing (the classes of small grey images do
not survive more), and the drawn views that knowledge is extracted on
(common.data.views).
"""

import torch
from torch import Tensor

from common.data.views import canvas_index, show


def augmented(
    x: Tensor, *, shift: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Move each image by up to `shift` pixels and mirror half of them.

    Args:
        x: (N, C, H, W); what moves in from outside is 0, as in the usual
            pad-and-crop of CIFAR-10.
        shift: largest translation, pixels, each way; 0 moves nothing.
        flip: mirror left-right with probability a half.
        generator: on the device of x.
    """
    if not shift and not flip:
        return x
    n, _, height, width = x.shape
    rows = columns = torch.zeros(n, dtype=torch.int64, device=x.device)
    mirrored = torch.zeros(n, dtype=torch.bool, device=x.device)
    if shift:
        rows, columns = torch.randint(
            0, 2 * shift + 1, (2, n), device=x.device, generator=generator
        )
    if flip:
        mirrored = torch.rand(n, device=x.device, generator=generator) < 0.5
    index = canvas_index(
        rows, columns, mirrored, shift=shift, height=height, width=width
    )
    return show(x, index, shift)
