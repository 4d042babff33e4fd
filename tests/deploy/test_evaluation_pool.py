"""Workers that evaluate models in chunks of the test images."""

from pathlib import Path

import psutil
import pytest

from common.config import DatasetConfig
from common.errors import StorageError
from common.records import Evaluation
from deploy.evaluation.pool import EvaluationPool, cut, merge_chunks


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
            pool.submit(tmp_path / "none.safetensors", 10).result(timeout=120)
        worker.kill()
        with pytest.raises(StorageError, match="cannot read model"):
            pool.submit(tmp_path / "none.safetensors", 10).result(timeout=120)
        assert not worker.is_running()
    assert set(psutil.Process().children()) <= before
