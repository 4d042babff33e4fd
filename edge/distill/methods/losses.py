"""What a student minimises: one small function a method, and their table.

Each method is two pure steps, so that their costs can be measured apart: `craft`
(crafting.py) computes a delta, `loss` turns the batch and that delta into a scalar.

`warm_at` is the baseline without a teacher for `takt`'s own attack: adversarial
training that starts each attack from the sample's last delta. It is in essence ATTA
(Zheng et al., CVPR 2020). `takt` keeps its deltas in the same way. `fgsm_pgi` keeps
their values and adds a regulariser (Jia et al., ECCV 2022). `label_smoothing` and
`class_means` are `takt` with other labels than the teacher's own, as controls.

Free adversarial training (Shafahi et al., NeurIPS 2019) is left out: it takes the
gradients of x and of the weights from one backward pass and repeats each batch, where
every method here crafts first and learns then, so that both can be measured and
interrupted; its successors above need less time (Wong et al., ICLR 2020).

Not here: the loop and the schedules and the deltas kept between epochs
(edge.distill.fitting).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.catalog import check_name
from common.models.forward import Model
from edge.distill.batch import Batch, Boundary, Setting
from edge.distill.class_temperatures import at_temperature
from edge.distill.methods.controls import class_means, uniform_smoothing
from edge.distill.methods.crafting import (
    craft_by_class_soft_labels,
    craft_by_clean,
    craft_by_labels,
    craft_by_live_teacher,
    craft_by_soft_labels,
    craft_from_prior,
    craft_from_wide_noise,
    craft_warm_by_labels,
    craft_warm_by_soft_labels,
    mixed_labels,
    require_class_temperatures,
    require_soft_labels,
    require_teacher,
)

Craft = Callable[[Model, Batch, Setting], Tensor]
Loss = Callable[[Model, Batch, Tensor | None, Setting], Tensor]
# Soft labels (n, K) or (n, V, K) and labels (n,) -> soft labels of the same shape.
Relabel = Callable[[Tensor, Tensor], Tensor]
Known = Literal["labels", "soft_labels"]

_PGI_WEIGHT = 10.0  # of the regulariser, as in the authors' code


class Method(NamedTuple):
    """A way to train a student."""

    craft: Craft | None  # None: no attack
    loss: Loss
    needs: tuple[Known, ...] = ("labels",)  # of an image, to be trained on
    # Kept of a delta between epochs, as the next start (ATTA): its signs, or values.
    keeps_deltas: Literal["signs", "values"] | None = None
    relabel: Relabel | None = None  # what takes the place of the teacher's soft labels
    adapts_temperatures: bool = False  # of the classes, after each epoch
    finds_targets: bool = False  # of images that lack a label or soft labels


def method(name: str) -> Method:
    """Look up a method.

    Raises:
        ConfigError: there is none of that name.
    """
    return METHODS[check_name("method", name, METHODS)]


def natural_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """Fit the labels of clean images."""
    return F.cross_entropy(model(batch.x), batch.y)


def adversarial_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """Fit the labels of adversarial images (Madry et al., ICLR 2018)."""
    return F.cross_entropy(model(batch.x + _required(delta)), batch.y)


def fgsm_pgi_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """CE(S(x_adv), y) + 10 |S(x_adv) - S(x_start)|^2 (Jia et al., ECCV 2022).

    "Prior-Guided Adversarial Initialization for Fast Adversarial Training":
    x_start is where the attack began, at the delta of the epoch before, and the
    square is the mean over samples and logits. Left out of the paper's recipe are
    its label smoothing and the momentum of its variant FGSM-MEP.
    """
    assert batch.delta is not None, "the method keeps its deltas"
    start = (batch.x + batch.delta).clamp_(0, 1)
    adversarial, before = _both(model, batch.x + _required(delta), start)
    loss = F.cross_entropy(adversarial, batch.y)
    return loss + _PGI_WEIGHT * F.mse_loss(adversarial, before)


def trades_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """CE(S(x), y) + beta KL(S(x) -> S(x_adv)) (Zhang et al., ICML 2019)."""
    clean, adversarial = _both(model, batch.x, batch.x + _required(delta))
    robust = F.kl_div(
        F.log_softmax(adversarial, 1),
        F.log_softmax(clean, 1),
        reduction="batchmean",
        log_target=True,
    )
    return F.cross_entropy(clean, batch.y) + setting.recipe.beta * robust


def kd_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """Fit the soft labels of clean images (Hinton et al., 2015)."""
    return _distil(model(batch.x), require_soft_labels(batch), setting.temperature)


def ard_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """t^2 KL(T_t(x) -> S_t(x_adv)) (Goldblum et al., AAAI 2020; its weight 1)."""
    return _distil(
        model(batch.x + _required(delta)),
        require_soft_labels(batch),
        setting.temperature,
    )


def rslad_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """5/6 KL(T(x) -> S(x_adv)) + 1/6 KL(T(x) -> S(x)) (Zi et al., ICCV 2021)."""
    clean, adversarial = _both(model, batch.x, batch.x + _required(delta))
    soft = require_soft_labels(batch)
    return (5 * F.cross_entropy(adversarial, soft) + F.cross_entropy(clean, soft)) / 6


def absld_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """Fit RSLAD's targets at a temperature of each class (Zhao et al., NeurIPS 2024).

    5/6 KL(T_a(x) -> S(x_adv)) + 1/6 KL(T_c(x) -> S(x)), with the temperatures a and
    c of the sample's class; these follow the cross-entropies with the labels.
    """
    temperatures = require_class_temperatures(setting)
    soft, y = require_soft_labels(batch), batch.y
    clean, adversarial = _both(model, batch.x, batch.x + _required(delta))
    temperatures.observe(
        y,
        F.cross_entropy(clean.detach(), y, reduction="none"),
        F.cross_entropy(adversarial.detach(), y, reduction="none"),
    )
    of_clean = at_temperature(soft, temperatures.clean[y])
    of_adversarial = at_temperature(soft, temperatures.adversarial[y])
    loss = 5 * F.cross_entropy(adversarial, of_adversarial)
    return (loss + F.cross_entropy(clean, of_clean)) / 6


def adaad_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """KL(T(x_adv) -> S(x_adv)) with the live teacher (Huang et al., CVPR 2023).

    The paper adds KL(T(x) -> S(x)) with weight 1 - alpha; alpha is 1 in the code of
    its experiments, so that this term is 0.
    """
    x_adv = batch.x + _required(delta)
    with torch.no_grad():
        logits = require_teacher(setting)(x_adv)
    soft = F.softmax(logits / setting.temperature, 1)
    return F.cross_entropy(model(x_adv), soft)


def bss_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """Fit labels, soft labels and boundary points (Heo et al., AAAI 2019).

    Weights fall with progress p as in the authors' code: 1 + 3 (1 - p) for the
    soft labels, w (1 - 4 p / 3) for the boundary points with w = 2 unless the
    recipe gives another, so the last quarter goes without them. Every point is
    used; the paper keeps those where student and teacher differ most.
    """
    t = setting.temperature
    boundary = _boundary(batch)
    clean, beyond = _both(model, batch.x, boundary.x)
    weight = (setting.recipe.boundary_weight or 2.0) * (1 - 4 * setting.progress / 3)
    loss = F.cross_entropy(clean, batch.y)
    loss = loss + (4 - 3 * setting.progress) * F.cross_entropy(
        clean / t, require_soft_labels(batch)
    )
    if weight > 0:
        loss = loss + weight * F.cross_entropy(beyond / t, boundary.soft_labels)
    return loss


def takt_loss(
    model: Model, batch: Batch, delta: Tensor | None, setting: Setting
) -> Tensor:
    """Fit the mixed labels of x on the adversarial image alone.

    KL(T(x) -> S(x_adv)), with the true label mixed into T(x): RSLAD without its
    clean term, which costs a third of a few-step attack's time and brought nothing
    (tests/bench/ablation.py). With a boundary weight w, the share w / (1 + w) of the
    loss is of the teacher's boundary points. Images that lack a true label or soft
    labels have a target and a weight of their own (targets.py).
    """
    adversarial = batch.x + _required(delta)
    weight = setting.recipe.boundary_weight
    if weight == 0:
        return _fit(model(adversarial), batch, setting)
    boundary = _boundary(batch)
    inside, beyond = _both(model, adversarial, boundary.x)
    loss = _fit(inside, batch, setting)
    other = _distil(beyond, boundary.soft_labels, setting.temperature)
    return (loss + weight * other) / (1 + weight)


_BOTH: tuple[Known, ...] = ("labels", "soft_labels")
_TAKT = Method(craft_warm_by_soft_labels, takt_loss, _BOTH, keeps_deltas="signs")
METHODS: dict[str, Method] = {
    "natural": Method(None, natural_loss),
    "pgd_at": Method(craft_by_labels, adversarial_loss),
    "trades": Method(craft_by_clean, trades_loss),
    "warm_at": Method(craft_warm_by_labels, adversarial_loss, keeps_deltas="signs"),
    "n_fgsm": Method(craft_from_wide_noise, adversarial_loss),
    "fgsm_pgi": Method(craft_from_prior, fgsm_pgi_loss, keeps_deltas="values"),
    "kd": Method(None, kd_loss, ("soft_labels",)),
    "ard": Method(craft_by_labels, ard_loss, _BOTH),
    "rslad": Method(craft_by_soft_labels, rslad_loss, ("soft_labels",)),
    "absld": Method(
        craft_by_class_soft_labels, absld_loss, _BOTH, adapts_temperatures=True
    ),
    "bss": Method(None, bss_loss, _BOTH),
    "adaad": Method(craft_by_live_teacher, adaad_loss, ()),
    "label_smoothing": _TAKT._replace(relabel=uniform_smoothing),
    "class_means": _TAKT._replace(relabel=class_means),
    "takt": _TAKT._replace(needs=(), finds_targets=True),
}


def _distil(logits: Tensor, soft_labels: Tensor, temperature: float) -> Tensor:
    """t^2 times the cross-entropy at temperature t (the labels are soft already)."""
    return temperature**2 * F.cross_entropy(logits / temperature, soft_labels)


def _fit(logits: Tensor, batch: Batch, setting: Setting) -> Tensor:
    """Fit mixed labels, or the targets of the images, each by its weight."""
    target = batch.target
    if target is None:
        return _distil(logits, mixed_labels(batch, setting), setting.temperature)
    t = target.temperature
    each = F.cross_entropy(logits / t, target.labels, reduction="none")
    return (target.weight * t[:, 0] ** 2 * each).mean()


def _both(model: Model, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of two batches from one pass: cheaper for small models."""
    logits = model(torch.cat([first, second]))
    return logits[: len(first)], logits[len(first) :]


def _boundary(batch: Batch) -> Boundary:
    assert batch.boundary is not None, "the method needs boundary_points"
    return batch.boundary


def _required(delta: Tensor | None) -> Tensor:
    assert delta is not None, "the method needs a delta"
    return delta
