"""`takt fit`: the largest student within the caps, by measuring."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from waiting import WAIT_S

from common.catalog import STUDENT_ARCHITECTURES
from common.config import KnowledgeConfig, ProfileConfig, TuningConfig
from common.errors import CapError, ConfigError
from common.models.zoo import build_model, num_macs
from deploy.runtime.settings import load_run_config
from deploy.selection.student import (
    TriedStudent,
    largest_that_fits,
    students_to_try,
    subject_of_config,
    try_students,
)
from edge.jobs.sizing import Cost, Trial, try_out

CONFIG, _ = load_run_config("digits-same")


def candidate(name: str, num_parameters: int, reason: str = "") -> TriedStudent:
    cost = Cost(
        num_parameters=num_parameters,
        num_macs=1,
        cpu_s_per_epoch=1,
        cpu_s=1,
        is_bound=False,
    )
    trial = Trial(cost, 300.0, "soft", False)
    return TriedStudent(name, CONFIG.students["tiny"], trial, reason)


def takt_fit(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", "fit", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


def test_the_choice_has_the_most_parameters_of_those_that_fit() -> None:
    found = [
        candidate("big", 900, "over memory"),
        candidate("small", 100),
        candidate("middle", 500),
    ]
    chosen = largest_that_fits(found)
    assert chosen is not None and chosen.name == "middle"
    assert largest_that_fits(found[:1]) is None


def test_architectures_that_no_recipe_has_are_tried_with_the_largest_ones() -> None:
    found = students_to_try(CONFIG.students)
    assert list(found)[:3] == ["tiny", "small", "medium"]
    assert found["tiny"] == CONFIG.students["tiny"]
    wanted = CONFIG.students["medium"].model_copy(update={"model": "resnet18"})
    assert found["resnet18"] == wanted
    models = [recipe.model for recipe in found.values()]
    assert len(models) == len(set(models))


def test_a_packages_model_is_tried_last_and_lends_its_recipe_to_no_other() -> None:
    own = CONFIG.students["tiny"].model_copy(
        update={"model": "acme-nets/wide", "batch_size": 7}
    )
    found = students_to_try({"own": own, **CONFIG.students})
    assert list(found)[-1] == "own"
    assert {recipe.batch_size for recipe in found.values()} > {7}
    assert [name for name, recipe in found.items() if recipe.batch_size == 7] == ["own"]


@pytest.mark.parametrize("size", [28, 32])
def test_every_architecture_but_the_largest_teacher_is_a_candidate_by_cost(
    size: int,
) -> None:
    models = [
        build_model(name, in_channels=3, image_size=size, num_classes=10)
        for name in STUDENT_ARCHITECTURES
    ]
    costs = [num_macs(model, (3, size, size)) for model in models]
    assert costs == sorted(costs)


def tried(
    student: str,
    *,
    memory_mib: int,
    cpu_s: float,
    knowledge: KnowledgeConfig = CONFIG.knowledge,
    **changes: Any,
) -> Trial:
    recipe = CONFIG.students[student].model_copy(update=changes)
    return try_out(
        recipe,
        ProfileConfig(cpus=1.0, memory_mib=memory_mib, bandwidth_kib_s=1),
        release_dir=None,
        dataset=CONFIG.dataset,
        seed=0,
        eps=CONFIG.threat.eps,
        cpu_s=cpu_s,
        knowledge=knowledge,
    )


def test_a_trial_measures_steps_and_memory_inside_the_caps() -> None:
    trial = tried("tiny", memory_mib=500, cpu_s=1000.0)
    assert trial.cost is not None
    assert trial.cost.num_parameters == 970
    assert not trial.cost.is_bound
    epochs = CONFIG.students["tiny"].epochs
    assert trial.cost.cpu_s == pytest.approx(epochs * trial.cost.cpu_s_per_epoch)
    assert 100 < trial.peak_memory_mib < 500


def test_a_training_from_shipped_weights_is_measured_as_the_node_does_it() -> None:
    changes = {"images": "transfer", "num_images": 200, "weights": True}
    knowledge = CONFIG.knowledge.model_copy(update=changes)
    tuning = TuningConfig(epochs=3)
    trial, whole = (
        tried("tiny", memory_mib=500, cpu_s=1000.0, tuning=tuning, knowledge=each)
        for each in (knowledge, CONFIG.knowledge)
    )
    assert trial.cost is not None and whole.cost is not None
    assert trial.cost.cpu_s == pytest.approx(3 * trial.cost.cpu_s_per_epoch)
    assert trial.cost.cpu_s < whole.cost.cpu_s / 10


def test_a_student_on_views_is_tried_on_views() -> None:
    knowledge = CONFIG.knowledge.model_copy(update={"num_views": 4, "shift": 1})
    trial = tried(
        "tiny", memory_mib=500, cpu_s=1000.0, knowledge=knowledge, num_views=4
    )
    assert trial.cost is not None
    with pytest.raises(ConfigError, match="raise num_views, shift or flip"):
        tried("tiny", memory_mib=500, cpu_s=1000.0, num_views=4)


def test_a_student_that_asks_a_live_teacher_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="give that student another method"):
        tried("tiny", memory_mib=500, cpu_s=1000.0, method="adaad")


def test_what_needs_more_memory_than_the_cap_is_over_it() -> None:
    trial = tried("tiny", memory_mib=345, cpu_s=1e9, model="resnet18", batch_size=1200)
    assert trial.cost is None


def test_a_student_far_over_the_cpu_seconds_is_not_measured_to_the_end() -> None:
    trial = tried("medium", memory_mib=500, cpu_s=0.001)
    assert trial.cost is not None
    assert trial.cost.is_bound
    assert trial.cost.cpu_s > 0.001


def test_a_memory_cap_below_importing_torch_is_refused_before_any_trial() -> None:
    profile = ProfileConfig(cpus=1.0, memory_mib=100, bandwidth_kib_s=1)
    with pytest.raises(CapError, match="memory cap 100 MiB is too small"):
        try_students(subject_of_config(CONFIG), profile, 60.0, lambda name, share: None)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--memory-mib", "500", "--cpu-s", "0"], 2, "--cpu-s 0: expected a number"),
        (["--memory-mib", "100", "--cpu-s", "9"], 4, "--memory-mib 100 is too small"),
        (
            ["--memory-mib", "500", "--cpu-s", "9", "--release", "/nonexistent"],
            2,
            "no release in /nonexistent",
        ),
        (
            [
                "--memory-mib",
                "500",
                "--cpu-s",
                "9",
                "--config",
                "mnist",
                "--data-dir",
                "/nonexistent",
            ],
            3,
            "data set 'mnist' is not at",
        ),
    ],
)
def test_bad_input_gives_one_line_and_its_exit_code(
    arguments: list[str], code: int, words: str
) -> None:
    done = takt_fit(*arguments)
    assert done.returncode == code
    progress = r"\[ *[\d.]+ s\] fit: .*"
    lines = done.stderr.splitlines()
    (line,) = [each for each in lines if not re.fullmatch(progress, each)]
    assert line.startswith("takt: ") and words in line


@pytest.mark.slow
def test_the_verb_prints_every_candidate_and_its_choice_as_json() -> None:
    done = takt_fit("--memory-mib", "3000", "--cpu-s", "20", "--json")
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    by_name = {c["student"]: c for c in tree["candidates"]}
    assert by_name[tree["choice"]]["fits"]
    assert by_name["resnet18"]["reason"] == "over CPU-seconds"


def test_the_verb_loads_neither_ray_nor_torch() -> None:
    code = (
        "import sys, deploy.selection.student, deploy.cli.main\n"
        "sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=WAIT_S).returncode == 0
