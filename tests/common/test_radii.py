"""Robust accuracy at several radii: what the curve of a report is made of."""

import pytest
import torch
from torch import Tensor, nn

from common.config import AttackConfig
from common.models.zoo import build_model
from common.robustness.evaluate import clean_accuracy, robust_accuracy_pgd
from common.robustness.radii import accuracy_at_radii, pgd_20


class Threshold(nn.Module):
    """Tells dark images from light ones: an attack of eps shifts their mean by eps."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.flatten(1).mean(1) - 0.5
        return torch.stack([-brightness, brightness], 1) * 50


class OddOneOut(nn.Module):
    """Has no gradient to follow, and answers by the last digits of a random start."""

    def forward(self, x: Tensor) -> Tensor:
        odd = (x.flatten(1).sum(1) * 1e4).floor() % 2
        return torch.stack([1 - odd, odd], 1) + 0 * x.flatten(1).sum(1, keepdim=True)


class Flattened(Threshold):
    """Reshapes by its batch, as many models do, which no batch of none bears."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(x.size(0), -1, 1, 1))


def flat(*brightness: float) -> Tensor:
    return torch.tensor(brightness)[:, None, None, None].expand(-1, 1, 4, 4).clone()


def test_a_curve_says_at_which_eps_each_image_gives_way() -> None:
    x, y = flat(0.55, 0.65, 0.85, 0.4), torch.tensor([1, 1, 1, 1])  # the last is wrong
    found = accuracy_at_radii(Threshold(), x, y, radii=[0, 0.1, 0.2, 0.4], seed=0)
    assert [each.accuracy for each in found] == [0.75, 0.5, 0.25, 0.0]
    assert [each.eps for each in found] == [0, 0.1, 0.2, 0.4]


def test_a_curve_begins_at_the_clean_accuracy_and_names_its_attack() -> None:
    torch.manual_seed(0)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    x, y = torch.rand(40, 1, 8, 8), torch.randint(0, 10, (40,))
    zero, some = accuracy_at_radii(model, x, y, radii=[0.0, 0.1], seed=0)
    assert zero.accuracy == clean_accuracy(model, x, y)
    assert (some.attack, some.norm, some.num_images) == ("pgd", "Linf", 40)
    assert some.version == "20 x eps/8, random start, 1 restart"


def test_an_image_that_a_smaller_eps_broke_stays_broken() -> None:
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = OddOneOut()
    y = model(x).argmax(1)
    found = accuracy_at_radii(model, x, y, radii=[0, 0.1, 0.2, 0.3, 0.4], seed=0)
    accuracies = [each.accuracy for each in found]
    # Each attack alone would leave half of the images.
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] < 0.15
    assert all("nested" in each.flags for each in found)


def test_twenty_steps_stay_in_the_ball_and_reach_its_surface() -> None:
    x, y = flat(0.9, 0.02), torch.tensor([1, 0])
    generator = torch.Generator().manual_seed(0)
    x_adv = pgd_20(Threshold(), x, y, eps=0.3, generator=generator)
    assert torch.allclose(x_adv, flat(0.6, 0.32))


@pytest.mark.parametrize("radii", [[0.2, 0.1]])
def test_radii_that_do_not_ascend_are_refused(radii: list[float]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        accuracy_at_radii(
            Threshold(), flat(0.1), torch.tensor([0]), radii=radii, seed=0
        )


@pytest.mark.parametrize(
    ("radii", "accuracies"), [([0, 0.1], [1.0, 0.5]), ([0.3, 0.4], [0.0, 0.0])]
)
def test_no_model_is_shown_a_batch_of_no_images(
    radii: list[float], accuracies: list[float]
) -> None:
    x, y = flat(0.55, 0.3), torch.tensor([1, 0])
    found = accuracy_at_radii(Flattened(), x, y, radii=radii, seed=0)
    assert [each.accuracy for each in found] == accuracies


def test_pgd_of_a_model_that_is_always_wrong_attacks_nothing() -> None:
    attack = AttackConfig(steps=2, step_size=0.02)
    x, y = flat(0.55, 0.3), torch.tensor([0, 1])
    found = robust_accuracy_pgd(Flattened(), x, y, attack=attack, eps=0.1, seed=0)
    assert found.accuracy == 0.0
