"""The attacked images that are kept of a student: which, how, and with what answers."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from deploy.evaluation.samples import (
    AttackedImages,
    as_png,
    sample_positions,
    take_samples,
)

EPS = 0.2


class Threshold(nn.Module):
    """Tells dark images (class 0) from light ones (1)."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.flatten(1).mean(1) - 0.5
        return torch.stack([-brightness, brightness], 1) * 10


def pixels(png: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def attacked(x: Sequence[float], x_adv: Sequence[float]) -> AttackedImages:
    tensors = [
        torch.tensor(v)[:, None, None, None].expand(-1, 1, 8, 8) for v in (x, x_adv)
    ]
    y = torch.ones(len(x), dtype=torch.int64)
    return AttackedImages(np.arange(len(x)) + 7, tensors[0], y, tensors[1])


def test_the_first_image_of_each_class_is_shown_whatever_came_of_it() -> None:
    positions = np.array([3, 5, 8, 9, 12])
    labels = np.array([2, 0, 2, 1, 0])
    assert sample_positions(positions, labels).tolist() == [5, 9, 3]


def test_of_many_classes_ten_are_shown_from_the_first_to_the_last() -> None:
    labels = np.arange(100)
    shown = sample_positions(labels * 2, labels)
    assert len(shown) == 10 and shown[0] == 0 and shown[-1] == 198


def test_what_autoattack_broke_is_shown_as_it_broke_it() -> None:
    (sample,), x_adv = take_samples(
        Threshold(), attacked([0.6], [0.45]), eps=EPS, seed=0
    )
    assert (sample.attack, sample.position) == ("autoattack", 7)
    assert (sample.clean.label, sample.attacked.label) == (1, 0)
    assert torch.allclose(x_adv, torch.tensor(0.45))
    assert set(pixels(sample.x_adv).flat) == {115}


def test_what_withstood_is_shown_under_the_strongest_attempt_of_pgd() -> None:
    (sample,), x_adv = take_samples(
        Threshold(), attacked([0.9], [0.9]), eps=EPS, seed=0
    )
    assert sample.attack == "pgd"
    assert (sample.clean.label, sample.attacked.label) == (1, 1)
    assert torch.allclose(x_adv, torch.tensor(0.7))
    assert sample.attacked.confidence < sample.clean.confidence


def test_what_was_wrong_before_is_shown_without_an_attack() -> None:
    (sample,), x_adv = take_samples(
        Threshold(), attacked([0.3], [0.3]), eps=EPS, seed=0
    )
    assert sample.attack == "none" and sample.clean == sample.attacked
    assert torch.allclose(x_adv, torch.tensor(0.3))


@pytest.mark.parametrize(
    ("change", "grey"), [(0.0, 128), (EPS, 255), (-EPS, 0), (EPS / 2, 191)]
)
def test_the_difference_is_magnified_until_eps_is_black_or_white(
    change: float, grey: int
) -> None:
    (sample,), _ = take_samples(
        Threshold(), attacked([0.3], [0.3 + change]), eps=EPS, seed=0
    )
    assert set(pixels(sample.delta).flat) == {grey}


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((1, 8, 8), (8, 8)),
        ((3, 32, 32), (32, 32, 3)),
        ((1, 64, 64), (64, 64)),
        ((3, 130, 130), (44, 44, 3)),
    ],
)
def test_of_a_large_image_every_nth_pixel_is_shown(
    shape: tuple[int, ...], shown: tuple[int, ...]
) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = pixels(as_png(image))
    assert found.shape == shown
    every = -(-shape[1] // 64)
    row = (image[0, 0, ::every] * 255).round().byte().numpy()
    assert (found.reshape(*shown[:2], -1)[0, :, 0] == row).all()
