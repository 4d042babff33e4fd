"""What a student learns: more robust, within its budget, and never silently nothing."""

from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from distill_site import EPS, job_for, recipe, write_release

from cloud.fleet.bounds import checked_report
from common.config import DatasetConfig, StudentConfig
from common.data.datasets import load_dataset
from common.pb import takt_pb2 as pb
from common.records import to_wire
from common.release import (
    encode_manifest,
)
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile, FitState
from edge.distill.fitting.fit import Fitted, fit_student
from edge.distill.fitting.training import Training
from edge.distill.knowledge import read_knowledge, read_manifest
from edge.distill.run import distil
from edge.distill.task import Task
from edge.jobs.job import EpochPoint


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


def fitted(release: Path, given: StudentConfig) -> Fitted:
    return fit_student(given, task_of(release, given))


def task_of(release: Path, given: StudentConfig) -> Task:
    dataset = load_dataset(DatasetConfig(), seed=0)
    return Task(
        train=Images.of(dataset.train),
        val=Images.of(dataset.val),
        knowledge=read_knowledge(read_manifest(release), release, given),
        num_classes=10,
        eps=EPS,
    )


def test_takt_makes_a_student_more_robust_than_natural_training(release: Path) -> None:
    robust = fitted(release, recipe(epochs=10)).curve[-1].robust_accuracy
    natural = fitted(release, recipe(epochs=10, method="natural"))
    assert robust is not None
    assert natural.curve[-1].robust_accuracy is not None
    assert robust > natural.curve[-1].robust_accuracy + 0.2


def test_takt_begins_at_noise_where_a_release_has_no_deltas(
    release: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(release)
    labels = manifest.shards_for(frozenset(["soft_labels"]))
    (shard,) = labels
    name = Path(shard.path).name
    (tmp_path / name).write_bytes((release / name).read_bytes())
    lean = encode_manifest(manifest.model_copy(update={"shards": labels}))
    (tmp_path / "manifest.json").write_bytes(lean)
    without, given = fitted(tmp_path, recipe()), fitted(release, recipe())
    assert without.epochs == given.epochs
    weights = [next(f.model.parameters()) for f in (without, given)]
    assert not torch.equal(*weights)  # the shipped deltas did make a difference


def test_a_cpu_budget_is_used_up_and_not_exceeded_by_more_than_a_step(
    release: Path,
) -> None:
    ticks = count()

    def clock() -> float:  # a tick of 10 ms a reading
        return next(ticks) / 100

    task = replace(task_of(release, recipe()), cpu_budget_s=3.0)
    done = fit_student(recipe(), task, clock=clock)
    assert 3.0 <= done.cpu_s.distil < 3.2
    assert done.epochs == len(done.curve)
    assert done.curve[-1].epochs == done.epochs


def test_the_curve_of_ten_thousand_epochs_is_one_that_a_gateway_takes_and_is_kept(
    release: Path, tmp_path: Path
) -> None:
    given = recipe(epochs=10_000)
    curve = [
        EpochPoint(
            epoch=epoch,
            epochs=10_000,
            cpu_s=epoch / 3,
            clean_accuracy=0.5 if epoch % 625 == 0 else None,
        )
        for epoch in range(1, 10_000)
    ]
    state = FitState(epoch=9999, milestone=15, curve=curve)
    training = Training(given, task_of(release, given), state=state)
    state.step = 9999 * training.steps_per_epoch()
    newest = training.epoch(lambda: False)

    kept = state.curve
    assert (kept[0], kept[-1]) == (curve[0], newest)
    assert [p for p in kept if p.clean_accuracy == 0.5] == curve[624::625]
    epochs = [p.epoch for p in kept[:-1]]
    assert max(after - before for before, after in pairwise(epochs)) == 4
    assert {(epoch - 1) % 4 for epoch in epochs if epoch % 625} == {0}
    file = CheckpointFile(tmp_path / "checkpoint")
    file.save(training.tensors(), state)
    found = file.load()
    assert found is not None and found[1].curve == kept
    report = pb.ReportRequest()
    for point in kept:
        to_wire(point, report.curve.add())
    assert checked_report(report).curve == report.curve


def test_a_training_that_collapses_is_tried_again_once_and_says_so(
    release: Path,
) -> None:
    wild = recipe(learning_rate=1000.0, max_gradient_norm=0.0, epochs=6)
    done = fitted(release, wild)
    assert done.flags == ("retried",)
    assert len(done.curve) == done.epochs > 6


def test_a_student_that_stays_collapsed_is_flagged(
    release: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(release)
    wild = recipe(learning_rate=1000.0, max_gradient_norm=0.0)
    changed = manifest.model_copy(update={"students": {"tiny": wild}})
    folder = tmp_path / "release"
    folder.mkdir()
    for shard in release.glob("*.safetensors"):
        (folder / shard.name).write_bytes(shard.read_bytes())
    (folder / "manifest.json").write_bytes(encode_manifest(changed))
    outcome = distil(job_for(folder, tmp_path / "work"))
    assert outcome.collapsed
    assert outcome.flags == ("retried", "collapsed")
