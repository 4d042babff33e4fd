"""Students whose models are of a package: distilled, repeated, and refused without."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from distill_site import EPS, job_for, recipe, write_release
from model_packages import EXAMPLE_MODEL, installed, write_example
from release_drafts import draft
from torch import nn

from common.config import DatasetConfig
from common.data.datasets import load_dataset
from common.errors import ConfigError, Interrupted
from common.models.files import load_model
from common.release import encode_manifest
from common.robustness.evaluate import predict
from edge.distill.fitting.learner import Learner
from edge.distill.knowledge import read_manifest
from edge.distill.run import distil
from edge.distill.trial import measure
from edge.jobs.job import DistilJob, DistilResult
from edge.jobs.sizing import TrialJob
from edge.releases.sync import needed_files
from edge.state import STUDENT

PATCHES = recipe(model=EXAMPLE_MODEL, epochs=3)


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the example for this file's tests."""
    with installed(write_example(tmp_path_factory.mktemp("site"))):
        yield


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_release(tmp_path_factory.mktemp("release"))
    manifest = read_manifest(folder).model_copy(update={"students": {"own": PATCHES}})
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    return folder


@pytest.fixture(scope="module")
def whole(
    release: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DistilJob, DistilResult]:
    job = job_for(release, tmp_path_factory.mktemp("whole"), student="own")
    return job, distil(job)


def test_a_model_of_a_package_is_distilled_and_comes_back_as_it_was_measured(
    whole: tuple[DistilJob, DistilResult],
) -> None:
    job, result = whole
    student, card = load_model(job.work_dir / STUDENT)
    assert result.architecture == card.architecture == EXAMPLE_MODEL
    assert result.clean_accuracy > 0.5  # chance is 0.1
    x, y = load_dataset(DatasetConfig(), seed=0).val.tensors()
    clean = float((predict(student, x) == y).double().mean())
    assert clean == result.clean_accuracy


def test_dropout_draws_the_same_again_where_a_stopped_training_goes_on(
    release: Path, tmp_path: Path, whole: tuple[DistilJob, DistilResult]
) -> None:
    job, steps = job_for(release, tmp_path, student="own"), count()
    with pytest.raises(Interrupted):
        distil(job, should_stop=lambda: next(steps) > 15)  # in the second epoch
    torch.rand(7)  # the global generator has no influence
    assert distil(job).weights_sha256 == whole[1].weights_sha256


def test_a_trial_measures_a_packages_model(tmp_path: Path) -> None:
    job = TrialJob(
        recipe=PATCHES,
        release_dir=None,
        dataset=DatasetConfig(limit=200),
        seed=0,
        eps=EPS,
        knowledge=None,
        work_dir=tmp_path,
        threads=1,
        cpu_s=1e-6,  # a bound is enough
    )
    cost = measure(job)
    assert cost.num_parameters == 3082
    # Patches, mix and head: kernel times positions.
    assert cost.num_macs == 4 * 16 * 16 + 9 * 16 * 16 * 16 + 64 * 10


def test_a_release_whose_model_is_not_on_the_node_is_refused_before_it_is_pulled() -> (
    None
):
    manifest = draft(students={"own": recipe(model="acme-nets/wide")})
    with pytest.raises(ConfigError, match="of package 'acme-nets', which is not inst"):
        needed_files(manifest, "own")


def test_dropout_is_off_while_an_attack_is_crafted_and_on_after() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    learner, x = Learner(model, PATCHES), torch.rand(4, 1, 8, 8)
    learner.begin_attack()
    assert torch.equal(learner.forward(x), learner.forward(x))
    learner.end_attack()
    assert not torch.equal(learner.forward(x), learner.forward(x))


def test_weights_that_are_frozen_or_take_no_part_stay_and_the_others_are_trained() -> (
    None
):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    model[1].requires_grad_(False)
    model[2].register_parameter("unused", nn.Parameter(torch.ones(1)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner = Learner(model, PATCHES)
    learner.step(learner.forward(torch.rand(4, 1, 8, 8)).square().sum(), 0.1)
    after = learner.model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"2.weight", "2.bias"}
