"""Images that no node of a run can have are refused with the config, in one line."""

from typing import Any

import pytest

from common.errors import ConfigError
from deploy.runtime.settings import load_run_config

SENSOR = "nodes.sensor.data"


def refusal(data: dict[str, Any], **keys: object) -> str:
    """Read the shipped config with images for its sensor; return the refusal."""
    overrides = {"dataset.limit": 900, **{f"{SENSOR}.{k}": v for k, v in data.items()}}
    overrides |= {key.replace("__", "."): value for key, value in keys.items()}
    with pytest.raises(ConfigError) as caught:
        load_run_config(
            "digits-same", {k: v for k, v in overrides.items() if v is not None}
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cloud_that_takes_all_images_leaves_none_to_a_node() -> None:
    line = refusal({"images": 50}, dataset__limit=None)
    assert "node 'sensor'" in line and "give dataset.limit" in line


def test_a_limit_beyond_the_images_leaves_none_to_a_node() -> None:
    line = refusal({"images": 50}, dataset__limit=1437)
    assert "limit = 1437 leaves none of the 1,437 training images" in line


def test_a_teacher_that_sees_all_images_leaves_none_to_a_node() -> None:
    line = refusal({"images": 50}, teacher__all_images=True)
    assert "teacher.all_images" in line


def test_a_teacher_of_the_images_that_are_left_leaves_none_to_a_node() -> None:
    line = refusal({"images": 50}, teacher__images="others")
    assert "teacher.images = 'others'" in line


def test_a_teacher_of_other_images_than_nodes_hold_needs_a_limit() -> None:
    line = refusal({}, teacher__images="others", dataset__limit=None)
    assert "give dataset.limit" in line
    line = refusal({}, teacher__images="others", dataset__limit=1437)
    assert "leaves none of the 1,437 training images of digits" in line


def test_more_images_than_are_left_are_refused_with_both_numbers() -> None:
    assert "wants 538 images, but of these" in refusal({"images": 538})
    assert "leaves 537" in refusal({"images": 538})
    load_run_config("digits-same", {"dataset.limit": 900, f"{SENSOR}.images": 537})


def test_more_images_of_three_classes_than_are_left_are_refused() -> None:
    line = refusal({"images": 250, "classes": [2, 5, 8]})
    assert "wants 250 images of 3 classes" in line and "leaves about 161" in line


def test_a_class_that_the_data_set_lacks_is_refused_by_its_number() -> None:
    line = refusal({"images": 20, "classes": [2, 10]})
    assert "wants class 10, but digits has classes 0 to 9" in line


def test_class_shares_of_another_number_of_classes_are_refused() -> None:
    line = refusal({"images": 20, "class_shares": [0.5, 0.5]})
    assert "has 2 class_shares, expected one for each of the 10" in line


def test_a_class_skew_without_images_to_draw_is_refused() -> None:
    assert "no node has data.images" in refusal({}, class_skew=0.5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"images": -1}, "expected 0 or more"),
        ({"images": 20, "labelled": 1.5}, "expected at most 1"),
        ({"images": 20, "shift": "zoom"}, "'brightness'"),
        ({"images": 20, "folder": "x"}, "needs one of folder"),
    ],
)
def test_an_impossible_number_is_refused_by_its_key(
    data: dict[str, Any], words: str
) -> None:
    line = refusal(data)
    assert "data" in line and words in line
