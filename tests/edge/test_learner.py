"""A student's weights in motion, where it has statistics of batches."""

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import AttackConfig, StudentConfig
from common.models.zoo import build_model
from common.tensor_file import encode_tensors
from edge.distill.fitting.learner import Learner

STATISTIC = "norm.running_mean"


@pytest.fixture
def learner() -> Learner:
    return make_learner()


def make_learner() -> Learner:
    recipe = StudentConfig(
        model="resnet8",
        attack=AttackConfig(steps=1, step_size=0.1),
        epochs=1,
        ema_decay=0.6,
    )
    torch.manual_seed(0)
    model = build_model("resnet8", in_channels=1, image_size=8, num_classes=10)
    return Learner(model, recipe)


def statistic(learner: Learner) -> Tensor:
    found: Tensor = learner.model.state_dict()[STATISTIC]
    return found.clone()


def step(learner: Learner, level: float) -> None:
    y = torch.arange(16) % 10
    loss = F.cross_entropy(learner.model(level * torch.rand(16, 1, 8, 8)), y)
    learner.step(loss, 0.1)


def test_statistics_stay_while_an_attack_is_crafted_and_move_after(
    learner: Learner,
) -> None:
    before = statistic(learner)
    learner.begin_attack()
    learner.model(torch.rand(16, 1, 8, 8))
    assert torch.equal(statistic(learner), before)
    learner.end_attack()
    learner.model(torch.rand(16, 1, 8, 8))
    assert not torch.equal(statistic(learner), before)


def test_statistics_are_averaged_as_the_weights_are(learner: Learner) -> None:
    expected = statistic(learner)
    for number in range(1, 8):
        step(learner, level=number / 8)
        decay = min(0.6, (1 + number) / (10 + number))
        expected.lerp_(statistic(learner), 1 - decay)
    assert torch.allclose(learner.weights()[STATISTIC], expected)
    assert not torch.allclose(statistic(learner), expected, rtol=1e-2)


def test_an_averaged_student_comes_back_from_its_tensors(learner: Learner) -> None:
    step(learner, level=1.0)
    saved = {name: value.clone() for name, value in learner.tensors().items()}
    weights = learner.weights()
    step(learner, level=0.2)
    learner.load(saved)
    assert all(torch.equal(learner.weights()[k], weights[k]) for k in weights)


def test_kernels_lie_channels_last_and_move_as_those_of_a_model_as_built(
    learner: Learner,
) -> None:
    plain = make_learner()
    plain.model.to(memory_format=torch.contiguous_format)
    name = "blocks.1.conv1.weight"
    kernels = [own.model.get_parameter(name) for own in (learner, plain)]
    assert [kernel.is_contiguous() for kernel in kernels] == [False, True]
    x = torch.rand(16, 1, 8, 8)
    for own in (learner, plain):
        loss = F.cross_entropy(own.model(x), torch.arange(16) % 10)
        own.step(loss, 0.1)
    start = make_learner().model.get_parameter(name)
    assert torch.allclose(kernels[0] - start, kernels[1] - start, atol=1e-6)
    assert not torch.allclose(kernels[0], start, atol=1e-3)


def test_what_is_saved_lies_as_a_model_is_built(learner: Learner) -> None:
    step(learner, level=1.0)
    for tensors in (learner.tensors(), learner.weights()):
        saved = safetensors.torch.load(encode_tensors(tensors, "note", {}))
        assert all(value.is_contiguous() for value in saved.values())
        assert all(torch.equal(saved[name], value) for name, value in tensors.items())
