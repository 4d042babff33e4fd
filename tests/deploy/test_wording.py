"""What a run says about its parts while it goes on."""

from pathlib import Path

import pytest

from deploy.report.wording import describe_evaluation, describe_progress, human_bytes
from deploy.runtime.settings import load_run_config
from deploy.simulation.live_view import take_snapshot
from deploy.simulation.phases import Phases
from deploy.simulation.run_folder import create_run
from deploy.simulation.run_state import RunState

CONFIG, TEXT = load_run_config("digits", {"teacher.epochs": 18})


def test_progress_names_the_attack_with_its_norm_eps_and_number_of_images() -> None:
    epoch = {
        "epoch": 3,
        "epochs": 18,
        "clean_accuracy": 0.5,
        "robust_accuracy": 0.25,
        "num_val": 40,
    }
    assert describe_progress(epoch, CONFIG) == (
        "epoch 3/18, clean 50.0 %, PGD 25.0 % (Linf, eps 0.15, 40 validation images)"
    )


def test_progress_of_a_trial_says_so_and_what_is_missing_is_left_out() -> None:
    teacher = CONFIG.teacher.model_copy(update={"trial": True})
    config = CONFIG.model_copy(update={"teacher": teacher})
    trial = describe_progress({"epoch": 1, "epochs": 2}, config)
    assert trial == "epoch 1/2 (a trial on CPUs; a GPU would train 18)"
    assert describe_progress({}, config) == ""


def test_fewer_epochs_of_a_candidate_are_not_called_a_trial() -> None:
    assert describe_progress({"epoch": 1, "epochs": 2}, CONFIG) == "epoch 1/2"


def test_nothing_measured_is_no_models() -> None:
    assert describe_evaluation([]) == "0 models, 0 attacked images in all"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (12, "12 B"), (2048, "2.0 KiB"), (1 << 21, "2.0 MiB")],
)
def test_bytes_have_a_binary_unit(count: float | None, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("written", "detail"),
    [
        ("", ""),
        ('{"epoch": 1}\n{"epoch": 2, "epo', ""),
        ('{"epoch": 2}\n', "epoch 2/?"),
    ],
)
def test_the_view_shows_the_last_whole_line_of_the_teachers_progress(
    written: str, detail: str, tmp_path: Path
) -> None:
    class Silent:
        def phase_started(self, name: str, purpose: str) -> None: ...

        def phase_ended(
            self, name: str, seconds: float, summary: str, ok: bool
        ) -> None: ...

    state = RunState(CONFIG, create_run(tmp_path, "digits", TEXT))
    state.phases = Phases(Silent(), lambda: 0.0)
    (state.run.cloud.progress).write_text(written)
    with state.phases.phase("teacher", ""):
        assert take_snapshot(state).phase.detail == detail
    with state.phases.phase("nodes", ""):
        assert take_snapshot(state).phase.detail == ""
