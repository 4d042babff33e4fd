"""Workers that evaluate models in chunks of the test images."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from small_runs import small_card
from waiting import WAIT_S

from common.config import DatasetConfig
from common.errors import StorageError
from common.models.files import save_model
from common.models.zoo import build_model
from common.records import Evaluation
from deploy.evaluation.images import images_to_test, stratified_positions
from deploy.evaluation.pool import EvaluationPool, Measurement, cut, merge_chunks
from deploy.evaluation.worker import EvaluationJob, EvaluationReply, measure


def evaluation(accuracy: float, num_images: int, *flags: str) -> Evaluation:
    return Evaluation(
        attack="autoattack",
        version="standard",
        norm="Linf",
        eps=0.15,
        num_images=num_images,
        accuracy=accuracy,
        seed=0,
        flags=flags,
    )


def job(model: Path, *, num_images: int = 10, **part: Any) -> EvaluationJob:
    return EvaluationJob(
        model=model,
        dataset=DatasetConfig(),
        dataset_seed=0,
        num_images=num_images,
        eps=0.15,
        seed=0,
        **part,
    )


def done(reply: EvaluationReply) -> Future[EvaluationReply]:
    future: Future[EvaluationReply] = Future()
    future.set_result(reply)
    return future


def test_chunks_join_by_their_images_and_keep_every_flag() -> None:
    joined = merge_chunks(
        [evaluation(0.5, 100, "randomized"), evaluation(0.8, 50, "zero_gradients")]
    )
    assert (joined.num_images, joined.accuracy) == (150, 90 / 150)
    assert joined.flags == ("chunks_of_100", "randomized", "zero_gradients")
    assert merge_chunks([evaluation(0.5, 100)]) == evaluation(0.5, 100)


@pytest.mark.parametrize("num_images", [1, 511, 512, 513, 2000])
def test_every_image_is_in_exactly_one_chunk(num_images: int) -> None:
    covered = [
        i for first, count in cut(num_images) for i in range(first, first + count)
    ]
    assert covered == list(range(num_images))


def test_an_evaluation_worker_that_died_is_replaced_and_all_go_in_the_end(
    tmp_path: Path,
) -> None:
    before = set(psutil.Process().children())  # of other tests, of multiprocessing
    with EvaluationPool(
        dataset=DatasetConfig(),
        seed=0,
        num_test=360,
        eps=0.15,
        num_workers=1,
        log=tmp_path / "evaluation.log",
    ) as pool:
        (worker,) = set(psutil.Process().children()) - before
        with pytest.raises(StorageError, match="cannot read model"):
            pool.submit(tmp_path / "none.safetensors", 10).result(timeout=WAIT_S)
        worker.kill()
        with pytest.raises(StorageError, match="cannot read model"):
            pool.submit(tmp_path / "none.safetensors", 10).result(timeout=WAIT_S)
        assert not worker.is_running()
    assert set(psutil.Process().children()) <= before


def test_a_figure_of_some_classes_comes_from_the_attack_on_all(tmp_path: Path) -> None:
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    path = tmp_path / "student.safetensors"
    save_model(path, model, small_card())
    counted = measure(job(path, num_images=40, count=40))
    assert [each.attacked for each in counted.by_class] == [4] * 10
    assert counted.robust is not None
    held = sum(each.robust for each in counted.by_class)
    assert held == round(counted.robust.accuracy * 40)
    shown = Measurement(done(EvaluationReply(clean_accuracy=0.5)), [done(counted)])
    own = shown.result(classes=(2, 5, 8)).own_classes
    assert own is not None and own.num_images == 12
    assert own.accuracy == sum(counted.by_class[k].robust for k in (2, 5, 8)) / 12
    assert own.flags == (*counted.robust.flags, "own_classes")
    assert shown.result().own_classes is None


def test_a_shifted_cameras_accuracy_is_of_shifted_images_and_says_so(
    tmp_path: Path,
) -> None:
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    path = tmp_path / "student.safetensors"
    save_model(path, model, small_card())
    turned = measure(job(path, num_images=10, count=10, shift="rotation"))
    assert turned.robust is not None and "camera_rotation" in turned.robust.flags
    plain, x_y = job(path).dataset.model_dump_json(), {}
    for shift in ("none", "rotation"):
        x_y[shift] = images_to_test(plain, 0, shift)
    assert not torch.equal(x_y["none"][0], x_y["rotation"][0])
    assert torch.equal(x_y["none"][1], x_y["rotation"][1])


@pytest.mark.parametrize("count", [1, 9, 10, 33, 199, 200])
def test_test_images_are_exactly_as_many_and_of_each_class_its_share(
    count: int,
) -> None:
    labels = np.array([0] * 100 + [1] * 60 + [2] * 40)
    chosen = stratified_positions(labels, count)
    assert len(set(chosen.tolist())) == count
    shares = np.bincount(labels[chosen], minlength=3)
    assert (abs(shares - np.array([0.5, 0.3, 0.2]) * count) <= 1).all()
    more = stratified_positions(labels, min(count + 7, 200))
    assert set(chosen.tolist()) <= set(more.tolist())
