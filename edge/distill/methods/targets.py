"""What a student is fitted to where not every image has a true label and soft labels.

Of an image that has both, the mixture of the two (crafting.mixed_labels); of one with a
true label alone, that label; of one with soft labels alone, these, where the teacher is
sure of them. Of the rest it is the student's own prediction on the clean image: then
the loss asks for consistency, S(x) -> S(x_adv), with the confidence of that prediction
as its weight, so that an image says the less, the less is known of it. The term is that
of TRADES (Zhang et al., ICML 2019), without labels as in UAT (Alayrac et al.,
"Are Labels Required for Improving Adversarial Robustness?", NeurIPS 2019).

Not here: the loss (losses.py), where labels come from (edge.distill.sources).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.models.forward import Model
from edge.distill.batch import Batch, Setting, Target
from edge.distill.methods.crafting import require_soft_labels

# Of a teacher's prediction that an image without a true label is fitted to.
MIN_CONFIDENCE = 0.8


def find_target(model: Model, batch: Batch, setting: Setting) -> Target:
    """Choose each image's target; the model is asked about those that need it.

    Args:
        model: the student, as it is attacked.
        batch: with `taught`; y is -1 where there is no true label.
        setting: gives the temperature and the weight of the true label.
    """
    soft, y, t = require_soft_labels(batch), batch.y, setting.temperature
    labelled, taught = y >= 0, _taught(batch)
    hot = F.one_hot(y.clamp(min=0), soft.shape[1]).to(soft.dtype)
    weight = setting.recipe.label_weight
    mixed = torch.where(taught[:, None], torch.lerp(soft, hot, weight), hot)
    labels = torch.where(labelled[:, None], mixed, soft)
    weights = torch.ones_like(soft[:, 0])
    # A true label alone has no temperature: softened, it would be fitted too firmly.
    temperature = torch.where(labelled & ~taught, torch.ones_like(weights), t)
    sure = taught & (confidence(soft, t) > MIN_CONFIDENCE)
    unknown = ~labelled & ~sure
    if bool(unknown.any()):
        with torch.no_grad():
            logits = model(batch.x[unknown]).float()
        labels[unknown] = F.softmax(logits / t, 1)
        weights[unknown] = F.softmax(logits, 1).amax(1)
    return Target(labels, weights, temperature[:, None])


def confidence(soft_labels: Tensor, temperature: float) -> Tensor:
    """Take the highest softmax(logits) of softmax(logits / temperature): (N,)."""
    logits = soft_labels.clamp(min=torch.finfo(soft_labels.dtype).tiny).log()
    return F.softmax(logits * temperature, 1).amax(1)


def _taught(batch: Batch) -> Tensor:
    if batch.taught is None:
        return torch.ones_like(batch.y, dtype=torch.bool)
    return batch.taught
