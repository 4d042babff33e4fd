"""Evaluation: exact where the answer is known, and suspicious where it should be."""

import logging
import sys
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config import AttackConfig
from common.data.datasets import Dataset
from common.models.zoo import build_model
from common.optim import SGD
from common.robustness.attacks import pgd
from common.robustness.evaluate import (
    autoattack,
    clean_accuracy,
    is_collapsed,
    predict,
    robust_accuracy_pgd,
)

ATTACK = AttackConfig(steps=10, step_size=0.02)
EPS = 0.05
ALL_FALL = 0.6  # the first attack breaks every image, the others are skipped


class _Logits(nn.Module):
    """A linear model of x, centred so that all classes are answered."""

    def __init__(self, num_classes: int = 3, num_pixels: int = 16) -> None:
        super().__init__()
        self.linear = nn.Linear(num_pixels, num_classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1) - 0.5)
        return out


class _Noisy(_Logits):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + torch.randn_like(logits)


class _Stepped(_Logits):
    """Masks its gradients: they are zero almost everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 50).round() / 50)


class _Searching(_Logits):
    """Takes a gradient of its own in every forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            probe = x.detach().requires_grad_()
            torch.autograd.grad(super().forward(probe).sum(), probe)
        return super().forward(x)


class _Softmax(_Logits):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class _NotANumber(_Logits):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


def _images(n: int = 60, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    """Draw images far from 0 and 1, so that only the ball bounds an attack."""
    generator = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(n, 1, 4, 4, generator=generator)
    return x, torch.randint(0, num_classes, (n,), generator=generator)


def _model(kind: type[_Logits] = _Logits, num_classes: int = 3) -> _Logits:
    torch.manual_seed(0)
    return kind(num_classes)


def _exact_robust_accuracy(model: _Logits, x: Tensor, y: Tensor, eps: float) -> float:
    """Compute a linear model's accuracy under the best attack there is.

    The logit of class k gains on that of y at most eps * |w_k - w_y|_1.
    """
    weight, logits = model.linear.weight, model(x)
    gain = (weight[None] - weight[y][:, None]).abs().sum(2) * eps
    worst = logits + gain - logits.gather(1, y[:, None])
    worst.scatter_(1, y[:, None], -torch.inf)
    return float((worst.amax(1) < 0).double().mean())


def _halving_eps(model: _Logits, x: Tensor, y: Tensor) -> float:
    """Find a radius that about half of the images survive."""
    low, high = 0.0, 0.3
    for _ in range(20):
        middle = (low + high) / 2
        robust = _exact_robust_accuracy(model, x, y, middle)
        low, high = (middle, high) if robust > 0.5 else (low, middle)
    return high


@pytest.fixture(scope="module")
def student(digits: Dataset) -> nn.Module:
    """Give a small student with some robustness, trained for two seconds."""
    torch.manual_seed(0)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    x, y = digits.train.tensors()
    optimizer = SGD(
        model.parameters(), learning_rate=0.05, momentum=0.9, weight_decay=5e-4
    )
    for epoch in range(8):
        for i in torch.split(torch.randperm(len(x)), 64):
            x_adv = pgd(
                model,
                x[i],
                y[i],
                eps=EPS * min(1, epoch / 3),
                step_size=0.02,
                steps=2,
                random_start=True,
            )
            loss = nn.functional.cross_entropy(model(x_adv), y[i])
            optimizer.step(torch.autograd.grad(loss, list(model.parameters())))
    return model


def test_clean_accuracy_is_the_fraction_of_right_answers() -> None:
    model, (x, _) = _model(), _images()
    y = model(x).argmax(1)
    y[:15] = (y[:15] + 1) % 3
    assert clean_accuracy(model, x, y, batch_size=7) == 0.75


def test_a_diverged_model_is_scored_zero_and_flagged() -> None:
    model, (x, y) = _model(_NotANumber), _images()
    assert clean_accuracy(model, x, y) == 0
    assert (predict(model, x) == -1).all()
    found = robust_accuracy_pgd(model, x, y, attack=ATTACK, eps=EPS, seed=0)
    assert found.accuracy == 0
    assert "non_finite_logits" in found.flags


def test_pgd_finds_the_exact_robust_accuracy_of_a_linear_model() -> None:
    # Of two classes: there the loss points straight at the nearest boundary.
    model, (x, _) = _model(num_classes=2), _images(200)
    y = model(x).argmax(1)
    eps = _halving_eps(model, x, y)
    exact = _exact_robust_accuracy(model, x, y, eps)
    assert 0.3 < exact < 0.7
    # 20 steps of eps / 4: enough to reach every corner of the ball
    attack = AttackConfig(steps=20, step_size=eps / 4)
    found = robust_accuracy_pgd(model, x, y, attack=attack, eps=eps, seed=0)
    assert found.accuracy == pytest.approx(exact, abs=1.5 / 200)
    assert found.flags == ()


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_autoattack_finds_the_exact_robust_accuracy_of_a_linear_model(
    num_classes: int,
) -> None:
    model, (x, _) = _model(num_classes=num_classes), _images(40)
    y = model(x).argmax(1)
    eps = _halving_eps(model, x, y)
    exact = _exact_robust_accuracy(model, x, y, eps)
    assert 0.3 < exact < 0.7
    done: list[float] = []
    found = autoattack(model, x, y, eps=eps, seed=0, progress=done.append)
    assert done == sorted(done) and done[-1] == 1
    assert found.accuracy == pytest.approx(exact, abs=0.5 / 40)
    few = num_classes < 4
    assert found.version == ("custom" if few else "standard")
    assert ("no_targeted_dlr" in found.flags) == few
    assert "fewer_target_classes" in found.flags


@pytest.mark.slow
def test_autoattack_is_no_weaker_than_pgd_on_a_student(
    student: nn.Module, digits: Dataset
) -> None:
    x, y = digits.test.tensors()
    x, y = x[:24], y[:24]
    weaker = robust_accuracy_pgd(student, x, y, attack=ATTACK, eps=EPS, seed=0)
    found = autoattack(student, x, y, eps=EPS, seed=0)
    assert 0 < found.accuracy <= weaker.accuracy <= clean_accuracy(student, x, y)
    assert found.flags == ()
    assert (found.attack, found.version, found.norm) == (
        "autoattack",
        "standard",
        "Linf",
    )
    assert (found.eps, found.num_images, found.seed) == (EPS, 24, 0)


def test_a_larger_ball_leaves_less_robust_accuracy(
    student: nn.Module, digits: Dataset
) -> None:
    x, y = digits.test.tensors()
    accuracies = [
        robust_accuracy_pgd(
            student,
            x,
            y,
            attack=AttackConfig(steps=10, step_size=eps / 4),
            eps=eps,
            seed=0,
        ).accuracy
        for eps in (0.01, 0.05, 0.15, 0.5)
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1] + 0.3


def test_the_same_seed_gives_the_same_evaluation(
    student: nn.Module, digits: Dataset
) -> None:
    x, y = digits.test.tensors()
    found = [
        robust_accuracy_pgd(student, x, y, attack=ATTACK, eps=0.1, seed=seed)
        for seed in (4, 4)
    ]
    assert found[0] == found[1]


def test_an_evaluation_leaves_model_and_random_numbers_as_they_were() -> None:
    model, (x, y) = _model(), _images(20)
    model.linear.bias.requires_grad_(False)
    model.train()
    state = torch.get_rng_state()
    robust_accuracy_pgd(model, x, y, attack=ATTACK, eps=EPS, seed=0)
    autoattack(model, x, predict(model, x), eps=ALL_FALL, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.linear.training
    assert model.linear.weight.requires_grad and not model.linear.bias.requires_grad
    assert model.linear.weight.grad is None


def test_autoattack_prints_nothing_and_leaves_logger_and_tracer_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tracer(frame: FrameType, event: str, arg: Any) -> None:
        return None

    logger, model, (x, y) = logging.getLogger("auto-attack"), _model(), _images(10)
    before = (logger.level, logger.propagate, list(logger.handlers))
    trace = sys.gettrace()
    sys.settrace(tracer)
    try:
        autoattack(model, x, y, eps=ALL_FALL, seed=0)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(trace)
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
    assert capsys.readouterr() == ("", "")


def test_zero_gradients_are_flagged_rather_than_called_robust() -> None:
    model, (x, _) = _model(_Stepped), _images(40)
    y = predict(model, x)
    found = robust_accuracy_pgd(model, x, y, attack=ATTACK, eps=EPS, seed=0)
    assert "zero_gradients" in found.flags


def test_autoattack_flags_masked_gradients() -> None:
    model, (x, _) = _model(_Stepped, 5), _images(20)
    y = predict(model, x)
    found = autoattack(model, x, y, eps=EPS, seed=0)
    assert {"zero_gradients", "square_below_gradients"} <= set(found.flags)


def test_a_randomised_model_is_flagged() -> None:
    model, (x, y) = _model(_Noisy), _images(20)
    found = robust_accuracy_pgd(model, x, y, attack=ATTACK, eps=EPS, seed=0)
    assert "randomized" in found.flags
    assert "randomized" in autoattack(model, x, y, eps=EPS, seed=0).flags


def test_probabilities_instead_of_logits_are_flagged() -> None:
    model, (x, y) = _model(_Softmax), _images(10)
    assert "probabilities" in autoattack(model, x, y, eps=ALL_FALL, seed=0).flags


def test_a_model_that_searches_in_its_forward_pass_is_flagged() -> None:
    model, (x, y) = _model(_Searching), _images(10)
    assert "dynamic" in autoattack(model, x, y, eps=ALL_FALL, seed=0).flags


def test_a_pgd_too_weak_to_beat_one_step_is_flagged() -> None:
    model, (x, _) = _model(), _images(200)
    y = model(x).argmax(1)
    attack = AttackConfig(steps=1, step_size=0.0001)
    eps = _halving_eps(model, x, y)
    found = robust_accuracy_pgd(model, x, y, attack=attack, eps=eps, seed=0)
    assert "fgsm_below_pgd" in found.flags


def test_an_evaluation_of_no_images_is_an_error() -> None:
    model, (x, y) = _model(), _images(1)
    with pytest.raises(ValueError, match="at least one image"):
        robust_accuracy_pgd(model, x[:0], y[:0], attack=ATTACK, eps=EPS, seed=0)
    with pytest.raises(ValueError, match="at least one image"):
        autoattack(model, x[:0], y[:0], eps=EPS, seed=0)


LABELS = torch.arange(100) % 10


@pytest.mark.parametrize(
    ("answers", "collapsed"),
    [
        (torch.zeros(100), True),
        (torch.where(torch.arange(100) < 92, 3, LABELS), True),  # 92 % one class
        (LABELS % 4, True),  # four classes of ten are ever answered
        (torch.full((100,), -1), True),  # diverged
        (LABELS, False),
        (LABELS % 5, False),  # weak, but it names half of the classes
        (torch.where(torch.arange(100) < 60, 3, LABELS), False),  # biased
    ],
)
def test_a_collapse_is_told_from_a_weak_model(answers: Tensor, collapsed: bool) -> None:
    assert is_collapsed(answers.long(), 10) == collapsed
    assert is_collapsed(answers.long(), 10, labels=LABELS) == collapsed


def test_a_split_of_one_class_cannot_show_a_collapse() -> None:
    one_class = torch.full((50,), 2)
    assert not is_collapsed(one_class, 10, labels=one_class)


def test_many_equal_answers_are_no_collapse_where_the_labels_say_the_same() -> None:
    labels = torch.where(torch.arange(50) < 46, 2, 1)
    assert not is_collapsed(labels, 10, labels=labels)
    assert is_collapsed(torch.full((50,), 2), 10, labels=labels)  # all the same


def test_two_classes_can_collapse_too() -> None:
    always_zero = torch.zeros(50, dtype=torch.int64)
    assert is_collapsed(always_zero, 2)
    assert is_collapsed(always_zero, 2, labels=torch.arange(50) % 2)
