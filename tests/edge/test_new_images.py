"""Images that arrive on a node are taken into its next distillation."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_folders import write_tree
from edge_site import EdgeSite, edge_site, recipe
from prepared_work import outcomes, prepare
from transfer_site import own_folder
from waiting import WAIT_S, until

from cloud.gateway.live_teacher import Batch, LiveTeacher, Shapes
from common.config import OwnImagesConfig
from common.data.folder_counts import count_folder
from common.errors import ConfigError
from common.release import Manifest
from edge.config import EdgeConfig
from edge.daemon import NodeDaemon
from edge.daemon.job_setup import make_job
from edge.daemon.new_images import NewImages
from edge.state import Current, StateDir, read_status

SEEDS = itertools.count(1000)  # a report is known by its seed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    with edge_site(tmp_path_factory.mktemp("site")) as site:
        site.publish_noise(num_samples=500)
        yield site


def add(folder: Path, *names: str) -> None:
    """Put files where images belong; no child reads them here."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")


@pytest.fixture
def node(site: EdgeSite, tmp_path: Path, request: pytest.FixtureRequest) -> EdgeConfig:
    """Join a node with two images of its own, ready for its first distillation."""
    add(tmp_path / "images", "2/a.png", "unlabelled/b.png")
    data = OwnImagesConfig(folder=tmp_path / "images", retrain_after=3)
    seed = next(SEEDS)
    node = site.join(f"node-{seed}", data=data, seed=seed, poll_s=0.05)
    prepare(site, node, robust_accuracy=0.5)
    return node


def images_of(node: EdgeConfig) -> Path:
    assert node.data is not None and node.data.folder is not None
    return node.data.folder


def with_data(node: EdgeConfig, **changes: Any) -> EdgeConfig:
    assert node.data is not None
    data = node.data.model_copy(update=changes)
    return node.model_copy(update={"data": data})


@contextmanager
def following(node: EdgeConfig) -> Iterator[None]:
    """Run a daemon that follows the channel for the body."""
    daemon = NodeDaemon(node)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(daemon.run)
        try:
            yield
        finally:
            daemon.stop()
            run.result(timeout=WAIT_S)


def num_seen(node: EdgeConfig) -> int:
    """Count the images of the last distillation."""
    return StateDir(node.state_dir).seen_images.stat().st_size // 8


def wait_for_polls(node: EdgeConfig, count: int = 3) -> None:
    """Wait until an idle daemon has looked for images so many times."""
    seen: set[float] = set()

    def has_looked() -> bool:
        status = read_status(node.state_dir)
        if status.state == "idle":
            seen.add(status.time)
        return len(seen) > count

    until("polls", has_looked)


def test_once_distils_again_where_images_were_added_and_not_otherwise(
    site: EdgeSite, node: EdgeConfig
) -> None:
    NodeDaemon(node).once()
    NodeDaemon(node).once()
    assert outcomes(site, node) == ["promoted"]
    add(images_of(node), "2/c.png")
    prepare(site, node, robust_accuracy=0.6)
    NodeDaemon(node).once()
    assert outcomes(site, node) == ["promoted", "promoted"]
    assert num_seen(node) == 3


def test_once_distils_again_where_an_image_got_its_label_or_went(
    site: EdgeSite, node: EdgeConfig
) -> None:
    NodeDaemon(node).once()
    folder = images_of(node)
    (folder / "unlabelled" / "b.png").rename(folder / "2" / "b.png")
    prepare(site, node, robust_accuracy=0.6)
    NodeDaemon(node).once()
    (folder / "2" / "b.png").unlink()
    prepare(site, node, robust_accuracy=0.7)
    NodeDaemon(node).once()
    assert len(outcomes(site, node)) == 3


def test_what_is_no_image_starts_nothing(site: EdgeSite, node: EdgeConfig) -> None:
    NodeDaemon(node).once()
    add(images_of(node), "2/notes.txt", "2/.c.png", "README.png")
    NodeDaemon(node).once()
    assert outcomes(site, node) == ["promoted"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    """A site whose release a real child can learn from."""
    with edge_site(tmp_path_factory.mktemp("digits")) as site:
        site.publish_digits(students={"tiny": recipe(epochs=4)})
        yield site


@pytest.fixture
def real(digits: EdgeSite, tmp_path: Path) -> EdgeConfig:
    """Join a node with forty digits of its own, which the real child is to read."""
    own_folder(tmp_path / "later", 50)
    arrive(tmp_path / "later", tmp_path / "images", *range(40))
    data = OwnImagesConfig(folder=tmp_path / "images", retrain_after=3)
    seed = next(SEEDS)
    return digits.join(f"node-{seed}", data=data, seed=seed, poll_s=0.05)


def test_retrain_after_new_images_the_present_release_is_distilled_again(
    digits: EdgeSite, real: EdgeConfig
) -> None:
    folder = images_of(real)
    with following(real):
        until("the first", lambda: outcomes(digits, real) == ["promoted"])
        arrive(folder.with_name("later"), folder, 40, 41)
        wait_for_polls(real)
        assert len(outcomes(digits, real)) == 1
        arrive(folder.with_name("later"), folder, 42)
        until("the second", lambda: len(outcomes(digits, real)) == 2)
        wait_for_polls(real)
    _, *again = outcomes(digits, real)
    assert len(again) == 1 and again[0] in ("promoted", "kept")  # and not over and over


def test_images_of_a_distillation_that_failed_are_trained_on_once_the_folder_is_mended(
    digits: EdgeSite, real: EdgeConfig
) -> None:
    folder, more = images_of(real), images_of(real).with_name("more")
    arrive(folder.with_name("later"), more, *range(40, 44), label="unlabelled")
    wrong = save_image(more / "unlabelled" / "wrong.png", size=10)
    with following(real):
        until("the first", lambda: outcomes(digits, real) == ["promoted"])
        (more / "unlabelled").rename(folder / "unlabelled")
        until("the failure", lambda: outcomes(digits, real)[1:] == ["failed"])
        wait_for_polls(real)
        assert len(outcomes(digits, real)) == 2  # the same folder would fail again
        (folder / "unlabelled" / wrong.name).unlink()
        until("the third", lambda: len(outcomes(digits, real)) == 3)
    assert outcomes(digits, real)[2] in ("promoted", "kept")


def test_what_failed_is_not_tried_with_each_image_more(
    site: EdgeSite, tmp_path: Path
) -> None:
    add(tmp_path / "images", "2/a.png", "2/b.png")
    data = OwnImagesConfig(folder=tmp_path / "images", retrain_after=3)
    seed = next(SEEDS)
    node = site.join(f"node-{seed}", data=data, seed=seed, student="unknown")
    with pytest.raises(ConfigError):
        NodeDaemon(node).once()
    state = StateDir(node.state_dir)
    current = state.read_current()
    assert current.outcome == "failed"
    images = NewImages(data, state)
    add(tmp_path / "images", "2/c.png", "2/d.png")
    assert not images.is_due(current, any_new=False)
    add(tmp_path / "images", "2/e.png")
    assert images.is_due(current, any_new=False)


def failed_with(folder: Path, *names: str) -> tuple[NewImages, Current]:
    """Note that a distillation failed with these images, which are put there."""
    add(folder / "images", *names)
    data = OwnImagesConfig(folder=folder / "images", retrain_after=3)
    images = NewImages(data, StateDir(folder))
    now = images.look()
    images.keep(now, has_failed=True)
    return images, Current(
        outcome="failed", data_sha256=now.table_sha256, tried_sha256=now.files_sha256
    )


def test_a_failure_is_tried_again_once_one_of_its_images_is_gone(
    tmp_path: Path,
) -> None:
    images, current = failed_with(tmp_path, "2/a.png", "2/b.png")
    (tmp_path / "images" / "2" / "b.png").unlink()
    assert images.is_due(current, any_new=False)


def arrive(source: Path, folder: Path, *numbers: int, label: str | None = None) -> None:
    """Move images from one folder of classes to another, or to one class of it."""
    for number in numbers:
        (path,) = source.glob(f"*/{number}.png")
        place = folder / (label or path.parent.name)
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)


def test_images_that_gave_no_result_are_not_tried_again_as_they_are(
    tmp_path: Path,
) -> None:
    images, current = failed_with(tmp_path, "2/a.png", "2/b.png", "2/c.png")
    assert images.num_new(images.look(), current) == 3
    assert not images.is_due(current, any_new=False)
    assert not images.is_due(current, any_new=True)


def test_a_failure_of_a_takt_that_kept_no_tried_images_counts_its_images_as_seen(
    site: EdgeSite, node: EdgeConfig
) -> None:
    NodeDaemon(node).once()
    state = StateDir(node.state_dir)
    before = state.read_current().model_copy(update={"outcome": "failed"})
    old = Current.model_validate_json(before.model_dump_json(exclude={"tried_sha256"}))
    assert not NewImages(node.data, state).is_due(old, any_new=False)


def test_images_are_counted_from_the_last_distillation_on_through_restarts(
    site: EdgeSite, node: EdgeConfig
) -> None:
    folder = images_of(node)
    for count, name in enumerate(["2/c.png", "2/d.png"], 1):
        with following(node):
            until("the first", lambda: len(outcomes(site, node)) == 1)
            add(folder, name)
            wait_for_polls(node)
        assert len(outcomes(site, node)) == 1, count
    add(folder, "2/e.png")
    prepare(site, node, robust_accuracy=0.6)
    with following(node):
        until("the second", lambda: len(outcomes(site, node)) == 2)
    assert outcomes(site, node) == ["promoted", "promoted"]


def test_new_images_count_though_as_many_old_ones_go(
    site: EdgeSite, node: EdgeConfig
) -> None:
    folder = images_of(node)
    NodeDaemon(node).once()
    (folder / "2" / "a.png").unlink()
    (folder / "unlabelled" / "b.png").unlink()
    add(folder, "2/c.png", "2/d.png", "2/e.png")
    state = StateDir(node.state_dir)
    assert NewImages(node.data, state).is_due(state.read_current(), any_new=False)


def test_links_that_lead_nowhere_or_to_themselves_hold_no_images(
    tmp_path: Path,
) -> None:
    add(tmp_path / "images", "2/a.png")
    (tmp_path / "images" / "3").symlink_to("3")
    (tmp_path / "images" / "4").symlink_to("missing")
    images = NewImages(OwnImagesConfig(folder=tmp_path / "images"), StateDir(tmp_path))
    assert len(images.look().files) == 1


def test_a_folder_that_is_away_starts_nothing_by_itself(
    site: EdgeSite, node: EdgeConfig
) -> None:
    NodeDaemon(node).once()
    images_of(node).rename(images_of(node).with_name("elsewhere"))
    state = StateDir(node.state_dir)
    assert not NewImages(node.data, state).is_due(state.read_current(), any_new=False)


def test_another_table_of_images_is_distilled_with_at_the_next_start(
    site: EdgeSite, node: EdgeConfig
) -> None:
    NodeDaemon(node).once()
    NodeDaemon(with_data(node, retrain_after=9)).once()
    assert len(outcomes(site, node)) == 1
    changed = with_data(node, share_images=True)
    prepare(site, changed, robust_accuracy=0.6)
    with following(changed):
        until("the second", lambda: len(outcomes(site, node)) == 2)


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir/a.png", "2/@eaDir/a.png", "__MACOSX/a.png", "#recycle/a.png"),
        *("lost+found/a.png", ".thumbnails/a.png", "2/._a.png", "2/sub/a.png"),
    ],
)
def test_what_no_training_reads_is_not_new(name: str, tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    images = NewImages(OwnImagesConfig(folder=tmp_path / "images"), state)
    write_tree(tmp_path / "images", {"2": 3})
    add(tmp_path / "images", name)
    assert count_folder(tmp_path / "images").total == 3
    assert len(images.look().files) == 3


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_pipe_named_as_an_image_is_not_new(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    state = StateDir(tmp_path / "state")
    images = NewImages(OwnImagesConfig(folder=tmp_path / "images"), state)
    write_tree(tmp_path / "images", {"2": 3})
    make(tmp_path / "images" / "2" / "x.png")
    assert len(images.look().files) == 3


def test_a_node_without_images_of_its_own_has_nothing_new(tmp_path: Path) -> None:
    images = NewImages(None, StateDir(tmp_path))
    assert not images.is_due(Current(), any_new=True)


@pytest.mark.parametrize("share_images", [False, True])
def test_a_child_can_reach_the_gateway_only_where_images_are_shared(
    share_images: bool, site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    manifest = site.repository.manifest("digits")
    config = with_data(node, share_images=share_images)
    job = make_job(config, manifest, folder=tmp_path, work=tmp_path)
    assert (job.live is not None) is share_images
    assert job.own == config.data
    assert job.answers == StateDir(node.state_dir).answers


def test_a_child_has_no_gateway_where_its_method_learns_from_no_answers(
    site: EdgeSite, node: EdgeConfig, tmp_path: Path
) -> None:
    manifest = site.repository.manifest("digits")
    students = {node.student: recipe(method="pgd_at")}
    manifest = manifest.model_copy(update={"students": students})
    config = with_data(node, share_images=True)
    job = make_job(config, manifest, folder=tmp_path, work=tmp_path)
    assert job.live is None


def test_without_share_images_no_query_reaches_the_gateway(tmp_path: Path) -> None:
    asked: list[int] = []

    async def shapes() -> Shapes:
        asked.append(0)
        return Shapes((1, 8, 8), 10)

    async def query(x: Batch) -> Batch:
        asked.append(len(x))
        return np.zeros((len(x), 10), np.float32)

    teacher = LiveTeacher(shapes, query, pull_back=lambda x, cotangent: query(x))
    with edge_site(tmp_path / "site", teacher) as site:
        site.publish_digits(students={"tiny": recipe()})
        save_images(tmp_path / "images", per_class=6)
        data = OwnImagesConfig(folder=tmp_path / "images")
        node = site.join("sensor", data=data)
        current = NodeDaemon(node).once()
        work = StateDir(node.state_dir).work / str(current.version)
    assert current.outcome == "promoted", current.message
    assert asked == []
    assert json.loads((work / "job.json").read_text())["live"] is None


def test_shared_images_are_asked_about_once_each_and_new_ones_alone_later(
    tmp_path: Path,
) -> None:
    asked: list[int] = []
    published: list[Manifest] = []

    async def shapes() -> Shapes:
        return Shapes((1, 8, 8), 10, published[-1].teacher.weights_sha256)

    async def query(x: Batch) -> Batch:
        asked.append(len(x))
        return np.tile(np.eye(10, dtype=np.float32)[2], (len(x), 1))

    teacher = LiveTeacher(shapes, query, pull_back=lambda x, cotangent: query(x))
    with edge_site(tmp_path / "site", teacher) as site:
        published.append(site.publish_digits(students={"tiny": recipe()}))
        save_images(tmp_path / "images", per_class=6)
        data = OwnImagesConfig(folder=tmp_path / "images", share_images=True)
        node = site.join("sensor", data=data)
        first = NodeDaemon(node).once()
        assert first.outcome == "promoted", first.message
        assert sum(asked) == 2 * (6 - 1)  # one of each class is for validation
        copy = tmp_path / "images" / "unlabelled"
        copy.mkdir()
        new = (tmp_path / "images" / "2" / "0.png").read_bytes()
        (copy / "same.png").write_bytes(new)
        NodeDaemon(node).once()
        assert sum(asked) <= 2 * (6 - 1) + 1
        assert site.gateway is not None
        rows = site.gateway.running.fleet.reports(node="sensor")
    assert len(rows) == 2
    assert rows[0].report.live_bytes > 10 * (64 + 40)
    assert rows[1].report.live_bytes < 2 * (64 + 40)


def save_images(folder: Path, *, per_class: int) -> None:
    """Save images of two classes of the digits."""
    for label in ("2", "5"):
        for index in range(per_class):
            save_image(folder / label / f"{index}.png")


def save_image(path: Path, size: int = 8) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([*str(path).encode()])
    pixels = random.integers(0, 256, (size, size), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
