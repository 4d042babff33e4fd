"""Which models a config may name: refused when it is read, and nothing imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from model_packages import EXAMPLE_MODEL, write_example, write_package
from waiting import WAIT_S

from common.errors import ConfigError
from common.model_names import (
    TORCHVISION_MODELS,
    check_model,
    check_student_model,
    known_models,
)
from deploy.runtime.settings import load_run_config

_BREAKS = "raise RuntimeError('imported')\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of installed packages: one with two models, which cannot start."""
    write_package(tmp_path, "acme-nets", _BREAKS, "wide", "narrow")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_config_that_names_a_packages_model_imports_neither_it_nor_torch(
    tmp_path: Path,
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(write_example(tmp_path))!r})\n"
        "from deploy.runtime.settings import load_run_config\n"
        f"names = {{'teacher.model': 'torchvision/resnet18',\n"
        f"         'students.tiny.model': '{EXAMPLE_MODEL}'}}\n"
        "config, _ = load_run_config('digits', names)\n"
        f"assert config.students['tiny'].model == '{EXAMPLE_MODEL}'\n"
        "sys.exit(str({'torch', 'torchvision', 'takt_example_models'}\n"
        "             & set(sys.modules)).replace('set()', '') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", ["students.tiny.model", "teacher.model"])
def test_a_package_that_is_not_installed_is_refused_by_name_when_the_config_is_read(
    key: str,
) -> None:
    with pytest.raises(ConfigError) as error:
        load_run_config("digits", {key: "acme-nets/wide"})
    message = str(error.value)
    assert message.startswith(f"--set {key}=acme-nets/wide: ")
    assert "of package 'acme-nets', which is not installed here; install it" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acme-nets/wyde", "is called 'wyde'; did you mean 'acme-nets/wide'?"),
        ("torchvision/mobilenet_v3_smal", "'torchvision/mobilenet_v3_small'?"),
        ("mobilenet_v3_small", "did you mean 'torchvision/mobilenet_v3_small'?"),
        ("wide", "did you mean 'acme-nets/wide'?"),
        ("numpy/wide", "has no entry point in the group 'takt.models'"),
        ("acme nets/wide", "is no name of a model; expected PACKAGE/NAME"),
        ("acme-nets/" + "w" * 60, "of at most 64"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_name_that_is_none_is_refused_with_the_near_match(
    name: str, words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_model(name)
    assert words in str(error.value)


@pytest.mark.usefixtures("installed")
def test_a_package_may_be_written_as_indexes_compare_names() -> None:
    assert check_model("Acme_Nets/narrow") == "Acme_Nets/narrow"


@pytest.mark.usefixtures("installed")
def test_the_models_of_installed_packages_are_listed_with_their_version() -> None:
    found = {each.name: each for each in known_models()}
    assert found["acme-nets/wide"].package == "acme-nets 1.0"
    assert found["cnn_tiny"].package == "takt"
    assert not found["wrn_28_10"].is_student


def test_a_teacher_only_is_refused_as_a_student() -> None:
    check_model("wrn_28_10")
    check_student_model("cnn_tiny")
    with pytest.raises(ConfigError, match="'wrn_28_10' is a teacher only; expected"):
        check_student_model("wrn_28_10")


def test_the_names_of_torchvision_are_those_of_its_registry() -> None:
    from torchvision import models

    assert sorted(TORCHVISION_MODELS) == models.list_models(module=models)
