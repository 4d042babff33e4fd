"""The teacher of `takt compare`: the training that ships, cut, resumed and damaged."""

from pathlib import Path

import pytest
import torch
from small_runs import tiny_run

from cloud.training.teacher import TeacherRun
from common.data.datasets import Dataset, load_dataset
from deploy.compare.teacher import train_here

CONFIG = tiny_run()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(CONFIG.dataset, seed=0)


class Cut(Exception):  # noqa: N818 - no error of ours
    """Ends a training from outside."""


def trained(dataset: Dataset, folder: Path) -> tuple[TeacherRun, list[float]]:
    """Train to the end; return the run and the shares that were reported."""
    shares: list[float] = []
    run = train_here(CONFIG, dataset, folder, lambda step, share: shares.append(share))
    return run, shares


def same_weights(one: TeacherRun, other: TeacherRun) -> bool:
    found, wanted = (r.best_model().state_dict() for r in (one, other))
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_training_that_was_cut_ends_as_a_whole_one(
    dataset: Dataset, tmp_path: Path
) -> None:
    folders = tmp_path / "whole", tmp_path / "cut"
    for folder in folders:
        folder.mkdir()
    whole, shares = trained(dataset, folders[0])
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1])

    def cut(step: str, share: float) -> None:
        if share > 0.5:
            raise Cut

    with pytest.raises(Cut):
        train_here(CONFIG, dataset, folders[1], cut)
    resumed, shares = trained(dataset, folders[1])
    assert shares == pytest.approx([2 / 3, 1])
    assert same_weights(resumed, whole)


def test_a_damaged_checkpoint_costs_time_only(dataset: Dataset, tmp_path: Path) -> None:
    whole, _ = trained(dataset, tmp_path)
    (checkpoint,) = tmp_path.iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    again, shares = trained(dataset, tmp_path)
    assert shares[0] == 0
    assert same_weights(again, whole)
