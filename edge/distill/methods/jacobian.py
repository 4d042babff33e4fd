"""A penalty on the slope of a student's logits, beside the loss of any method.

Robust nets of a few thousand parameters are steep between the points where an attack of
few steps looks. The penalty makes them flatter along directions that no attack chose.

For signs s drawn at random, E|J s|^2 is the squared Frobenius norm of the Jacobian J of
the logits (Hutchinson, 1989), as in "Robust Learning with Jacobian Regularization"
(Hoffman, Roberts and Yaida, 2019), there along outputs. Here J s is a central
difference over the whole eps ball, S(x + eps s) - S(x - eps s), and the penalty the
cross-entropy of its softmax with the uniform distribution: in proportion to its
variance where it is small, to its size where it is large. IGDM (Lee et al., ICLR 2025)
fits this difference to the teacher's instead; no more was gained by that
(tests/bench/label_tries.py). Not here: losses of methods (losses.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.models.forward import Model
from edge.distill.batch import Batch, Setting


def jacobian_penalty(model: Model, batch: Batch, setting: Setting) -> Tensor:
    """Penalise the slope at every other image of a batch, for the cost of one pass.

    Args:
        model: the student, in training mode.
        batch: its images.
        setting: gives eps and the generator of the signs.

    Returns:
        A scalar, not below 0.
    """
    x = batch.x[::2]
    signs = torch.empty_like(x).uniform_(-1, 1, generator=setting.generator).sign_()
    step = setting.eps * signs
    logits = model(torch.cat([x + step, x - step]).clamp_(0, 1))
    ahead, behind = logits.chunk(2)
    num_classes = logits.shape[1]
    uniform = torch.full_like(ahead, 1 / num_classes)
    return F.kl_div(F.log_softmax(ahead - behind, 1), uniform, reduction="batchmean")
