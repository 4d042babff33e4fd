"""What every training and evaluation relies on in an attack."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.zoo import build_model
from common.robustness.attacks import cross_entropy, fgsm, pgd, warm_started

EPS = 0.15


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("cnn_small", in_channels=1, image_size=8, num_classes=10)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(24, 1, 8, 8, generator=generator)
    x[:4], x[4:8] = x[:4].round(), 0.0  # many pixels at the walls
    return x, torch.randint(0, 10, (24,), generator=generator)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def attack(kind: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    if kind == "fgsm":
        return fgsm(model, x, y, eps=EPS)
    if kind == "pgd":
        return pgd(
            model,
            x,
            y,
            eps=EPS,
            step_size=0.07,
            steps=5,
            random_start=True,
            restarts=2,
            generator=seeded(),
        )
    return x + warm_started(
        model,
        x,
        torch.full_like(x, EPS),
        eps=EPS,
        step_size=0.1,
        steps=2,
        noise=1.0,
        loss=lambda logits: nn.functional.cross_entropy(logits, y, reduction="sum"),
        generator=seeded(),
    )


KINDS = pytest.mark.parametrize("kind", ["fgsm", "pgd", "warm"])


@KINDS
def test_an_attack_stays_in_the_ball_and_in_the_unit_range(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    x_adv = attack(kind, model, x, y)
    assert (x_adv - x).abs().max() <= EPS + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@KINDS
def test_an_attack_leaves_the_model_the_batch_and_their_gradients_alone(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    before = x.clone()
    model.train()
    x_adv = attack(kind, model, x, y)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training
    assert torch.equal(x, before)
    assert x.grad is None
    assert not x_adv.requires_grad


@KINDS
def test_an_attack_raises_the_loss(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    with torch.no_grad():
        clean = nn.functional.cross_entropy(model(x), y)
        attacked = nn.functional.cross_entropy(model(attack(kind, model, x, y)), y)
    assert attacked > clean


@KINDS
def test_the_same_generator_gives_the_same_attack(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    first = attack(kind, model, *batch)
    torch.manual_seed(99)  # torch's own randomness has no part in it
    assert torch.equal(first, attack(kind, model, *batch))


@pytest.mark.parametrize("steps", [1, 7])
def test_fgsm_and_pgd_agree_with_the_adversarial_robustness_toolbox(
    steps: int, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ART warns of optional parts at import
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0)
        )
        if steps == 1:
            theirs = FastGradientMethod(classifier, eps=EPS).generate(
                x.numpy(), y.numpy()
            )
            ours = fgsm(model, x, y, eps=EPS)
        else:
            theirs = ProjectedGradientDescent(
                classifier, eps=EPS, eps_step=0.04, max_iter=steps, verbose=False
            ).generate(x.numpy(), y.numpy())
            ours = pgd(
                model, x, y, eps=EPS, step_size=0.04, steps=steps, random_start=False
            )
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_more_restarts_never_help_the_model(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch

    def accuracy(restarts: int) -> float:
        x_adv = pgd(
            model,
            x,
            y,
            eps=0.05,
            step_size=0.02,
            steps=2,
            random_start=True,
            restarts=restarts,
            generator=seeded(),
        )
        with torch.no_grad():
            return float((model(x_adv).argmax(1) == y).float().mean())

    assert accuracy(4) <= accuracy(1)


def test_of_several_restarts_by_soft_labels_the_greatest_loss_is_kept(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    soft = F.one_hot(y, 10).float().mul(0.9).add(0.01)

    def losses(restarts: int, seed: int) -> Tensor:
        x_adv = pgd(
            model,
            x,
            soft,
            eps=0.05,
            step_size=0.02,
            steps=2,
            random_start=True,
            restarts=restarts,
            generator=torch.Generator().manual_seed(seed),
        )
        with torch.no_grad():
            return cross_entropy(model(x_adv), soft)

    assert (losses(4, 0) >= losses(1, 0)).all()


def test_without_noise_and_steps_a_warm_start_only_clips_its_delta(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, _ = batch
    delta = warm_started(
        model,
        x,
        torch.full_like(x, 3 * EPS),
        eps=EPS,
        step_size=EPS,
        steps=0,
        noise=0.0,
        loss=lambda logits: logits.sum(),
    )
    torch.testing.assert_close(delta, (x + EPS).clamp(max=1) - x)
