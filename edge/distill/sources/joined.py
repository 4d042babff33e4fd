"""What is known of the release's images and of a node's own, as one: first the former.

Own images have views of their own number, and the teacher's answers where it was asked
about them, which are held once. Not here: the images themselves, asking the teacher.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.data.views import Views
from edge.distill.knowledge import Knowledge, OwnAnswers


@dataclass(frozen=True)
class OwnKnowledge:
    """What is known of a node's own images, beside their true labels."""

    num: int
    views: Views | None = None  # None: plain images alone
    logits: Tensor | None = None  # (num, V, K), the teacher's; V is 1 without views


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
    answers = None
    if own.logits is not None:
        taught[num_released:] = True
        answers = OwnAnswers(own.logits, num_released, released.temperature)
    soft = released.soft_labels
    if soft is not None and views is not None and soft.dim() == 2:
        soft = soft[:, None]
    return replace(
        released,
        soft_labels=soft,
        own=answers,
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
