"""Which images each node of a run draws: parts that do not meet, shares, classes."""

from pathlib import Path

import numpy as np
import pytest

from common.config import OwnImagesConfig, ProfileConfig
from common.errors import DataError
from deploy.runtime.settings import load_run_config
from deploy.simulation.node_images import (
    check_drawn_images,
    class_shares,
    describe_shared_parts,
    images_of_nodes,
    num_parts,
    own_classes,
)
from edge.config import EdgeConfig, load_edge_config, save_edge_config

LEFT = {"dataset.limit": 800}  # 637 of digits are left to the nodes
ALL = tuple(range(10))


def tables(**keys: object) -> dict[str, OwnImagesConfig]:
    overrides = {key.replace("__", "."): value for key, value in keys.items()}
    return images_of_nodes(load_run_config("digits-same", LEFT | overrides)[0])


def test_nodes_draw_from_parts_that_do_not_meet() -> None:
    found = tables(nodes__sensor__data__images=90, nodes__hub__data__images=200)
    assert {name: data.part for name, data in found.items()} == {
        "sensor": (0, 2),
        "hub": (1, 2),
    }


def test_a_node_without_images_takes_no_part() -> None:
    found = tables(nodes__sensor__data__images=0, nodes__hub__data__images=200)
    assert found["hub"].part == (0, 1)
    assert "camera" not in found


def test_nodes_share_a_part_where_smaller_ones_would_be_too_small() -> None:
    data = {"nodes.sensor.data": {"images": 95, "classes": [2, 5, 8]}, "num_nodes": 9}
    config, _ = load_run_config("digits-same", LEFT | data)
    parts = [each.part for each in images_of_nodes(config).values()]
    assert parts == [(0, 1)] * 3
    data["nodes.sensor.data"] = {"images": 45, "classes": [2, 5, 8]}
    config, _ = load_run_config("digits-same", LEFT | data)
    parts = [each.part for each in images_of_nodes(config).values()]
    assert parts == [(0, 3), (1, 3), (2, 3)]


def test_it_is_said_where_nodes_draw_the_same_images() -> None:
    data = {"nodes.sensor.data": {"images": 95, "classes": [2, 5, 8]}, "num_nodes": 9}
    config, _ = load_run_config("digits-same", LEFT | data)
    (line,) = describe_shared_parts(config)
    assert line.startswith("3 nodes draw from the images that the cloud leaves out, so")
    data["nodes.sensor.data"] = {"images": 45, "classes": [2, 5, 8]}
    config, _ = load_run_config("digits-same", LEFT | data)
    assert describe_shared_parts(config) == ()


def test_nodes_of_a_data_set_of_unknown_size_have_a_part_each() -> None:
    assert num_parts([OwnImagesConfig(images=50)] * 4, None) == 4


def test_a_skew_gives_each_node_shares_of_its_own() -> None:
    images = {"nodes__sensor__data__images": 50, "nodes__hub__data__images": 50}
    found = tables(class_skew=0.5, **images)
    assert found["sensor"].class_shares != found["hub"].class_shares
    assert found == tables(class_skew=0.5, **images)
    assert found != tables(class_skew=0.5, seed=1, **images)


def test_shares_add_up_and_only_a_nodes_classes_have_some() -> None:
    shares = class_shares(0.5, seed=3, classes=(2, 5, 8), num_classes=10)
    assert sum(shares) == pytest.approx(1)
    assert {k for k, share in enumerate(shares) if share} == {2, 5, 8}


@pytest.mark.parametrize(("skew", "low", "high"), [(0.05, 0.7, 1), (1000, 0.1, 0.13)])
def test_a_small_skew_gives_few_classes_most_images(
    skew: float, low: float, high: float
) -> None:
    most = [
        max(class_shares(skew, seed=seed, classes=ALL, num_classes=10))
        for seed in range(20)
    ]
    assert low <= np.mean(most) <= high


def test_the_smallest_skew_leaves_one_class() -> None:
    shares = class_shares(1e-300, seed=0, classes=ALL, num_classes=10)
    assert sorted(shares) == [0] * 9 + [1]


def test_a_nodes_own_classes_are_those_it_draws() -> None:
    images = OwnImagesConfig(images=90, classes=(8, 2, 5))
    assert own_classes(images, 10) == (2, 5, 8)


def test_of_uneven_shares_the_larger_ones_are_a_nodes_own() -> None:
    shares = (0.4, 0.3, 0.1, 0.1, 0.05, 0.05, 0.0, 0.0, 0.0, 0.0)
    images = OwnImagesConfig(images=90, class_shares=shares)
    assert own_classes(images, 10) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    "data", [None, OwnImagesConfig(images=0), OwnImagesConfig(images=90)]
)
def test_a_node_with_no_image_or_all_classes_has_no_own_ones(
    data: OwnImagesConfig | None,
) -> None:
    assert own_classes(data, 10) == ()


def test_images_that_a_part_lacks_are_refused_before_anything_is_started() -> None:
    data = {"images": 195, "classes": [2, 5, 8]}  # about 191 are left
    config, _ = load_run_config("digits-same", LEFT | {"nodes.sensor.data": data})
    with pytest.raises(DataError, match=r"^node 'sensor': 195 own images are wanted"):
        check_drawn_images(config)


def test_every_node_of_the_default_run_finds_its_images() -> None:
    for num_nodes in (3, 6):
        check_drawn_images(load_run_config("digits", {"num_nodes": num_nodes})[0])


def test_a_node_is_told_of_its_images_in_its_own_file(tmp_path: Path) -> None:
    (data,) = tables(
        nodes__sensor__data={"images": 90, "classes": [2, 5, 8], "labelled": 0.5}
    ).values()
    config = EdgeConfig(
        node="sensor",
        student="tiny",
        gateway="localhost:1",
        profile=ProfileConfig(cpus=1, memory_mib=500, bandwidth_kib_s=100),
        data=data,
    )
    save_edge_config(config, tmp_path / "edge.toml")
    assert load_edge_config(tmp_path / "edge.toml").data == data
