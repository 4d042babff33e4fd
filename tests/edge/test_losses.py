"""What each objective asks of a student, told by its value at known points."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.catalog import contents_for
from common.config import AttackConfig, StudentConfig
from common.errors import ConfigError
from edge.distill.batch import Batch, Boundary, Setting
from edge.distill.class_temperatures import ClassTemperatures
from edge.distill.methods.crafting import craft_warm_by_soft_labels
from edge.distill.methods.losses import METHODS, method

EPS = 0.1
NAMES = sorted(METHODS)
TEACHER_WEIGHTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))


def teacher(x: Tensor) -> Tensor:
    return x.flatten(1) @ TEACHER_WEIGHTS


def setting(name: str = "takt", progress: float = 0.0, **changes: object) -> Setting:
    values: dict[str, object] = {
        "model": "cnn_tiny",
        "method": name,
        "epochs": 1,
        "attack": AttackConfig(steps=2, step_size=0.05),
        "beta": 6.0,
        **changes,
    }
    recipe = StudentConfig.model_validate(values)
    return Setting(
        recipe=recipe,
        eps=EPS,
        steps=recipe.attack.steps,
        step_size=0.05,
        progress=progress,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
        class_temperatures=ClassTemperatures(3),
        teacher=teacher,
    )


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    return Batch(
        x=drawn(8, 1, 4, 4),
        y=torch.arange(8) % 3,
        soft_labels=F.softmax(3 * drawn(8, 3), 1),
        delta=EPS * (drawn(8, 1, 4, 4) - 0.5).sign(),
        boundary=Boundary(drawn(8, 1, 4, 4), F.softmax(3 * drawn(8, 3), 1)),
    )


def value(name: str, model: nn.Module, batch: Batch, given: Setting) -> float:
    chosen = method(name)
    delta = chosen.craft(model, batch, given) if chosen.craft else None
    return chosen.loss(model, batch, delta, given).item()


@pytest.mark.parametrize("name", NAMES)
def test_every_method_gives_the_weights_a_finite_gradient(
    name: str, model: nn.Module, batch: Batch
) -> None:
    given = setting(name)
    chosen = method(name)
    delta = chosen.craft(model, batch, given) if chosen.craft else None
    loss = chosen.loss(model, batch, delta, given)
    for gradient in torch.autograd.grad(loss, list(model.parameters())):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    "name", [n for n in NAMES if METHODS[n].craft and n != "n_fgsm"]
)
def test_every_crafted_delta_stays_in_the_ball(
    name: str, model: nn.Module, batch: Batch
) -> None:
    craft = method(name).craft
    assert craft is not None
    delta = craft(model, batch, setting(name))
    assert delta.abs().max() <= EPS + 1e-6
    assert (batch.x + delta).min() >= 0
    assert (batch.x + delta).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_no_more_than_the_contents_that_are_pulled_for_it(
    name: str, model: nn.Module, batch: Batch
) -> None:
    contents = contents_for(name, 0.0)
    keeps = METHODS[name].keeps_deltas is not None
    pulled = batch._replace(
        soft_labels=batch.soft_labels if "soft_labels" in contents else None,
        boundary=batch.boundary if "boundary_points" in contents else None,
        delta=batch.delta if keeps else None,
    )
    assert value(name, model, pulled, setting(name)) > 0


def minimum(soft_labels: Tensor) -> Tensor:
    """Entropy: what a student pays that agrees with the teacher."""
    return -(soft_labels * soft_labels.log()).sum(1).mean()


class Echo(nn.Module):
    """Answers with the logarithm of given probabilities, whatever x is."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:  # noqa: D107
        super().__init__()
        self._answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self._answer(x) + 0 * x.sum()


@pytest.mark.parametrize("name", ["kd", "ard", "rslad", "absld", "takt"])
def test_a_student_that_agrees_with_the_teacher_pays_only_the_entropy(
    name: str, batch: Batch
) -> None:
    soft = batch.soft_labels
    assert soft is not None
    echo = Echo(lambda x: soft.log().repeat(len(x) // len(soft), 1))
    assert value(name, echo, batch, setting(name)) == pytest.approx(
        float(minimum(soft)), rel=1e-5
    )


def test_takt_with_the_whole_weight_on_the_true_labels_needs_no_teacher(
    model: nn.Module, batch: Batch
) -> None:
    given = setting(label_weight=1.0)
    assert batch.soft_labels is not None
    other = batch._replace(soft_labels=batch.soft_labels.flip(1))
    assert value("takt", model, batch, given) == pytest.approx(
        value("warm_at", model, batch, setting("warm_at"))
    )
    assert value("takt", model, other, setting(label_weight=1.0)) == pytest.approx(
        value("takt", model, batch, setting(label_weight=1.0))
    )


def test_trades_without_its_robust_term_is_natural_training(
    model: nn.Module, batch: Batch
) -> None:
    natural = value("natural", model, batch, setting("natural"))
    assert value("trades", model, batch, setting("trades", beta=0.0)) == pytest.approx(
        natural
    )
    assert value("trades", model, batch, setting("trades", beta=1.0)) > natural


def test_absld_fits_each_class_at_its_own_two_temperatures(
    model: nn.Module, batch: Batch
) -> None:
    given = setting("absld")
    temperatures = given.class_temperatures
    assert temperatures is not None
    temperatures.adversarial = torch.tensor([0.5, 1.0, 3.0])
    temperatures.clean = torch.tensor([2.0, 0.7, 1.0])
    assert batch.soft_labels is not None and batch.delta is not None
    delta = batch.delta
    logits = 2 * batch.soft_labels.log()  # of a teacher that shipped them at 2
    expected = 0.0
    for i, label in enumerate(batch.y.tolist()):
        for weight, x, t in [
            (5 / 6, batch.x[i] + delta[i], temperatures.adversarial[label]),
            (1 / 6, batch.x[i], temperatures.clean[label]),
        ]:
            soft = torch.exp(logits[i] / (2 * t))
            answer = torch.exp(model(x[None])[0])
            cost = -(soft / soft.sum() * (answer / answer.sum()).log()).sum()
            expected += weight * cost.item() / len(batch.y)
    found = method("absld").loss(model, batch, delta, given)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_class_that_costs_more_gets_sharper_labels_and_an_easy_one_smoother() -> None:
    temperatures = ClassTemperatures(3)
    y = torch.tensor([0, 1, 1, 2])
    clean = torch.tensor([1.0, 1.0, 1.0, 1.0])
    temperatures.observe(y, clean, torch.tensor([4.0, 1.0, 3.0, 0.0]))
    temperatures.end_epoch()
    # Mean losses 4, 2, 0: the farthest from their mean of 2 move by 0.1.
    assert temperatures.adversarial.tolist() == pytest.approx([0.9, 1.0, 1.1])
    assert temperatures.clean.tolist() == [1.0, 1.0, 1.0]


def test_class_temperatures_stay_between_a_half_and_five() -> None:
    temperatures = ClassTemperatures(2)
    for _ in range(60):
        losses = torch.tensor([9.0, 0.0])
        temperatures.observe(torch.tensor([0, 1]), losses, losses)
        temperatures.end_epoch()
    assert temperatures.clean.tolist() == [0.5, 5.0]


def test_absld_with_all_temperatures_at_one_is_rslad(
    model: nn.Module, batch: Batch
) -> None:
    assert value("absld", model, batch, setting("absld")) == pytest.approx(
        value("rslad", model, batch, setting("rslad"))
    )


def test_adaad_searches_where_student_and_teacher_differ_most(
    model: nn.Module, batch: Batch
) -> None:
    given = setting("adaad", attack=AttackConfig(steps=5, step_size=0.05))

    def distance(delta: Tensor) -> Tensor:
        own = F.log_softmax(model(batch.x + delta), 1)
        other = F.log_softmax(teacher(batch.x + delta), 1)
        return F.kl_div(own, other, reduction="none", log_target=True).sum(1)

    craft = method("adaad").craft
    assert craft is not None
    found = craft(model, batch, given)
    assert (distance(found) > distance(torch.zeros_like(found))).all()
    assert distance(found).sum() > distance(-found).sum()


def test_adaad_pays_for_what_the_teacher_says_of_the_adversarial_view(
    model: nn.Module, batch: Batch
) -> None:
    given = setting("adaad")
    assert batch.delta is not None
    x_adv = batch.x + batch.delta
    soft = F.softmax(teacher(x_adv) / given.temperature, 1)
    expected = -(soft * F.log_softmax(model(x_adv), 1)).sum(1).mean()
    found = method("adaad").loss(model, batch, batch.delta, given)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_bss_leaves_the_boundary_points_out_in_the_last_quarter(
    model: nn.Module, batch: Batch
) -> None:
    assert batch.boundary is not None
    other = batch._replace(
        boundary=Boundary(batch.boundary.x, batch.boundary.soft_labels.flip(1))
    )
    for progress, equal in [(0.0, False), (0.8, True)]:
        given = setting("bss", progress)
        same = value("bss", model, batch, given) == value("bss", model, other, given)
        assert same is equal


def test_takt_pays_for_boundary_points_only_when_the_recipe_weighs_them(
    model: nn.Module, batch: Batch
) -> None:
    without = batch._replace(boundary=None)
    assert value("takt", model, batch, setting()) == value(
        "takt", model, without, setting()
    )
    assert value("takt", model, batch, setting(boundary_weight=1.0)) != value(
        "takt", model, batch, setting()
    )


def test_a_warm_start_finds_a_worse_delta_than_the_same_steps_from_nothing(
    model: nn.Module, batch: Batch
) -> None:
    given = setting(noise=0.0, attack=AttackConfig(steps=1, step_size=0.02))
    soft = batch.soft_labels
    assert soft is not None

    def loss_at(delta: Tensor) -> float:
        return F.cross_entropy(model(batch.x + delta), soft).item()

    cold = craft_warm_by_soft_labels(
        model, batch._replace(delta=torch.zeros_like(batch.x)), given
    )
    kept = cold
    for _ in range(4):
        kept = craft_warm_by_soft_labels(model, batch._replace(delta=kept), given)
    assert loss_at(kept) > loss_at(cold)


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"pgd_at.*takt"):
        method("adaadd")
