"""What is known of the release's images and of a node's own, as one: first the former.

Own images have views of their own number, and soft labels where the teacher was asked
about them. Not here: the images themselves, and asking the teacher.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.data.views import Views
from edge.distill.knowledge import Knowledge


@dataclass(frozen=True)
class OwnKnowledge:
    """What is known of a node's own images, beside their true labels."""

    num: int
    views: Views | None = None  # None: plain images alone
    # The teacher's softmax(logits / temperature): (num, K), or (num, V, K) with views.
    soft_labels: Tensor | None = None


def joined(released: Knowledge, num_released: int, own: OwnKnowledge) -> Knowledge:
    """Append own images to those of a release.

    Args:
        released: of the release's images, in their order.
        num_released: how many they are.
        own: of the others; the same shift of the views.
    """
    taught = torch.zeros(num_released + own.num, dtype=torch.bool)
    if released.soft_labels is not None:
        taught[:num_released] = True if released.taught is None else released.taught
    views = _joined_views(released.views, num_released, own)
    soft = released.soft_labels
    if own.soft_labels is not None:
        taught[num_released:] = True
        soft = _stacked(soft, num_released, own.soft_labels)
    if soft is not None and views is not None and soft.dim() == 2:
        soft = soft[:, None]
    return replace(
        released,
        soft_labels=soft,
        views=views,
        taught=None if bool(taught.all()) else taught,
    )


def _joined_views(
    released: Views | None, num_released: int, own: OwnKnowledge
) -> Views | None:
    """Join the views; images without any have one, the plain one."""
    some = released or own.views
    if some is None:
        return None
    first = released or Views.plain(num_released, some.shift)
    return first.joined(own.views or Views.plain(own.num, some.shift))


def _stacked(released: Tensor | None, num_released: int, own: Tensor) -> Tensor:
    """Stack soft labels of different numbers of views; what is missing is zero."""
    if released is None:
        released = own.new_zeros(num_released, *own.shape[1:])
    if released.dim() == own.dim() == 2:
        return torch.cat([released, own])
    parts = [part[:, None] if part.dim() == 2 else part for part in (released, own)]
    most = max(part.shape[1] for part in parts)
    stacked = own.new_zeros(num_released + len(own), most, own.shape[-1])
    stacked[:num_released, : parts[0].shape[1]] = parts[0]
    stacked[num_released:, : parts[1].shape[1]] = parts[1]
    return stacked
