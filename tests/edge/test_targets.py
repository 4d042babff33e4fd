"""What an image is fitted to, by what is known of it: told at known points."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import AttackConfig, StudentConfig
from edge.distill.batch import Batch, Setting, Target
from edge.distill.methods.losses import method
from edge.distill.methods.targets import confidence, find_target

T = 2.0
SURE = torch.tensor([6.0, 0.0, 0.0])  # 0.995 confident
UNSURE = torch.tensor([0.5, 0.0, 0.0])
OWN_LOGITS = torch.tensor([0.0, 0.0, 1.5])  # the student's, of every image


def model(x: Tensor) -> Tensor:
    return OWN_LOGITS.expand(len(x), 3) + 0 * x.flatten(1).sum(1, keepdim=True)


def setting(label_weight: float = 0.0) -> Setting:
    return Setting(
        recipe=StudentConfig(
            model="cnn_tiny",
            epochs=1,
            label_weight=label_weight,
            attack=AttackConfig(steps=1, step_size=0.1),
        ),
        eps=0.1,
        steps=1,
        step_size=0.1,
        progress=0.0,
        temperature=T,
    )


def target_of(
    y: int, logits: Tensor, *, taught: bool, label_weight: float = 0.0
) -> tuple[Tensor, float, float]:
    batch = Batch(
        x=torch.full((1, 1, 2, 2), 0.5),
        y=torch.tensor([y]),
        soft_labels=F.softmax(logits / T, 0)[None] if taught else torch.zeros(1, 3),
        taught=torch.tensor([taught]),
    )
    found = find_target(model, batch, setting(label_weight))
    return found.labels[0], float(found.weight[0]), float(found.temperature[0, 0])


def test_with_both_labels_it_is_their_mixture() -> None:
    labels, weight, temperature = target_of(1, SURE, taught=True, label_weight=0.3)
    mixed = 0.7 * F.softmax(SURE / T, 0) + 0.3 * torch.tensor([0.0, 1.0, 0.0])
    assert torch.allclose(labels, mixed)
    assert (weight, temperature) == (1.0, T)


def test_with_a_true_label_alone_it_is_that_label_at_no_temperature() -> None:
    labels, weight, temperature = target_of(1, SURE, taught=False, label_weight=0.3)
    assert labels.tolist() == [0.0, 1.0, 0.0]
    assert (weight, temperature) == (1.0, 1.0)


def test_without_a_true_label_it_is_the_teachers_where_the_teacher_is_sure() -> None:
    labels, weight, temperature = target_of(-1, SURE, taught=True, label_weight=0.3)
    assert torch.allclose(labels, F.softmax(SURE / T, 0))
    assert (weight, temperature) == (1.0, T)


@pytest.mark.parametrize("taught", [True, False])
def test_of_the_rest_it_is_the_students_own_weighted_by_its_confidence(
    taught: bool,
) -> None:
    labels, weight, temperature = target_of(-1, UNSURE, taught=taught)
    assert torch.allclose(labels, F.softmax(OWN_LOGITS / T, 0))
    assert weight == pytest.approx(float(F.softmax(OWN_LOGITS, 0).max()))
    assert temperature == T


def test_a_teachers_confidence_is_that_before_the_softening() -> None:
    soft = F.softmax(torch.stack([SURE, UNSURE]) / T, 1)
    plain = F.softmax(torch.stack([SURE, UNSURE]), 1).amax(1)
    assert torch.allclose(confidence(soft, T), plain, atol=1e-6)


def test_an_image_counts_by_the_weight_of_its_target() -> None:
    labels = F.softmax(torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), 1)

    def loss(*weights: float) -> float:
        target = Target(labels, torch.tensor(weights), torch.full((2, 1), T))
        x = torch.full((2, 1, 2, 2), 0.5)
        batch = Batch(x=x, y=torch.tensor([-1, -1]), target=target)
        return float(method("takt").loss(model, batch, torch.zeros_like(x), setting()))

    each = F.cross_entropy(OWN_LOGITS.expand(2, 3) / T, labels, reduction="none")
    assert loss(1.0, 0.5) == pytest.approx(
        float((T**2 * each * torch.tensor([1, 0.5])).mean())
    )
    assert loss(1.0, 1.0) == pytest.approx(float(T**2 * each.mean()))
