"""`takt models`, and the models of packages in a run's config before it begins."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_packages import EXAMPLE_MODEL, installed, write_example, write_package
from small_runs import TINY_ATTACK, tiny_run
from waiting import WAIT_S

from common.config import StudentConfig
from common.errors import ConfigError
from deploy.cli.main import invoke
from deploy.cloud_side import check_models
from deploy.selection.model_facts import measure_model

_SOFTMAX = """
from torch import nn
def answers(in_channels, image_size, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))
"""


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the example, and a package whose model answers probabilities."""
    folder = write_example(tmp_path_factory.mktemp("site"))
    with installed(write_package(folder, "soft-nets", _SOFTMAX, "answers")):
        yield folder


def test_the_list_has_takts_own_models_torchvisions_and_those_of_packages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(["models", "list", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found[EXAMPLE_MODEL]["package"] == "takt-example-models 1.0"
    assert {"cnn_tiny", "torchvision/mobilenet_v3_small"} < set(found)


def test_a_models_figures_are_those_of_its_layers() -> None:
    facts = measure_model(
        EXAMPLE_MODEL, in_channels=1, image_size=32, num_classes=10, batch_size=8
    )
    assert facts.num_parameters == 3082
    assert facts.num_macs == 4 * 16 * 16**2 + 9 * 16 * 16 * 16**2 + 64 * 10
    # Weights, two statistics of 16 channels each, and a counter of eight bytes.
    assert facts.file_bytes == 4 * (3082 + 32) + 8
    assert facts.shipped_bytes == 2 * (3082 + 32) + 8


def test_the_memory_of_a_training_step_is_that_of_its_feature_maps() -> None:
    # In a process of its own: here a step may find memory that other tests left.
    words = ["models", "show", "cnn_small", "--batch-size", "512", "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "deploy.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    widest_mib = 512 * 24 * 16 * 16 * 4 / 2**20  # after the first layer
    assert widest_mib < facts["step_memory_mib"] < 40 * widest_mib
    assert facts["package_memory_mib"] < widest_mib  # takt's own


def test_a_model_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["models", "show", "cnn_tiny", "--channels", "1", "--image-size", "8"]
    assert invoke(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cnn_tiny of takt, for 1x8x8 images of 10 classes"
    assert lines[1] == "parameters       970"
    assert "MiB for a batch of 64" in lines[-1] and "measured" in lines[-1]


def test_a_model_of_a_package_that_is_not_there_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="'acme-nets', which is not installed here"):
        invoke(["models", "show", "acme-nets/wide"])


def test_a_students_model_is_checked_before_the_teacher_is_trained() -> None:
    config = tiny_run()
    faulty = StudentConfig(model="soft-nets/answers", attack=TINY_ATTACK, epochs=1)
    students = {**config.students, "soft": faulty}
    check_models(config)
    with pytest.raises(ConfigError, match="soft-nets/answers' returns probabilities"):
        check_models(config.model_copy(update={"students": students}))
