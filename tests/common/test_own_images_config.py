"""The table [data]: what it may hold, and that it survives its way to a child."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from common.config import OwnImagesConfig


@pytest.mark.parametrize(
    "config",
    [
        OwnImagesConfig(folder=Path("/images"), retrain_after=3, share_images=True),
        OwnImagesConfig(images=9, classes=(1, 2), labelled=0.5, part=(1, 3)),
    ],
    ids=["folder", "drawn"],
)
def test_a_table_is_the_same_after_a_way_through_json(config: OwnImagesConfig) -> None:
    assert OwnImagesConfig.model_validate_json(config.model_dump_json()) == config


def test_keys_of_drawn_images_are_refused_with_a_folder() -> None:
    with pytest.raises(ValidationError, match="classes, labelled is for drawn images"):
        OwnImagesConfig(folder=Path("/images"), labelled=0.5, classes=(1,))
