"""Images drawn for a node: others than the cloud's, and than another node's."""

from typing import Any

import numpy as np
import pytest

from common.config import DatasetConfig, OwnImagesConfig
from common.data.camera import shifted
from common.data.datasets import load_dataset
from common.data.drawn_images import (
    DrawnImages,
    describe_short,
    divided,
    draw_own_images,
)
from common.data.own_images import OwnImages
from common.errors import DataError

CLOUD = DatasetConfig(name="digits", limit=400)


def drawn(**how: Any) -> DrawnImages:
    config = OwnImagesConfig(**{"images": 200, **how})
    return draw_own_images(config, CLOUD, cloud_seed=3, num_classes=10)


def all_labels(own: OwnImages) -> list[int]:
    return [int(y) for part in (own.train, own.val) for y in part.labels]


def pictures(own: OwnImages) -> set[bytes]:
    return {image.tobytes() for part in (own.train, own.val) for image in part.images}


def test_they_are_none_of_the_clouds() -> None:
    cloud = load_dataset(CLOUD, seed=3)
    known = {
        image.tobytes()
        for part in (cloud.train, cloud.val, cloud.test)
        for image in part.images
    }
    own = drawn()
    assert len(all_labels(own)) == len(pictures(own)) == 200
    assert not pictures(own) & known


def test_nodes_of_different_parts_share_none_whatever_their_classes() -> None:
    first = drawn(images=150, part=(0, 3))
    second = drawn(images=60, part=(1, 3), classes=(2, 5, 8))
    assert not pictures(first) & pictures(second)


def test_a_node_draws_the_same_ones_again() -> None:
    assert drawn().train.fingerprint() == drawn().train.fingerprint()
    assert drawn().val.fingerprint() == drawn().val.fingerprint()


def test_they_are_of_the_wanted_classes_evenly() -> None:
    labels = all_labels(drawn(classes=(2, 5, 8), images=90))
    assert np.bincount(labels, minlength=9)[[2, 5, 8]].min() >= 28
    assert set(labels) == {2, 5, 8}


def test_class_shares_say_how_many_of_each() -> None:
    shares = (0.0, 3.0, 1.0, *([0.0] * 7))
    labels = all_labels(drawn(class_shares=shares, images=80))
    assert np.bincount(labels).tolist() == [0, 60, 20]


def test_a_node_is_told_of_which_class_it_has_less_than_it_wants() -> None:
    shares = (0.0, 3.0, 1.0, *([0.0] * 7))
    own = drawn(class_shares=shares, images=150, labelled=0.5)
    assert own.num_wanted[:4] == (0, 113, 37, 0)  # 150 times 3/4 and 1/4
    there = own.num_drawn[1]
    assert own.num_drawn[:4] == (0, there, 150 - there, 0) and there > 80
    assert own.notes[0] == (
        "class_shares: too few are left, others stand in: "
        f"{there} of class 1 instead of 113"
    )


def test_nothing_is_said_where_each_class_has_as_many_as_are_wanted() -> None:
    own = drawn(class_shares=(0.0, 3.0, 1.0, *([0.0] * 7)), images=80)
    assert own.num_drawn == own.num_wanted
    assert own.notes == ()


def test_a_line_names_three_classes_of_which_most_is_lacking() -> None:
    assert describe_short([9, 9, 9, 9, 9], [9, 3, 1, 2, 8]) == (
        "1 of class 2 instead of 9, 2 of class 3 instead of 9, 3 of class 1 instead of "
        "9, fewer of 1 class more"
    )


def test_what_a_class_lacks_the_others_give() -> None:
    take = divided(100, np.array([0.9, 0.1, 0.0]), np.array([20, 50, 60]))
    assert take.tolist() == [20, 50, 30]
    assert divided(10, np.array([1.0, 1.0, 1.0]), np.array([9, 9, 9])).sum() == 10


@pytest.mark.parametrize(("labelled", "known"), [(1.0, 200), (0.5, 100), (0.0, 0)])
def test_the_labels_of_some_are_not_known_and_known_ones_measure(
    labelled: float, known: int
) -> None:
    own = drawn(labelled=labelled)
    assert own.num_labelled + len(own.val) == known
    assert len(own.train) + len(own.val) == 200
    assert len(own.val) <= known / 5
    assert (own.val.labels >= 0).all()


def test_a_camera_changes_each_of_them() -> None:
    plain, turned = drawn(), drawn(shift="rotation")
    assert (turned.val.images == shifted(plain.val.images, "rotation")).all()
    assert (turned.train.images == shifted(plain.train.images, "rotation")).all()
    assert (turned.train.labels == plain.train.labels).all()


def test_more_than_the_cloud_leaves_out_are_refused_with_the_figures() -> None:
    with pytest.raises(DataError, match=r"600 own images .* part 1 of 2 has 5\d\d of"):
        drawn(images=600, part=(0, 2))


def test_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match=r"class 12 is wanted .* expected 0 to 9"):
        drawn(classes=(12,))
