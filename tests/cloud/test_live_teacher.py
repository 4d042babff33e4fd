"""Method adaad: a node that asks the gateway's teacher while it trains."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from chaos_proxy import ChaosProxy, Faults
from edge_site import EPS, FAST, EdgeSite, connection_of, edge_site, recipe
from small_runs import small_card
from torch import Tensor, nn
from waiting import WAIT_S

from cloud.gateway.live_teacher import (
    MAX_IMAGES,
    FileTeacher,
    LiveTeacher,
    in_threads,
    is_wanted,
)
from common.config import AttackConfig, DatasetConfig, OwnImagesConfig
from common.data.datasets import Dataset, load_dataset
from common.errors import ConfigError, Interrupted, LinkError, StorageError
from common.models.files import load_model, save_model
from common.models.zoo import build_model
from deploy.runtime.settings import load_run_config
from edge.config import EdgeConfig
from edge.daemon import NodeDaemon
from edge.distill.batch import Images
from edge.distill.fitting.fit import fit_student
from edge.distill.task import Task
from edge.distill.teacher.live_teacher import live_teacher
from edge.jobs.job import LiveLink
from edge.link.teacher_stream import ReleasedTeacher, TeacherStream
from edge.state import StateDir

ADAAD = recipe(method="adaad", attack=AttackConfig(steps=2, step_size=0.1), epochs=3)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(DatasetConfig(), seed=0)


def task_of(dataset: Dataset) -> Task:
    train, val = Images.of(dataset.train), Images.of(dataset.val)
    return Task(train=train, val=val, num_classes=10, eps=EPS)


@pytest.fixture(scope="module")
def teacher_file(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small net for a moment: something to be asked."""
    model = fit_student(recipe(method="pgd_at", epochs=12), task_of(dataset)).model
    card = small_card(fingerprint=dataset.train.fingerprint())
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(path, model, card)
    return path


@pytest.fixture(scope="module")
def site(
    teacher_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EdgeSite]:
    teacher = in_threads(FileTeacher(teacher_file))
    with edge_site(tmp_path_factory.mktemp("site"), teacher) as site:
        yield site


@pytest.fixture(scope="module")
def node(site: EdgeSite) -> EdgeConfig:
    return site.join("sensor")


def where(node: EdgeConfig, **changes: Any) -> LiveLink:
    values = {
        "gateway": node.gateway,
        "identity_dir": StateDir(node.state_dir).identity,
        "profile": FAST,
        "deadline_s": WAIT_S,
        "stall_s": 5.0,
    }
    return LiveLink(**{**values, **changes})


@contextlib.contextmanager
def asking(node: EdgeConfig, **changes: Any) -> Iterator[TeacherStream]:
    """Open a stream without torch around it."""
    connection = connection_of(node, **{"profile": None, **changes})
    stream = TeacherStream(connection)
    try:
        yield stream
    finally:
        stream.close()
        connection.close()


def images(dataset: Dataset, count: int) -> Tensor:
    return dataset.train.tensors()[0][:count]


def apart(student: nn.Module, teacher: Any, x: Tensor) -> Tensor:
    """KL(T(x) -> S(x)), which both sides depend on x for."""
    soft = F.log_softmax(teacher(x), 1)
    own = F.log_softmax(student(x), 1)
    return F.kl_div(own, soft, reduction="batchmean", log_target=True)


def test_a_large_batch_is_computed_in_slices(
    teacher_file: Path, dataset: Dataset
) -> None:
    """A network's activations take memory for each image that it is shown at once."""
    x = images(dataset, 300)
    cotangent = torch.randn(300, 10, generator=torch.Generator().manual_seed(1))
    teacher, shown = FileTeacher(teacher_file), []
    watch = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda _, arguments: shown.append(len(arguments[0]))
    )
    try:
        logits = teacher.query(x.numpy())
        gradient = teacher.pull_back(x.numpy(), cotangent.numpy())
    finally:
        watch.remove()
    assert max(shown) == MAX_IMAGES
    local, _ = load_model(teacher_file)
    leaf = x.clone().requires_grad_()
    expected = local(leaf)
    torch.testing.assert_close(torch.from_numpy(logits), expected.detach())
    torch.autograd.backward(expected, cotangent)
    torch.testing.assert_close(torch.from_numpy(gradient), leaf.grad)


@pytest.mark.parametrize("count", [1, 64, 600])  # the last: in three messages
def test_gradients_through_the_live_teacher_are_autograds(
    count: int, node: EdgeConfig, teacher_file: Path, dataset: Dataset
) -> None:
    local, _ = load_model(teacher_file)
    torch.manual_seed(1)
    student = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    found, expected = (
        images(dataset, count).clone().requires_grad_() for _ in range(2)
    )
    with live_teacher(where(node)) as teacher:
        loss = apart(student, teacher, found)
        torch.autograd.backward(loss)
    reference = apart(student, local, expected)
    torch.autograd.backward(reference)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert found.grad is not None and expected.grad is not None
    scale = float(expected.grad.abs().max())
    assert (found.grad - expected.grad).abs().max() < 1e-5 * scale


def test_images_cross_once_and_logits_cotangents_and_gradients_are_all_the_rest(
    node: EdgeConfig, dataset: Dataset
) -> None:
    x = images(dataset, 64).numpy()
    with asking(node) as stream:
        logits = stream.logits(x)
        stream.pull_back(x, np.ones_like(logits))
        moved = stream.num_bytes
    payload = 2 * x.nbytes + 2 * logits.nbytes  # x up, gradient down; K each way
    assert payload < moved < payload + 64


def test_the_bandwidth_of_the_node_holds_for_what_is_asked_and_answered(
    node: EdgeConfig, dataset: Dataset
) -> None:
    slept: list[float] = []
    profile = FAST.model_copy(update={"bandwidth_kib_s": 4, "delay_ms": 70})
    with asking(node, profile=profile, clock=lambda: 0.0, sleep=slept.append) as stream:
        stream.logits(images(dataset, 64).numpy())
        stream.logits(images(dataset, 64).numpy())
        moved = stream.num_bytes
    assert slept.count(0.07) == 2  # each question waits for the line
    # A clock that stands still: the last debt is of all bytes but the burst.
    assert max(slept) == pytest.approx(moved / 4096 - 0.05)


def test_a_cut_link_is_taken_up_with_the_question_under_way(
    node: EdgeConfig, site: EdgeSite, dataset: Dataset
) -> None:
    x = images(dataset, 64).numpy()
    with asking(node) as stream:
        expected = stream.logits(x)
        gradient = stream.pull_back(x, np.ones_like(expected))
    assert site.gateway is not None
    # The handshake is about 3 KB; each cut falls into another answer.
    script = [Faults(cut_at=n) for n in (6_000, 12_000, 24_000)]
    with ChaosProxy(site.gateway.address, script=script) as proxy:
        through = node.model_copy(update={"gateway": proxy.address})
        with asking(through) as stream:
            for _ in range(3):
                assert np.array_equal(stream.logits(x), expected)
                again = stream.pull_back(x, np.ones_like(expected))
                assert np.array_equal(again, gradient)
        assert proxy.num_connections >= 4  # a diagnosis connects as well


def test_a_silent_line_is_cut_and_replaced(
    node: EdgeConfig, site: EdgeSite, dataset: Dataset
) -> None:
    assert site.gateway is not None
    with ChaosProxy(site.gateway.address, script=[Faults(hole_at=6_000)]) as proxy:
        through = node.model_copy(update={"gateway": proxy.address})
        with asking(through, stall_s=1.0) as stream:
            logits = stream.logits(images(dataset, 64).numpy())
            assert logits.shape == (64, 10)
            stream.pull_back(images(dataset, 64).numpy(), np.ones_like(logits))
        assert proxy.num_connections >= 2


def test_a_stop_ends_the_wait_for_a_gateway_that_is_away(
    node: EdgeConfig, site: EdgeSite, dataset: Dataset
) -> None:
    assert site.gateway is not None
    asked: list[int] = []

    def after_a_while() -> bool:
        asked.append(1)
        return len(asked) > 10

    with ChaosProxy(site.gateway.address) as proxy:
        proxy.refuse = True
        line = where(node, gateway=proxy.address)
        with live_teacher(line, after_a_while) as teacher, pytest.raises(Interrupted):
            teacher(images(dataset, 4))


def test_a_gateway_without_a_teacher_is_answered_in_one_line(
    tmp_path: Path, dataset: Dataset
) -> None:
    with edge_site(tmp_path) as site:
        node = site.join("sensor")
        with asking(node) as stream, pytest.raises(ConfigError) as e:
            stream.logits(images(dataset, 4).numpy())
    assert str(e.value).startswith("method adaad needs the live teacher, which gateway")
    assert "\n" not in str(e.value)


def test_a_teacher_of_other_images_is_refused_for_good(
    node: EdgeConfig, dataset: Dataset
) -> None:
    with asking(node) as stream, pytest.raises(ConfigError, match=r"of this release"):
        stream.logits(np.zeros((2, 3, 8, 8), np.float32))


def test_an_answer_that_is_no_gradient_is_not_taken_for_one(
    tmp_path: Path, teacher_file: Path, dataset: Dataset
) -> None:
    whole = in_threads(FileTeacher(teacher_file))

    async def half(x: Any, cotangent: Any) -> Any:
        return (await whole.pull_back(x, cotangent))[: len(x) // 2]

    with edge_site(tmp_path, LiveTeacher(whole.shapes, whole.query, half)) as site:
        x = images(dataset, 4).numpy()
        with asking(site.join("sensor")) as stream, pytest.raises(LinkError) as e:
            stream.pull_back(x, np.ones((4, 10), np.float32))
    assert "of gradient of shape (2, 1, 8, 8) for images of shape (4" in str(e.value)


def test_a_gradient_that_is_not_finite_reaches_no_student(
    tmp_path: Path, teacher_file: Path, dataset: Dataset
) -> None:
    whole = in_threads(FileTeacher(teacher_file))

    async def endless(x: Any, cotangent: Any) -> Any:
        return np.full_like(x, np.inf)

    with edge_site(tmp_path, LiveTeacher(whole.shapes, whole.query, endless)) as site:
        x = images(dataset, 4).numpy()
        with asking(site.join("sensor")) as stream, pytest.raises(LinkError) as e:
            stream.pull_back(x, np.ones((4, 10), np.float32))
    assert "the teacher's gradient with values that are not finite" in str(e.value)


def test_a_node_distils_with_the_live_teacher_and_reports_what_crossed(
    site: EdgeSite, node: EdgeConfig
) -> None:
    site.publish_plain(
        num_samples=1293,
        sample_shape=(1, 8, 8),
        fingerprint=load_dataset(DatasetConfig(), seed=0).train.fingerprint(),
        students={"tiny": ADAAD},
    )
    current = NodeDaemon(node).once()
    assert current.outcome == "promoted", current.message
    assert site.gateway is not None
    (row,) = site.gateway.running.fleet.reports(node="sensor")
    assert row.report.method == "adaad"
    # 3 epochs of 20 batches; 2 steps, each with images up and gradients down; and once
    # more the images of the loss.
    num_images = 3 * 20 * 64
    pixels = num_images * 64 * 4 * (2 * 2 + 1)
    logits = num_images * 10 * 4 * (2 * 2 + 1)
    assert row.report.live_bytes == pytest.approx(pixels + logits, rel=0.02)


def test_a_node_whose_gateway_has_no_teacher_fails_in_one_line(tmp_path: Path) -> None:
    with edge_site(tmp_path) as site:
        site.publish_plain(
            num_samples=1293,
            sample_shape=(1, 8, 8),
            fingerprint=load_dataset(DatasetConfig(), seed=0).train.fingerprint(),
            students={"tiny": ADAAD},
        )
        node = site.join("sensor")
        with pytest.raises(ConfigError, match="method adaad needs the live teacher"):
            NodeDaemon(node).once()
        assert site.gateway is not None
        (row,) = site.gateway.running.fleet.reports(node="sensor")
    assert row.report.outcome == "failed"


def test_without_any_gateway_the_method_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="needs the live teacher of a gateway"):
        fit_student(ADAAD, task_of(dataset))


def test_a_teacher_that_is_trained_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    teacher = FileTeacher(path)
    with pytest.raises(StorageError, match="train the teacher first"):
        teacher.shapes()
    x = np.full((2, 1, 8, 8), 0.5, np.float32)
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=4)
        card = small_card(num_classes=4, class_names=tuple("0123"), seed=seed)
        digest = save_model(path, model, card)
        with torch.no_grad():
            expected = model.eval()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(teacher.query(x), expected, rtol=1e-5)
        assert teacher.shapes() == ((1, 8, 8), 4, digest)


def test_an_answer_of_a_teacher_that_was_replaced_is_never_taken_for_the_firsts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "teacher.safetensors"
    models = [
        build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
        for _ in range(2)
    ]
    first = save_model(path, models[0], small_card())
    pixels = np.full((3, 1, 8, 8), 51, np.uint8)
    teacher = in_threads(FileTeacher(path))
    with (
        edge_site(tmp_path / "site", teacher) as site,
        asking(site.join("sensor")) as stream,
    ):
        found = stream.logits_of_own(pixels, ReleasedTeacher(first, 10))
        second = save_model(path, models[1], small_card())
        with pytest.raises(ConfigError, match=f"is {second[:12]}, the release's"):
            stream.logits_of_own(pixels, ReleasedTeacher(first, 10))
    with torch.no_grad():
        expected = models[0].eval()(torch.full((3, 1, 8, 8), 0.2)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_gateway_serves_the_teacher_when_a_student_of_its_config_asks_it() -> None:
    config, _ = load_run_config("digits-same")
    assert not is_wanted(config)
    other, _ = load_run_config("digits-same", {"students.tiny.method": "adaad"})
    assert is_wanted(other)


def test_a_gateway_serves_the_teacher_when_told_so_or_for_a_node_that_shares() -> None:
    told, _ = load_run_config("digits-same", {"gateway.live_teacher": True})
    assert is_wanted(told)
    config, _ = load_run_config("digits-same")
    assert not is_wanted(config)
    own = OwnImagesConfig(images=10, share_images=True)
    nodes = (config.nodes[0].model_copy(update={"data": own}), *config.nodes[1:])
    assert is_wanted(config.model_copy(update={"nodes": nodes}))
