"""Workers that evaluate models in chunks of the test images."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
import torch
from small_runs import small_card
from waiting import WAIT_S, until

from common.config import DatasetConfig
from common.errors import Interrupted, StorageError
from common.models.files import save_model
from common.models.zoo import build_model
from common.records import Evaluation
from deploy.evaluation.images import images_to_test, stratified_positions
from deploy.evaluation.measurement import Measurement, merge_chunks
from deploy.evaluation.pool import EvaluationPool, cut
from deploy.evaluation.same_model import digest_of_function
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


def student_file(folder: Path) -> Path:
    path = folder / "student.safetensors"
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    save_model(path, model, small_card())
    return path


def one_worker(log: Path) -> EvaluationPool:
    return EvaluationPool(
        dataset=DatasetConfig(), seed=0, num_test=360, eps=0.15, num_workers=1, log=log
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
    with one_worker(tmp_path / "evaluation.log") as pool:
        (worker,) = set(psutil.Process().children()) - before
        with pytest.raises(StorageError, match="cannot read model"):
            pool.submit(tmp_path / "none.safetensors", 10).result(timeout=WAIT_S)
        worker.kill()
        with pytest.raises(StorageError, match="cannot read model"):
            pool.submit(tmp_path / "none.safetensors", 10).result(timeout=WAIT_S)
        assert not worker.is_running()
    assert set(psutil.Process().children()) <= before


def test_a_figure_of_some_classes_comes_from_the_attack_on_all(tmp_path: Path) -> None:
    path = student_file(tmp_path)
    counted = measure(job(path, num_images=40, count=40))
    assert [each.images for each in counted.by_class] == [4] * 10
    assert counted.robust is not None
    held = sum(each.right for each in counted.by_class)
    assert held == round(counted.robust.accuracy * 40)
    shown = Measurement(done(EvaluationReply(clean_accuracy=0.5)), [done(counted)])
    own = shown.result(classes=(2, 5, 8)).own_classes
    assert own is not None and own.num_images == 12
    assert own.accuracy == sum(counted.by_class[k].right for k in (2, 5, 8)) / 12
    assert own.flags == (*counted.robust.flags, "own_classes")
    assert shown.result().own_classes is None


def test_a_shifted_cameras_accuracy_is_of_shifted_images_and_says_so(
    tmp_path: Path,
) -> None:
    path = student_file(tmp_path)
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


@pytest.fixture(scope="module")
def detailed(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    """Measure all that is kept of a small student, in two chunks."""
    torch.manual_seed(0)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    path = tmp_path_factory.mktemp("model") / "student.safetensors"
    save_model(path, model, small_card())
    chunks = [
        done(measure(job(path, num_images=30, first=first, count=15, sampled=True)))
        for first in (0, 15)
    ]
    clean, radii = (
        done(measure(job(path, num_images=30, part=part)))
        for part in ("clean", "radii")
    )
    return Measurement(clean, chunks, radii)


def test_classes_add_up_to_the_accuracies_that_they_are_of(
    detailed: Measurement,
) -> None:
    found, accuracies = detailed.details(), detailed.result()
    assert found is not None and [each.name for each in found.classes] == list(
        "0123456789"
    )
    right = sum(each.right for each in found.classes)
    assert right / 360 == pytest.approx(accuracies.clean_accuracy)
    assert sum(each.attacked for each in found.classes) == 30
    assert sum(each.robust for each in found.classes) / 30 == pytest.approx(
        accuracies.robust.accuracy
    )


def test_each_attacked_image_withstood_or_is_a_mistake(detailed: Measurement) -> None:
    found = detailed.details()
    assert found is not None
    for label, each in enumerate(found.classes):
        mistaken = sum(m.count for m in found.mistakes if m.label == label)
        assert each.robust + mistaken == each.attacked
    counts = [each.count for each in found.mistakes]
    assert counts == sorted(counts, reverse=True)


def test_a_sample_of_each_class_comes_from_whichever_chunk_has_it(
    detailed: Measurement,
) -> None:
    found = detailed.details()
    assert found is not None
    assert [each.label for each in found.samples] == list(range(10))


def test_a_curve_reaches_from_no_attack_to_twice_eps(detailed: Measurement) -> None:
    found = detailed.details()
    assert found is not None
    assert [each.eps for each in found.radii] == pytest.approx(
        [0.15 * k / 4 for k in range(9)]
    )


def test_what_the_page_does_not_draw_is_not_measured(detailed: Measurement) -> None:
    plain = Measurement(detailed.clean, detailed.chunks)
    assert plain.details() is None


def test_a_model_is_asked_about_the_pixels_that_another_was_attacked_with(
    detailed: Measurement, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = student_file(tmp_path)
    samples = detailed.samples()
    pixels = tuple(each.pixels for each in samples)
    answers = measure(job(path, part="answers", pixels=pixels)).answers
    # The same model says the same, but for the rounding to 8 bits.
    for answer, each in zip(answers, samples, strict=True):
        assert answer.confidence == pytest.approx(
            each.sample.attacked.confidence, abs=0.02
        )


def test_a_measurement_of_a_pool_that_was_closed_early_is_never_done(
    detailed: Measurement,
) -> None:
    waiting: Future[EvaluationReply] = Future()
    assert waiting.cancel()
    ended: Future[EvaluationReply] = Future()
    ended.set_exception(Interrupted("the pool's worker was ended"))
    assert detailed.done() and detailed.has_details()
    for part in (waiting, ended):
        chunked = Measurement(detailed.clean, [*detailed.chunks, part], detailed.radii)
        assert not chunked.done() and not chunked.has_details()
        unswept = Measurement(detailed.clean, detailed.chunks, part)
        assert unswept.done() and not unswept.has_details()


def test_one_function_in_two_files_is_measured_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("cnn_tiny", in_channels=1, image_size=8, num_classes=10)
    card, other = small_card(), small_card().model_copy(update={"version": 7})
    save_model(tmp_path / "shipped.safetensors", model.half(), card)
    save_model(tmp_path / "node.safetensors", model.float(), other)
    with one_worker(tmp_path / "evaluation.log") as pool:
        shipped = pool.submit(tmp_path / "shipped.safetensors", 2, detailed=True)
        assert pool.submit(tmp_path / "node.safetensors", 2) is shipped
        shifted = pool.submit(tmp_path / "node.safetensors", 2, shift="blur")
        assert shifted is not shipped
        assert pool.submit(tmp_path / "node.safetensors", 3) is not shipped


def test_what_the_page_draws_is_measured_of_a_model_that_was_measured_without(
    tmp_path: Path,
) -> None:
    path = student_file(tmp_path)
    with one_worker(tmp_path / "evaluation.log") as pool:
        plain = pool.submit(path, 2)
        detailed = pool.submit(path, 2, detailed=True)
    assert not plain.detailed and detailed.detailed


def test_another_weight_or_architecture_is_another_function(tmp_path: Path) -> None:
    def digest_of(name: str, seed: int) -> str | None:
        torch.manual_seed(seed)
        model = build_model(name, in_channels=1, image_size=8, num_classes=10)
        card = small_card().model_copy(update={"architecture": name})
        save_model(tmp_path / "model.safetensors", model, card)
        return digest_of_function(tmp_path / "model.safetensors")

    digests = [digest_of("cnn_tiny", 0), digest_of("cnn_tiny", 1)]
    digests.append(digest_of("cnn_small", 0))
    assert None not in digests and len(set(digests)) == 3
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    assert digest_of_function(tmp_path / "model.safetensors") is None


def test_a_pool_that_ends_while_a_worker_measures_leaves_no_result(
    tmp_path: Path,
) -> None:
    path = student_file(tmp_path)
    before = set(psutil.Process().children())
    with one_worker(tmp_path / "evaluation.log") as pool:
        (worker,) = set(psutil.Process().children()) - before
        plain = pool.submit(path, 30)
        accuracy = plain.result().robust.accuracy
        worker.suspend()  # so that it cannot have measured when it is ended
        cut_short = pool.submit(path, 30, detailed=True).clean
        until("it is under way", cut_short.running)
    measurement = Measurement(plain.clean, plain.chunks, cut_short)
    assert measurement.done() and measurement.result().robust.accuracy == accuracy
    assert not measurement.has_details()


def test_a_pool_whose_worker_could_not_be_replaced_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(psutil.Process().children())
    with one_worker(tmp_path / "evaluation.log") as pool:
        (worker,) = set(psutil.Process().children()) - before
        monkeypatch.setattr("deploy.runtime.worker_pool.start_worker", no_process)
        worker.kill()
        lost = pool.submit(tmp_path / "none.safetensors", 10)
        with pytest.raises(BlockingIOError):
            lost.clean.result(timeout=WAIT_S)
    assert not lost.chunks[0].running()


def no_process(module: str, log: Path) -> NoReturn:
    """Be a machine that has no process left."""
    raise BlockingIOError(11, "Resource temporarily unavailable")
