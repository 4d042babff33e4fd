"""The penalty on a student's slope: its value at known points, its cost, its effect."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import AttackConfig, DatasetConfig, StudentConfig
from common.data.datasets import load_dataset
from common.errors import Interrupted
from edge.distill.batch import Batch, Images, Setting
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.fit import fit_student
from edge.distill.methods.jacobian import jacobian_penalty
from edge.distill.task import Task

EPS = 0.1


def recipe(**changes: Any) -> StudentConfig:
    values: dict[str, Any] = {
        "model": "cnn_tiny",
        "method": "warm_at",
        "epochs": 6,
        "attack": AttackConfig(steps=1, step_size=0.1),
        "learning_rate": 0.4,
    }
    return StudentConfig(**{**values, **changes})


def setting(seed: int = 0) -> Setting:
    return Setting(
        recipe=recipe(),
        eps=EPS,
        steps=1,
        step_size=EPS,
        progress=0.0,
        temperature=2.0,
        generator=torch.Generator().manual_seed(seed),
    )


def penalty(model: Any, x: Tensor, seed: int = 0) -> Tensor:
    batch = Batch(x=x, y=torch.zeros(len(x), dtype=torch.int64))
    return jacobian_penalty(model, batch, setting(seed))


@pytest.fixture(scope="module")
def task() -> Task:
    dataset = load_dataset(DatasetConfig(), seed=0)
    train, val = Images.of(dataset.train), Images.of(dataset.val)
    return Task(train=train, val=val, num_classes=10, eps=0.15)


def test_a_student_of_the_same_logits_everywhere_pays_nothing() -> None:
    def constant(x: Tensor) -> Tensor:
        return torch.tensor([3.0, 0.0, -1.0]).expand(len(x), 3)

    assert float(penalty(constant, torch.rand(6, 1, 4, 4))) == pytest.approx(
        0, abs=1e-6
    )


def test_the_penalty_of_a_linear_student_is_that_of_its_slope_along_the_signs() -> None:
    weights = torch.tensor([[5.0], [-1.0], [0.0]])

    def linear(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights.T

    # Of one pixel: either sign, so the logits differ by +-2 eps times the weights.
    x = torch.full((2, 1, 1, 1), 0.5)
    uniform = torch.full((3,), 1 / 3)
    wanted = [
        F.kl_div(
            F.log_softmax(2 * EPS * sign * weights[:, 0], 0), uniform, reduction="sum"
        )
        for sign in (1, -1)
    ]
    found = [float(penalty(linear, x, seed)) for seed in range(20)]
    for value in wanted:
        assert any(abs(other - float(value)) < 1e-6 for other in found)
    assert all(min(abs(other - float(v)) for v in wanted) < 1e-6 for other in found)


def test_the_student_is_asked_about_as_many_images_as_a_batch_has() -> None:
    asked: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        asked.append(x)
        return x.flatten(1)

    penalty(model, torch.rand(6, 1, 2, 2))
    (x,) = asked
    assert len(x) == 6
    assert float(x.min()) >= 0 and float(x.max()) <= 1


def test_a_batch_of_one_image_has_a_penalty() -> None:
    assert torch.isfinite(penalty(lambda x: x.flatten(1), torch.rand(1, 1, 2, 2)))


@pytest.mark.parametrize("method", ["warm_at", "natural"])
def test_a_student_that_pays_for_its_slope_is_flatter(method: str, task: Task) -> None:
    def slope(weight: float) -> float:
        given = recipe(method=method, jacobian_weight=weight)
        student = fit_student(given, task).model
        x, _ = task.val.batch(torch.arange(64))
        with torch.no_grad():
            return float(penalty(student, x))

    assert slope(4.0) < 0.7 * slope(0.0)


def test_a_resumed_training_ends_with_the_very_same_weights(
    task: Task, tmp_path: Path
) -> None:
    given = recipe(jacobian_weight=1.0, epochs=20)
    whole = fit_student(given, task).model.state_dict()
    file, steps = CheckpointFile(tmp_path / "checkpoint"), count()
    with pytest.raises(Interrupted):
        fit_student(given, task, checkpoint=file, should_stop=lambda: next(steps) > 200)
    assert file.load() is not None
    resumed = fit_student(given, task, checkpoint=file).model.state_dict()
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def test_a_recipe_without_the_penalty_is_written_as_before() -> None:
    assert "jacobian_weight" not in recipe().model_dump()
    assert recipe(jacobian_weight=1.0).model_dump()["jacobian_weight"] == 1.0
