"""The catalogue: a misspelt name is refused when the config is read."""

import json
import re

import pytest

from common.catalog import ARCHITECTURES, METHODS, OPTIONAL, check_name, contents_for
from common.config import StudentConfig
from common.errors import ConfigError
from common.models.zoo import BUILT, build_model
from deploy.runtime.settings import load_run_config
from edge.distill.methods import losses

CHOICE = {"student": "tiny", "candidates": {"a": {"epochs": 1}, "b": {"epochs": 2}}}


@pytest.mark.parametrize(
    "key", ["students.tiny.model", "teacher.model", "choice.candidates.b.model"]
)
def test_a_misspelt_model_is_refused_with_the_near_match_and_the_known_names(
    key: str,
) -> None:
    overrides = {"choice": CHOICE} if key.startswith("choice") else {}
    with pytest.raises(ConfigError) as error:
        load_run_config("digits", {**overrides, key: "cnn_tinny"})
    message = str(error.value)
    assert "\n" not in message
    assert f"--set {key}=cnn_tinny" in message.partition(": ")[0]
    assert "'cnn_tinny'" in message and "did you mean 'cnn_tiny'?" in message
    assert all(name in message for name in ARCHITECTURES)


def test_a_misspelt_method_is_refused_with_the_near_match_and_the_known_names() -> None:
    with pytest.raises(ConfigError) as error:
        load_run_config("digits", {"students.tiny.method": "rsald"})
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("--set students.tiny.method=rsald: ")
    assert "'rsald'" in message and "did you mean 'rslad'?" in message
    assert all(name in message for name in METHODS)


def test_a_misspelt_word_of_a_fixed_list_is_refused_with_the_near_match() -> None:
    wanted = re.escape("--set teacher.objective=trade: expected one of 'pgd_at', ")
    with pytest.raises(ConfigError, match=f"{wanted}.*did you mean 'trades'"):
        load_run_config("digits", {"teacher.objective": "trade"})


def test_a_name_without_a_near_match_is_refused_with_the_known_names_alone() -> None:
    with pytest.raises(ConfigError, match=r"'x'; expected one of one, two$"):
        check_name("number", "x", ["one", "two"])


def test_the_builders_of_models_are_the_architectures_of_the_catalogue() -> None:
    assert set(BUILT) == set(ARCHITECTURES)


def test_the_losses_are_the_methods_of_the_catalogue() -> None:
    assert set(losses.METHODS) == set(METHODS)


def test_a_method_that_reads_nothing_optional_needs_all_that_it_reads() -> None:
    readers = [name for name in METHODS if contents_for(name, 0.0) & OPTIONAL]
    assert readers == ["label_smoothing", "class_means", "takt"]


def test_a_release_may_hold_a_student_of_a_later_architecture() -> None:
    config, _ = load_run_config("digits")
    tree = config.students["tiny"].model_dump(mode="json") | {"model": "cnn_of_2040"}
    recipe = StudentConfig.model_validate_json(json.dumps(tree))
    assert recipe.model == "cnn_of_2040"
    with pytest.raises(ConfigError, match="'cnn_of_2040'; expected one of"):
        build_model(recipe.model, in_channels=1, image_size=8, num_classes=10)
