"""What a node's camera does to images: the same for every reader, and no more."""

import numpy as np
import pytest
from numpy.typing import NDArray

from common.config.own_images import CameraShift
from common.data.camera import DEGREES, LIGHTER, shifted

SHIFTS: tuple[CameraShift, ...] = ("brightness", "blur", "rotation")


def photos(num_images: int = 3, size: int = 16) -> NDArray[np.uint8]:
    shape = (num_images, 3, size, size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_no_shift_changes_nothing() -> None:
    images = photos()
    assert shifted(images, "none") is images


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_keeps_shape_and_form_and_is_the_same_each_time(
    shift: CameraShift,
) -> None:
    images = photos()
    found = shifted(images, shift)
    assert found.shape == images.shape and found.dtype == np.uint8
    assert np.array_equal(found, shifted(images, shift))
    assert not np.array_equal(found, images)


@pytest.mark.parametrize("shift", SHIFTS)
def test_an_image_is_shifted_alone_as_among_many(shift: CameraShift) -> None:
    images = photos(5000, size=8)
    assert np.array_equal(shifted(images, shift)[4500:], shifted(images[4500:], shift))


@pytest.mark.parametrize("shift", SHIFTS)
def test_no_image_stays_none(shift: CameraShift) -> None:
    assert shifted(photos(0), shift).shape == (0, 3, 16, 16)


def test_a_lighter_pixel_stops_at_white() -> None:
    images = np.array([0, 100, 204, 255], np.uint8).reshape(1, 1, 2, 2)
    assert shifted(images, "brightness").ravel().tolist() == [
        LIGHTER,
        100 + LIGHTER,
        255,
        255,
    ]


@pytest.mark.parametrize("shift", ["blur", "rotation"])
def test_an_even_image_stays_even(shift: CameraShift) -> None:
    images = np.full((1, 1, 8, 8), 77, np.uint8)
    assert (shifted(images, shift) == 77).all()


def test_a_blur_spreads_a_point_evenly() -> None:
    images = np.zeros((1, 1, 9, 9), np.uint8)
    images[0, 0, 4, 4] = 160
    found = shifted(images, "blur")[0, 0]
    assert found[4, 4] == 40 and found[3, 4] == found[4, 5] == 20
    assert found.sum() == 160


def test_a_turn_is_counterclockwise_by_its_angle() -> None:
    images = np.zeros((1, 1, 41, 41), np.uint8)
    images[0, 0, 20, 20:] = 255  # from the centre to the right
    rows, columns = np.nonzero(shifted(images, "rotation")[0, 0])
    angle = np.degrees(np.arctan2(20 - rows.mean(), columns.mean() - 20))
    assert angle == pytest.approx(DEGREES, abs=1)
