"""A trial of a GPU-sized config on CPUs: on request alone, and marked ever after."""

import json
from pathlib import Path

import pytest
from small_runs import tiny_run

from cloud.storage import StorageDir
from cloud.training.job import adapted
from cloud.training.teacher import fit_teacher
from cloud.training.teacher_card import write_teacher
from cloud.training.teacher_files import (
    as_may_be_trained,
    as_trial,
    finished_teacher,
    teacher_digest,
)
from common.data.datasets import load_dataset
from common.errors import ClusterError

CPUS = {"CPU": 2.0}
GPU_SIZED = {"use_gpu": True, "epochs": 30, "num_workers": 1}


def test_without_a_gpu_and_without_a_request_nothing_is_trained() -> None:
    with pytest.raises(ClusterError, match=r"has 0; .*teacher\.trial = true"):
        adapted(tiny_run(**GPU_SIZED), CPUS, 1)


def test_a_requested_trial_has_two_epochs_on_cpus() -> None:
    found = adapted(tiny_run(**GPU_SIZED, trial=True), CPUS, 1).teacher
    assert (found.epochs, found.use_gpu, found.trial) == (2, False, True)


def test_with_a_gpu_the_same_request_trains_the_whole_teacher() -> None:
    asked = tiny_run(**GPU_SIZED, trial=True)
    assert adapted(asked, {**CPUS, "GPU": 1.0}, 1) == tiny_run(**GPU_SIZED)


def test_a_config_for_cpus_is_never_a_trial() -> None:
    assert adapted(tiny_run(num_workers=1, trial=True), CPUS, 1) == tiny_run(
        num_workers=1
    )


def test_the_request_alone_changes_no_digest_and_no_dump() -> None:
    whole, asked = tiny_run(**GPU_SIZED), tiny_run(**GPU_SIZED, trial=True)
    assert (
        teacher_digest(whole)
        == teacher_digest(asked)
        != teacher_digest(as_trial(asked))
    )
    assert "trial" not in whole.teacher.model_dump()


def test_a_trials_card_says_so_and_is_no_whole_teachers(tmp_path: Path) -> None:
    asked = tiny_run(**GPU_SIZED, trial=True)
    trial = adapted(asked, CPUS, 1)
    dataset = load_dataset(trial.dataset, seed=trial.seed)
    card = write_teacher(trial, dataset, fit_teacher(trial, dataset), tmp_path)
    assert card.trial
    assert json.loads((tmp_path / "teacher.json").read_bytes())["trial"] is True
    storage = StorageDir(tmp_path)
    assert finished_teacher(tiny_run(**GPU_SIZED), storage) is None
    found = [finished_teacher(each, storage) for each in as_may_be_trained(asked)]
    assert found == [None, card]


def test_a_whole_teachers_card_is_what_it_was_before_there_were_trials(
    tmp_path: Path,
) -> None:
    config = tiny_run(epochs=1)
    dataset = load_dataset(config.dataset, seed=config.seed)
    card = write_teacher(config, dataset, fit_teacher(config, dataset), tmp_path)
    assert not card.trial and "trial" not in card.model_dump()
