"""A teacher whose model is of a package: dropout and statistics, epoch by epoch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_packages import EXAMPLE_MODEL, installed, write_example, write_package
from small_runs import tiny_run

from cloud.training.checkpoint import TrainingState
from cloud.training.teacher import TeacherRun, fit_teacher
from common.data.datasets import load_dataset


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the example for this file's tests."""
    with installed(write_example(tmp_path_factory.mktemp("site"))):
        yield


def test_a_teacher_with_dropout_resumes_to_the_very_same_weights_and_statistics() -> (
    None
):
    config = tiny_run(model=EXAMPLE_MODEL, ema_decay=0.9, awp_gamma=0.005)
    dataset = load_dataset(config.dataset, seed=0)
    states: dict[int, TrainingState] = {}

    def keep(run: TeacherRun, report: object) -> None:
        state = run.state()
        tensors = {name: value.clone() for name, value in state.tensors.items()}
        states[run.epoch] = TrainingState(
            state.epoch, state.best_epoch, state.best_score, state.cpu_s, tensors
        )

    whole = fit_teacher(config, dataset, after_epoch=keep)
    torch.rand(7)  # the global generator has no influence
    resumed = fit_teacher(config, dataset, resume_from=states[1])
    expected = whole.state().tensors
    found = resumed.state().tensors
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any("num_batches_tracked" in name for name in expected)


VIEWING = """
from torch import nn

class Viewing(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, 2, 1)
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().view(len(x), -1))

def viewing(in_channels, image_size, num_classes):
    return Viewing(in_channels, num_classes)
"""


def test_a_teacher_may_view_a_feature_map_as_its_package_wrote_it(
    tmp_path: Path,
) -> None:
    with installed(write_package(tmp_path, "viewing-models", VIEWING, "viewing")):
        config = tiny_run(model="viewing-models/viewing")
        run = fit_teacher(config, load_dataset(config.dataset, seed=0))
    assert run.epoch == config.teacher.epochs
