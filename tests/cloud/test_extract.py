"""What is extracted from a teacher, and that nodes will read the same from it."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import EPS, small_run
from torch import Tensor, nn

from cloud.extraction.block import extract_block
from cloud.extraction.boundary import boundary_points
from cloud.extraction.job import shard_ranges
from cloud.extraction.worker import BLOCK_SAMPLES, Extractor
from cloud.training.teacher import fit_teacher
from common.catalog import Content
from common.config import AttackConfig, KnowledgeConfig
from common.data.datasets import Dataset, load_dataset
from common.errors import DataError
from common.models.card import ModelCard
from common.models.files import save_model
from common.release import (
    MAX_SHARD_BYTES,
    Arrays,
    dequantize_rows,
    samples_per_shard,
    shard_layout,
    unpack_signs,
)

Knowledge = dict[Content, Arrays]
Floats = NDArray[np.float32]
ATTACK = AttackConfig(steps=4, step_size=0.06)
CONFIG = small_run(
    ATTACK,
    model="cnn_small",
    epochs=10,
    batch_size=32,
    beta=3.0,
    knowledge={"contents": get_args(Content), "boundary_steps": 30},
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(CONFIG.dataset, seed=0)


@pytest.fixture(scope="module")
def teacher(dataset: Dataset) -> nn.Module:
    return fit_teacher(CONFIG, dataset).best_model()


@pytest.fixture(scope="module")
def data(dataset: Dataset) -> tuple[Tensor, Tensor]:
    return dataset.train.tensors()


@pytest.fixture(scope="module")
def knowledge(teacher: nn.Module, data: tuple[Tensor, Tensor]) -> Knowledge:
    x, y = data
    return extract_block(teacher, x, y, config=CONFIG.knowledge, eps=EPS, seed=5)


def logits_at(teacher: nn.Module, x: Tensor) -> Floats:
    with torch.no_grad():
        logits: Tensor = teacher(x)
    return logits.numpy()


def decoded(arrays: Arrays, name: str) -> Floats:
    return dequantize_rows(arrays[name], arrays[f"{name}_scale"])


def half_a_step(arrays: Arrays, name: str) -> Floats:
    scale: Floats = arrays[f"{name}_scale"].astype(np.float32)
    return 0.501 * scale[:, None]


def test_a_block_has_the_layout_that_shards_declare(
    knowledge: Knowledge, dataset: Dataset
) -> None:
    for content in CONFIG.knowledge.contents:
        layout = shard_layout(content, len(dataset.train), dataset.sample_shape, 10)
        found = {n: (a.dtype, a.shape) for n, a in knowledge[content].items()}
        assert found == layout


def test_soft_labels_are_the_teachers_logits_within_quantisation(
    knowledge: Knowledge, teacher: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    arrays = knowledge["soft_labels"]
    error = np.abs(decoded(arrays, "logits") - logits_at(teacher, data[0]))
    assert (error <= half_a_step(arrays, "logits") + 1e-5).all()


def test_shipped_deltas_fool_the_teacher_as_a_node_decodes_them(
    knowledge: Knowledge, teacher: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    x, y = data
    packed = knowledge["deltas"]["delta_signs"]
    signs = torch.from_numpy(unpack_signs(packed, (1, 8, 8)))
    exact = logits_at(teacher, (x + EPS * signs).clamp(0, 1))
    clean = (logits_at(teacher, x).argmax(1) == y.numpy()).mean()
    assert (exact.argmax(1) == y.numpy()).mean() < clean - 0.1


def test_a_white_pixel_is_never_pushed_down_for_want_of_room(
    dataset: Dataset,
) -> None:
    class Brighter(nn.Module):
        """Loses class 0 as the image gets brighter."""

        def forward(self, x: Tensor) -> Tensor:
            light = x.flatten(1).sum(1)
            return torch.stack([-light, light], 1)

    x, y = torch.ones(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    knowledge = KnowledgeConfig(contents=("deltas",), attack=ATTACK)
    block = extract_block(Brighter(), x, y, config=knowledge, eps=EPS, seed=0)
    signs = unpack_signs(block["deltas"]["delta_signs"], (1, 8, 8))
    assert (signs == 1).all()


def test_most_boundary_points_change_the_teachers_answer_and_are_near_the_boundary(
    knowledge: Knowledge, teacher: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    arrays, (x, _) = knowledge["boundary_points"], data
    delta = torch.from_numpy(decoded(arrays, "boundary_delta"))
    exact = logits_at(teacher, (x + delta).clamp(0, 1))
    error = np.abs(decoded(arrays, "boundary_logits") - exact)
    assert (error <= half_a_step(arrays, "boundary_logits") + 1e-5).all()
    base = logits_at(teacher, x).argmax(1)
    crossed = exact.argmax(1) != base
    assert crossed.mean() > 0.6
    top = np.sort(exact, axis=1)
    clean = np.sort(logits_at(teacher, x), axis=1)
    assert (top[:, -1] - top[:, -2]).mean() < 0.3 * (clean[:, -1] - clean[:, -2]).mean()


def test_a_boundary_search_stops_where_the_class_has_changed(
    teacher: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    x = data[0]

    def search(steps: int) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        found, target = boundary_points(
            teacher, x, steps=steps, step_size=0.3, generator=generator
        )
        assert (target.numpy() != logits_at(teacher, x).argmax(1)).all()
        return found

    short, long = search(8), search(16)
    base = logits_at(teacher, x).argmax(1)
    stopped = logits_at(teacher, short).argmax(1) != base
    assert 0 < stopped.sum() < len(stopped)
    moved = (short - long).flatten(1).abs().amax(1) > 0
    assert not moved[stopped].any()
    assert moved[~stopped].any()


def test_the_same_seed_extracts_the_same_and_another_does_not(
    knowledge: Knowledge, teacher: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    x, y = data
    again = extract_block(teacher, x, y, config=CONFIG.knowledge, eps=EPS, seed=5)
    for content, arrays in knowledge.items():
        for name, values in arrays.items():
            assert np.array_equal(values, again[content][name])
    other = extract_block(teacher, x, y, config=CONFIG.knowledge, eps=EPS, seed=6)
    name = "boundary_delta"
    assert not np.array_equal(
        knowledge["boundary_points"][name], other["boundary_points"][name]
    )


@pytest.mark.parametrize("num_samples", [10, 256, 1293, 54_000])
@pytest.mark.parametrize("sample_shape", [(1, 8, 8), (1, 28, 28), (3, 224, 224)])
def test_ranges_cover_every_sample_once_and_each_fits_a_shard(
    num_samples: int, sample_shape: tuple[int, int, int]
) -> None:
    contents = CONFIG.knowledge.contents
    ranges = shard_ranges(num_samples, contents, sample_shape, 10, parts=2)
    covered = [i for r in ranges for i in r]
    assert covered == list(range(num_samples))
    fits = samples_per_shard("boundary_points", sample_shape, 10)
    assert max(len(r) for r in ranges) <= fits
    if fits >= BLOCK_SAMPLES:
        assert all(r.start % BLOCK_SAMPLES == 0 for r in ranges)


def test_of_no_content_there_is_nothing_to_cut_for() -> None:
    ranges = shard_ranges(1000, (), (1, 8, 8), 10, parts=2)
    assert [i for r in ranges for i in r] == list(range(1000))


def saved(
    teacher: nn.Module, dataset: Dataset, storage: Path, fingerprint: str
) -> None:
    card = ModelCard(
        architecture="cnn_small",
        in_channels=1,
        image_size=8,
        num_classes=10,
        class_names=dataset.class_names,
        dataset="digits",
        fingerprint=fingerprint,
        eps=EPS,
        seed=0,
        val_fraction=0.1,
    )
    (storage / "knowledge").mkdir()
    save_model(storage / "teacher.safetensors", teacher, card)


def test_how_the_samples_are_cut_does_not_change_what_is_extracted(
    teacher: nn.Module, dataset: Dataset, tmp_path: Path
) -> None:
    saved(teacher, dataset, tmp_path, dataset.train.fingerprint())
    extractor = Extractor(CONFIG.model_dump_json(), str(tmp_path))
    extractor.extract(0, len(dataset.train))
    from safetensors.numpy import load_file

    whole = load_file(tmp_path / "knowledge" / "deltas-0.safetensors")
    extractor.extract(BLOCK_SAMPLES, len(dataset.train))
    part = load_file(tmp_path / "knowledge" / f"deltas-{BLOCK_SAMPLES}.safetensors")
    for name, values in part.items():
        assert np.array_equal(values, whole[name][BLOCK_SAMPLES:])


def test_shards_are_described_as_they_lie_on_disk(
    teacher: nn.Module, dataset: Dataset, tmp_path: Path
) -> None:
    import hashlib

    saved(teacher, dataset, tmp_path, dataset.train.fingerprint())
    extractor = Extractor(CONFIG.model_dump_json(), str(tmp_path))
    for info in extractor.extract(0, 100):
        data = (tmp_path / "knowledge" / info["path"]).read_bytes()
        assert len(data) == info["num_bytes"] <= MAX_SHARD_BYTES
        assert hashlib.sha256(data).hexdigest() == info["sha256"]
        assert (info["first"], info["num_samples"]) == (0, 100)


def test_a_teacher_of_another_split_is_refused(
    teacher: nn.Module, dataset: Dataset, tmp_path: Path
) -> None:
    saved(teacher, dataset, tmp_path, "0" * 64)
    with pytest.raises(DataError, match="trained on split 000000000000"):
        Extractor(CONFIG.model_dump_json(), str(tmp_path)).extract(0, 100)
