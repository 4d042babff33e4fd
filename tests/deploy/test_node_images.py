"""Which images each node of a run draws: parts that do not meet, shares, classes."""

import re
import socket
from pathlib import Path

import numpy as np
import pytest

from common.config import OwnImagesConfig, ProfileConfig, RunConfig
from common.errors import AddressError, DataError
from deploy.report.result import read_result
from deploy.runtime.settings import load_run_config
from deploy.simulation.node_images import (
    Drawn,
    check_drawn_images,
    class_shares,
    describe_shared_parts,
    describe_short_classes,
    images_of_nodes,
    num_parts,
    own_classes,
)
from deploy.simulation.simulate import run_simulation
from edge.config import EdgeConfig, load_edge_config, save_edge_config

LEFT = {"dataset.limit": 800}  # 637 of digits are left to the nodes
ALL = tuple(range(10))


def tables(**keys: object) -> dict[str, OwnImagesConfig]:
    overrides = {key.replace("__", "."): value for key, value in keys.items()}
    return images_of_nodes(load_run_config("digits-same", LEFT | overrides)[0])


def skewed(skew: float, images: int, **keys: object) -> RunConfig:
    """Give the config of three nodes that draw so many images each, unevenly."""
    nodes = ("sensor", "camera", "hub")
    overrides: dict[str, object] = {f"nodes.{n}.data.images": images for n in nodes}
    overrides |= {key.replace("__", "."): value for key, value in keys.items()}
    config, _ = load_run_config("digits-same", LEFT | overrides | {"class_skew": skew})
    return config


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


def test_nodes_share_a_part_where_smaller_ones_have_too_few_of_one_class() -> None:
    config = skewed(0.1, images=60)  # of one class a node wants 57; 63 are left
    assert {each.part for each in images_of_nodes(config).values()} == {(0, 1)}
    drawn = check_drawn_images(config)
    assert max(drawn["hub"].wanted) == 57
    assert all(each.drawn == each.wanted for each in drawn.values())
    (line,) = describe_shared_parts(config)
    assert line.endswith("dataset.limit, or raise class_skew")


def test_nodes_keep_parts_of_their_own_where_their_shares_allow_it() -> None:
    config = skewed(100, images=150)
    tables = images_of_nodes(config)
    assert [each.part for each in tables.values()] == [(0, 3), (1, 3), (2, 3)]
    assert all(
        each.drawn == each.wanted for each in check_drawn_images(config).values()
    )


def test_it_is_said_with_both_figures_where_a_class_has_too_few_images() -> None:
    config = skewed(0.1, images=200)
    drawn = check_drawn_images(config)
    assert {name: sum(each.drawn) for name, each in drawn.items()} == {
        name: 200 for name in drawn
    }
    (line,) = describe_short_classes(config, drawn)
    wanted, found = drawn["sensor"].wanted[4], drawn["sensor"].drawn[4]
    assert wanted > 150 and 55 < found < 75
    assert line.startswith("class_skew: 2 of 3 nodes cannot have as many images of")
    assert f"sensor has {found} of class 4 instead of {wanted}; hub has" in line
    assert describe_short_classes(skewed(100, images=150), {}) == ()


def test_of_many_nodes_with_too_few_images_three_are_named() -> None:
    config = skewed(0.01, images=200, num_nodes=9)
    (line,) = describe_short_classes(config, check_drawn_images(config))
    assert line.count(" has ") == 3
    assert re.search(r"; \d nodes more; lower data\.images", line)


def test_a_run_says_at_its_start_that_a_class_has_too_few_images(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # which ends the run at once
        config = skewed(0.1, images=200, gateway__port=taken.getsockname()[1])
        with pytest.raises(AddressError, match="in use"):
            run_simulation(config, "", runs_dir=tmp_path, compare=False)
    (record,) = tmp_path.glob("*/result.json")
    result = read_result(record)
    assert result.dataset is not None and result.dataset.notes is not None
    assert result.dataset.notes[-1].startswith("class_skew: 2 of 3 nodes cannot have")
    assert [node.data and node.data.classes for node in result.nodes] == [
        own_classes(data, 10, check_drawn_images(config)[name])
        for name, data in images_of_nodes(config).items()
    ]


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
    drawn = Drawn(wanted=(), drawn=(0, 0, 31, 0, 0, 30, 0, 0, 29, 0))
    assert own_classes(images, 10, drawn) == (2, 5, 8)


def test_of_uneven_shares_the_classes_of_most_images_are_a_nodes_own() -> None:
    shares = (0.4, 0.3, 0.1, 0.1, 0.05, 0.05, 0.0, 0.0, 0.0, 0.0)
    images = OwnImagesConfig(images=90, class_shares=shares)
    wanted = (36, 27, 9, 9, 5, 4, 0, 0, 0, 0)
    assert own_classes(images, 10, Drawn(wanted, wanted)) == (0, 1, 2, 3)
    there = (8, 27, 9, 9, 9, 9, 9, 10, 0, 0)  # of class 0 no more are left
    assert own_classes(images, 10, Drawn(wanted, there)) == (1, 2, 3, 4, 5, 6, 7)
    assert own_classes(images, 10, None) == ()


@pytest.mark.parametrize(
    "data", [None, OwnImagesConfig(images=0), OwnImagesConfig(images=90)]
)
def test_a_node_with_no_image_or_all_classes_has_no_own_ones(
    data: OwnImagesConfig | None,
) -> None:
    assert own_classes(data, 10, None) == ()


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
