"""The guard against catastrophic overfitting: when it acts, and that it is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.config import AttackConfig, DatasetConfig, StudentConfig
from common.data.datasets import load_dataset
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile, FitState
from edge.distill.fitting.fit import Fitted, fit_student
from edge.distill.fitting.training import Training
from edge.distill.task import Task

FGSM = AttackConfig(steps=1, step_size=0.25, random_start=False)


def recipe(**changes: Any) -> StudentConfig:
    values: dict[str, Any] = {
        "model": "cnn_small",
        "method": "pgd_at",
        "attack": FGSM,
        "epochs": 15,
        "batch_size": 128,
        "learning_rate": 0.4,
        "eps_warmup_epochs": 3,
    }
    return StudentConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    dataset = load_dataset(DatasetConfig(), seed=0)
    return Images.of(dataset.train), Images.of(dataset.val)


def enlarged(images: Images) -> Images:
    """Magnify three times: it takes many pixels to overfit to one step."""
    x = interpolate(images.x.float(), scale_factor=3, mode="bilinear")
    return Images(x.round().byte(), images.y)


def fgsm_trained(digits: tuple[Images, Images], *, guarded: bool) -> Fitted:
    train, val = (enlarged(part) for part in digits)
    task = Task(
        train=train, val=val, num_classes=10, eps=0.25, guard_overfitting=guarded
    )
    return fit_student(recipe(), task)


def test_a_student_overfitted_to_its_one_step_attack_recovers_with_more_steps(
    digits: tuple[Images, Images],
) -> None:
    caught = fgsm_trained(digits, guarded=False)
    saved = fgsm_trained(digits, guarded=True)
    assert caught.flags == ()
    assert saved.flags == ("more_steps",)
    before, after = caught.curve[-1].robust_accuracy, saved.curve[-1].robust_accuracy
    assert before is not None and after is not None
    assert before < 0.1
    assert after > before + 0.15


def test_the_shipped_attack_does_not_overfit(
    digits: tuple[Images, Images],
) -> None:
    shipped = load_run_config("digits-same")[0].students["small"]
    given = shipped.model_copy(update={"method": "warm_at", "epochs": 16})
    train, val = digits
    done = fit_student(given, Task(train=train, val=val, num_classes=10, eps=0.15))
    assert done.flags == ()


def trained_a_little(
    digits: tuple[Images, Images], given: StudentConfig, state: FitState
) -> dict[str, Tensor]:
    train, val = digits
    task = Task(train=train, val=val, num_classes=10, eps=0.25)
    training = Training(given, task, state=state)
    for start in range(0, 256, 64):
        training.step(torch.arange(start, start + 64))
    return training.learner.weights()


def test_a_resumed_training_goes_on_with_the_steps_that_it_had_doubled(
    digits: tuple[Images, Images], tmp_path: Path
) -> None:
    file = CheckpointFile(tmp_path / "checkpoint", "job")
    file.save({}, FitState(doublings=2))
    found = file.load()
    assert found is not None
    resumed = trained_a_little(digits, recipe(), found[1])
    slow = AttackConfig(steps=4, step_size=0.0625, random_start=False)
    expected = trained_a_little(digits, recipe(attack=slow), FitState())
    once = trained_a_little(digits, recipe(), FitState())
    assert all(torch.equal(resumed[k], expected[k]) for k in expected)
    assert not all(torch.equal(resumed[k], once[k]) for k in once)
