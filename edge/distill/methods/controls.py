"""Soft labels in the place of a teacher's own: controls of what these bring.

A student that learns as much from them as from the teacher's has learnt nothing that
only the teacher knows of an image. `uniform_smoothing` leaves the teacher's confidence
and nothing else (Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016),
`class_means` what it says of a class. Not here: how they are fitted (losses.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform_smoothing(soft_labels: Tensor, y: Tensor) -> Tensor:
    """Smooth the true labels, to the mean confidence of the teacher.

    Args:
        soft_labels: the teacher's, (n, K) or, with views, (n, V, K); zero where it
            was not asked.
        y: labels (n,), 0 or more.

    Returns:
        Same shape: the true class of each image has the mean of the teacher's highest
        probabilities, the other classes share the rest alike.
    """
    num_classes = soft_labels.shape[-1]
    confidence = soft_labels[_has_any(soft_labels)].amax(-1).mean()
    rest = (1 - confidence) / (num_classes - 1)
    hot = F.one_hot(y, num_classes).to(soft_labels.dtype)
    return _for_all_views(hot * (confidence - rest) + rest, soft_labels)


def class_means(soft_labels: Tensor, y: Tensor) -> Tensor:
    """Give each image the mean of the soft labels of its class.

    Args:
        soft_labels: the teacher's, (n, K) or, with views, (n, V, K); zero where it
            was not asked.
        y: labels (n,), 0 or more.

    Returns:
        Same shape: the mean over the images of the class, and their views.
    """
    num_classes, has_any = soft_labels.shape[-1], _has_any(soft_labels)
    of_class = y if soft_labels.dim() == 2 else y[:, None].expand(has_any.shape)
    each, of_class = soft_labels[has_any], of_class[has_any]
    sums = each.new_zeros(num_classes, num_classes).index_add(0, of_class, each)
    counts = torch.bincount(of_class, minlength=num_classes).clamp(min=1)
    return _for_all_views((sums / counts[:, None])[y], soft_labels)


def _has_any(soft_labels: Tensor) -> Tensor:
    """Tell the labels that the teacher gave; those that it did not give are zero."""
    return soft_labels.sum(-1) > 0


def _for_all_views(labels: Tensor, like: Tensor) -> Tensor:
    """Repeat labels (n, K) for the views of `like`."""
    return labels if like.dim() == 2 else labels[:, None].expand_as(like)
