"""One-step methods and controls, each against its paper's step written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import AttackConfig, StudentConfig
from edge.distill.batch import Batch, Images, Setting
from edge.distill.fitting.delta_memory import ValueMemory
from edge.distill.fitting.training import Training, relabelled
from edge.distill.knowledge import Knowledge
from edge.distill.methods.controls import class_means, uniform_smoothing
from edge.distill.methods.losses import method
from edge.distill.task import Task

EPS = 0.1


def recipe(name: str) -> StudentConfig:
    attack = AttackConfig(steps=1, step_size=EPS)
    return StudentConfig(model="cnn_tiny", method=name, epochs=1, attack=attack)


def setting(name: str) -> Setting:
    return Setting(
        recipe=recipe(name),
        eps=EPS,
        steps=1,
        step_size=EPS,
        progress=0.0,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture
def batch() -> Batch:
    drawn = torch.rand(2, 8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    delta = (EPS * torch.randn(8, 1, 4, 4, generator=torch.Generator())).clamp(
        -EPS, EPS
    )
    return Batch(x=drawn[0], y=torch.arange(8) % 3, delta=delta)


def sign_of_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return gradient.sign()


def crafted(name: str, model: nn.Module, batch: Batch) -> Tensor:
    craft = method(name).craft
    assert craft is not None
    return craft(model, batch, setting(name))


def test_n_fgsm_steps_by_eps_from_noise_of_two_eps_and_clips_to_the_images_alone(
    model: nn.Module, batch: Batch
) -> None:
    x, y = batch.x, batch.y
    random = torch.Generator().manual_seed(0)
    eta = torch.empty_like(x).uniform_(-2 * EPS, 2 * EPS, generator=random)
    eta = (x + eta).clamp(0, 1) - x
    expected = (eta + EPS * sign_of_gradient(model, x + eta, y) + x).clamp(0, 1) - x
    found = crafted("n_fgsm", model, batch)
    assert torch.allclose(found, expected, atol=1e-6)
    assert 2 * EPS < found.abs().max() <= 3 * EPS + 1e-6


def test_fgsm_pgi_steps_by_eps_from_the_delta_of_the_epoch_before(
    model: nn.Module, batch: Batch
) -> None:
    x, y, delta = batch.x, batch.y, batch.delta
    assert delta is not None
    delta = (x + delta).clamp(0, 1) - x
    moved = delta + EPS * sign_of_gradient(model, x + delta, y)
    expected = (x + moved.clamp(-EPS, EPS)).clamp(0, 1) - x
    found = crafted("fgsm_pgi", model, batch)
    assert torch.allclose(found, expected, atol=1e-6)
    assert ((found.abs() > 0.1 * EPS) & (found.abs() < 0.9 * EPS)).any()


def test_fgsm_pgi_pays_for_a_change_of_logits_since_its_start(
    model: nn.Module, batch: Batch
) -> None:
    assert batch.delta is not None
    delta = crafted("fgsm_pgi", model, batch)
    after = model(batch.x + delta)
    before = model((batch.x + batch.delta).clamp(0, 1))
    square = ((after - before) ** 2).sum() / (8 * 3)
    expected = F.cross_entropy(after, batch.y) + 10 * square
    found = method("fgsm_pgi").loss(model, batch, delta, setting("fgsm_pgi"))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_kept_values_come_back_to_a_hundredth_of_eps_and_grow_with_it() -> None:
    random = torch.Generator().manual_seed(0)
    memory = ValueMemory.begin(torch.zeros(4, 1, 4, 4), random)
    samples = torch.arange(4)
    assert torch.allclose(memory.recall(samples, EPS).abs(), torch.tensor(EPS))
    delta = EPS * (2 * torch.rand(4, 1, 4, 4, generator=random) - 1)
    memory.keep(samples, delta, torch.zeros(4, 1, 4, 4))
    found = memory.recall(samples, 2 * EPS)
    assert torch.allclose(found, 2 * delta, atol=2 * EPS / 100)


def test_a_training_of_fgsm_pgi_keeps_the_values_of_its_deltas() -> None:
    images = Images(
        torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8), torch.arange(32) % 10
    )
    task = Task(train=images, val=images, num_classes=10, eps=EPS)
    training = Training(recipe("fgsm_pgi"), task)
    assert training.memory is not None
    before = training.memory.recall(torch.arange(32), EPS)
    training.step(torch.arange(32))
    after = training.memory.recall(torch.arange(32), EPS)
    assert len({*after.flatten().tolist()}) > 2 and not torch.equal(before, after)


SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
LABELS = torch.tensor([0, 0, 2])


def test_uniform_smoothing_has_the_teachers_mean_confidence_and_nothing_else() -> None:
    confidence = (0.7 + 0.5 + 0.8) / 3
    rest = (1 - confidence) / 2
    sure, other = [confidence, rest, rest], [rest, rest, confidence]
    found = uniform_smoothing(SOFT, LABELS)
    assert torch.allclose(found, torch.tensor([sure, sure, other]))


def test_class_means_say_of_each_image_what_the_teacher_says_of_its_class() -> None:
    mean = [0.6, 0.3, 0.1]
    expected = torch.tensor([mean, mean, [0.1, 0.1, 0.8]])
    assert torch.allclose(class_means(SOFT, LABELS), expected)


def test_a_control_says_the_same_of_all_views_of_an_image_from_all_of_them() -> None:
    views = torch.stack([SOFT, SOFT.flip(0)], 1)
    for found, one in [
        (uniform_smoothing(views, LABELS), uniform_smoothing(SOFT, LABELS)),
        (class_means(views, LABELS), class_means(views.mean(1), LABELS)),
    ]:
        assert torch.allclose(found, one[:, None].expand_as(views))


def test_a_control_counts_only_what_the_teacher_said() -> None:
    views = torch.stack([SOFT, torch.zeros_like(SOFT)], 1)  # one view was not asked for
    for control in (uniform_smoothing, class_means):
        expected = control(SOFT, LABELS)[:, None].expand_as(views)
        assert torch.allclose(control(views, LABELS), expected)


@pytest.mark.parametrize("name", ["label_smoothing", "class_means"])
def test_a_control_is_takt_with_other_labels_of_the_images_that_have_a_true_one(
    name: str,
) -> None:
    images = Images(
        torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 2, -1])
    )
    soft = torch.cat([SOFT, SOFT[:1]])
    known = Knowledge(soft_labels=soft)
    task = Task(train=images, val=images, knowledge=known, num_classes=3, eps=EPS)
    found, relabel = relabelled(task, method(name)).soft_labels, method(name).relabel
    assert found is not None and relabel is not None
    assert torch.allclose(found[:3], relabel(SOFT, LABELS))
    takt = method("takt")
    assert (method(name).craft, method(name).loss) == (takt.craft, takt.loss)
