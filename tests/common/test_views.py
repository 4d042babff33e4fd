"""Views: the same pixels in cloud and node, and the teacher's answers for them."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import small_run
from torch import Tensor, nn

from common.config import AttackConfig, RunConfig, StudentConfig
from common.data.datasets import Dataset, load_dataset
from common.data.views import Views, canvas_index, show
from common.errors import ConfigError, Interrupted, TrustError
from common.models.files import load_model
from common.release import (
    Manifest,
    ShardInfo,
    decode_manifest,
    decode_shard,
    dequantize_rows,
    encode_manifest,
    pack_signs,
)
from deploy.compare.teacher import prepare_stage
from deploy.runtime.settings import load_run_config
from edge.distill.batch import Images
from edge.distill.fitting.checkpoint import CheckpointFile
from edge.distill.fitting.delta_memory import DeltaMemory
from edge.distill.fitting.fit import fit_student
from edge.distill.fitting.training import Training
from edge.distill.knowledge import read_knowledge, read_manifest
from edge.distill.task import Task
from edge.releases.sync import needed_files

ATTACK = AttackConfig(steps=1, step_size=0.15)
NUM_VIEWS, SHIFT = 4, 1


def student(**changes: Any) -> StudentConfig:
    values: dict[str, Any] = {
        "model": "cnn_tiny",
        "attack": ATTACK,
        "epochs": 3,
        "num_views": NUM_VIEWS,
        "learning_rate": 0.3,
    }
    return StudentConfig(**{**values, **changes})


def run_config(students: dict[str, StudentConfig], **knowledge: Any) -> RunConfig:
    return small_run(
        ATTACK,
        model="cnn_small",
        epochs=4,
        batch_size=32,
        shift=1,
        beta=3.0,
        knowledge={"contents": ("soft_labels", "deltas"), **knowledge},
        students=students,
    )


CONFIG = run_config(
    {"all": student(), "two": student(num_views=2)},
    num_views=NUM_VIEWS,
    shift=SHIFT,
    flip=True,
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    return prepare_stage(CONFIG, work, lambda step, share: None)


@pytest.fixture(scope="module")
def manifest(release: Path) -> Manifest:
    return read_manifest(release)


@pytest.fixture(scope="module")
def teacher(release: Path) -> nn.Module:
    return load_model(release.parent / "teacher.safetensors")[0].eval()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(CONFIG.dataset, seed=0)


def drawn(num_samples: int, num_views: int, **changes: Any) -> Views:
    values: dict[str, Any] = {"shift": 2, "flip": True, "seed": 0}
    return Views.draw(num_samples, num_views, **{**values, **changes})


def at_view(views: Views, view: int, height: int, width: int) -> Tensor:
    samples = torch.arange(len(views.drawn))
    return views.index(samples, torch.full_like(samples, view), height, width)


def test_a_view_is_a_crop_of_the_padded_image_mirrored_or_not() -> None:
    x = torch.rand(40, 2, 6, 5) + 0.1
    views = drawn(40, 9)
    for view in range(9):
        shown = show(x, at_view(views, view, 6, 5), 2)
        for padded, after in zip(F.pad(x, (2, 2, 2, 2)), shown, strict=True):
            crops = [
                padded[:, i : i + 6, j : j + 5] for i in range(5) for j in range(5)
            ]
            crops += [crop.flip(2) for crop in crops]
            assert any(torch.equal(after, crop) for crop in crops)


def test_the_first_view_is_the_image_itself_and_no_two_are_alike() -> None:
    x = torch.rand(30, 1, 6, 6)
    views = drawn(30, 50)  # all that there are
    shown = torch.stack([show(x, at_view(views, v, 6, 6), 2) for v in range(50)], 1)
    assert torch.equal(shown[:, 0], x)
    assert all(len(of_one.unique(dim=0)) == 50 for of_one in shown)


def test_the_drawing_never_changes_between_versions_and_machines() -> None:
    views = drawn(3, 6, shift=1)
    assert views.drawn.tolist() == [
        [0, 4, 8, 1, 7, 6],
        [0, 12, 9, 14, 15, 7],
        [0, 16, 15, 3, 13, 2],
    ]


def test_a_view_depends_on_seed_and_sample_alone() -> None:
    whole = drawn(5000, 7).drawn  # more than are drawn for at a time
    torch.manual_seed(1)
    np.random.seed(1)
    assert np.array_equal(drawn(10, 7, first=4090).drawn, whole[4090:4100])
    assert np.array_equal(drawn(10, 3, first=4090).drawn, whole[4090:4100, :3])
    assert not np.array_equal(drawn(5000, 7, seed=1).drawn, whole)


def test_the_shipped_logits_of_each_view_are_a_live_teachers_within_half_a_scale(
    release: Path, manifest: Manifest, teacher: nn.Module, dataset: Dataset
) -> None:
    x, _ = dataset.train.tensors()
    views = Views.draw(len(x), NUM_VIEWS, shift=SHIFT, flip=True, seed=manifest.seed)
    seen = 0
    for info in manifest.shards_for(frozenset(["soft_labels"]), NUM_VIEWS):
        rows = slice(info.first, info.first + info.num_samples)
        shown = show(x, at_view(views, info.view, 8, 8), SHIFT)[rows]
        data = (release / Path(info.path).name).read_bytes()
        arrays = decode_shard(data, info, manifest)
        scale = arrays["logits_scale"].astype(np.float32)
        with torch.no_grad():
            live = teacher(shown).numpy()
        error = np.abs(dequantize_rows(arrays["logits"], arrays["logits_scale"]) - live)
        assert (error <= 0.501 * scale[:, None] + 1e-5).all()
        seen += info.num_samples
    assert seen == NUM_VIEWS * len(x)


def training_of(
    release: Path, dataset: Dataset, recipe: StudentConfig, seed: int = 0
) -> Training:
    manifest = read_manifest(release)
    return Training(
        recipe, task_of(manifest, release, dataset, recipe, seed), clock=lambda: 0.0
    )


def task_of(
    manifest: Manifest,
    release: Path,
    dataset: Dataset,
    recipe: StudentConfig,
    seed: int = 0,
) -> Task:
    return Task.of_release(
        manifest,
        train=Images.of(dataset.train),
        val=Images.of(dataset.val),
        knowledge=read_knowledge(manifest, release, recipe),
        seed=seed,
    )


def test_a_student_sees_each_view_once_in_turn_with_the_teachers_answer_for_it(
    release: Path, dataset: Dataset, teacher: nn.Module
) -> None:
    training = training_of(release, dataset, student())
    positions = torch.randperm(len(dataset.train))[:50]
    pixels = []
    for epoch in range(NUM_VIEWS):
        training.state.epoch = epoch
        batch = training.batch(positions, 0.15)
        assert batch.soft_labels is not None
        with torch.no_grad():
            live = torch.log_softmax(teacher(batch.x), 1)
            # Half a scale of logits moves their log-softmax by a scale at most.
            scale = teacher(batch.x).abs().amax(1, keepdim=True) / 127
        error = (batch.soft_labels.log() - live).abs()
        assert (error <= 1.01 * scale + 1e-4).all()
        pixels.append(batch.x)
    seen = torch.stack(pixels, 1).flatten(2)
    assert all(len(of_one.unique(dim=0)) == NUM_VIEWS for of_one in seen)


def test_labels_alone_allow_views_that_the_release_has_no_soft_labels_of(
    release: Path, dataset: Dataset
) -> None:
    recipe = student(method="warm_at", num_views=18)
    knowledge = read_knowledge(read_manifest(release), release, recipe)
    assert knowledge.soft_labels is None and knowledge.views is not None
    assert knowledge.views.drawn.shape == (len(dataset.train), 18)


def test_a_training_with_views_that_was_stopped_repeats_exactly(
    release: Path, manifest: Manifest, dataset: Dataset, tmp_path: Path
) -> None:
    recipe, steps = student(), count()

    def fit(**how: Any) -> dict[str, Tensor]:
        task = task_of(manifest, release, dataset, recipe)
        fitted = fit_student(recipe, task, **how)
        return fitted.model.state_dict()

    whole = fit()
    file = CheckpointFile(tmp_path / "checkpoint")
    with pytest.raises(Interrupted):
        fit(checkpoint=file, should_stop=lambda: next(steps) > 10)
    again = fit(checkpoint=file)
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_node_pulls_the_views_that_its_recipe_trains_on(manifest: Manifest) -> None:
    def views(name: str) -> set[tuple[str, int]]:
        files = needed_files(manifest, name)
        return {(s.content, s.view) for s in files if isinstance(s, ShardInfo)}

    assert views("two") == {("soft_labels", 0), ("soft_labels", 1), ("deltas", 0)}
    assert len(views("all")) == NUM_VIEWS + 1
    each = manifest.bytes_per_sample()["soft_labels"]
    assert NUM_VIEWS * 12 < each < NUM_VIEWS * 14  # 10 logits and a scale a view


def test_without_views_a_release_is_what_it_was_before_there_were_any(
    release: Path, manifest: Manifest, tmp_path: Path
) -> None:
    config = run_config({"tiny": student(num_views=1)})
    plain = prepare_stage(config, tmp_path, lambda step, share: None)
    text = (plain / "manifest.json").read_text()
    assert not any(word in text for word in ("view", "shift", "flip"))
    names = {Path(info.path).name for info in decode_manifest(text.encode()).shards}
    assert names == {p.name for p in plain.glob("*.safetensors")}
    for name in names:  # the same teacher said the same of view 0
        assert (plain / name).read_bytes() == (release / name).read_bytes()


def test_a_recipe_with_more_views_than_the_release_is_refused(
    release: Path, manifest: Manifest
) -> None:
    with pytest.raises(ConfigError, match=r"num_views = 5 .* there are 4 views with"):
        read_knowledge(manifest, release, student(num_views=5))
    with pytest.raises(ConfigError, match=r"num_views = 19 .* 18 different views"):
        read_knowledge(manifest, release, student(num_views=19, method="warm_at"))


def test_a_config_that_asks_for_more_views_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="an image has only 9 different views"):
        load_run_config(
            "digits-same", {"knowledge.num_views": 10, "knowledge.shift": 1}
        )
    with pytest.raises(ConfigError, match="there are 1 views with soft labels"):
        load_run_config(
            "digits-same", {"students.tiny.num_views": 2, "knowledge.shift": 1}
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_views": 3}, r"soft_labels of views \[0, 1, 2, 3\], expected 0 to 2"),
        ({"num_views": 5}, r"expected 0 to 4"),
        ({"shift": 0}, "4 views with shift 0, flip True, which has fewer"),
    ],
)
def test_a_manifest_whose_views_do_not_add_up_is_refused(
    manifest: Manifest, changes: dict[str, Any], said: str
) -> None:
    data = encode_manifest(manifest.model_copy(update=changes))
    with pytest.raises(TrustError, match=said):
        decode_manifest(data)


def test_a_kept_delta_moves_with_its_pixels_to_other_views() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(20, 2, 6, 6, generator=random)
    memory = DeltaMemory.start(x, None, random, margin=2)
    views, samples = drawn(20, 9), torch.arange(20)
    canvas = torch.randint(0, 2, (20, 2, 10, 10), generator=random) * 0.2 - 0.1
    for view in range(9):  # in turn, as a training does
        index = at_view(views, view, 6, 6)
        own = canvas.flatten(2).gather(2, index[:, None].expand(-1, 2, -1))
        memory.keep(samples, own.view_as(x), show(x, index, 2), index)
    for view in range(9):
        index = at_view(views, view, 6, 6)
        own = canvas.flatten(2).gather(2, index[:, None].expand(-1, 2, -1))
        assert torch.equal(memory.recall(samples, 0.1, index), own.view_as(x))


def test_shipped_deltas_lie_in_the_middle_of_the_canvas() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 5, 6, generator=random)
    delta = torch.randint(0, 2, x.shape, generator=random) * 2.0 - 1
    signs = pack_signs(delta.numpy())
    memory = DeltaMemory.start(x, signs, random, margin=2)
    still = torch.full((20,), 2)
    plain = canvas_index(still, still, still == 0, shift=2, height=5, width=6)
    moved = canvas_index(still + 1, still, still == 0, shift=2, height=5, width=6)
    mirror = canvas_index(still, still, still == 2, shift=2, height=5, width=6)
    samples = torch.arange(20)
    assert torch.equal(memory.recall(samples, 1.0, plain), delta)
    assert torch.equal(memory.recall(samples, 1.0, mirror), delta.flip(3))
    assert torch.equal(memory.recall(samples, 1.0, moved)[:, :, :-1], delta[:, :, 1:])


def test_the_memory_of_deltas_takes_one_bit_a_pixel_of_the_canvas() -> None:
    x = torch.zeros(10, 3, 32, 32)
    memory = DeltaMemory.start(x, None, torch.Generator(), margin=4)
    assert memory.tensor().numel() == 10 * 3 * 40 * 40 / 8


def test_a_delta_that_moves_with_its_pixels_is_a_better_start_than_one_that_does_not(
    release: Path, dataset: Dataset
) -> None:
    training = training_of(
        release, dataset, student(method="warm_at", epochs=20, batch_size=32)
    )
    while training.progress() < 1:
        training.epoch(lambda: False)
    samples = torch.arange(len(dataset.train))
    model, memory = training.learner.student(), training.memory
    assert memory is not None

    def loss(x: Tensor, y: Tensor, delta: Tensor) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model((x + delta).clamp(0, 1)), y))

    still = torch.full_like(samples, SHIFT)
    plain = canvas_index(still, still, still == 0, shift=SHIFT, height=8, width=8)
    random = torch.Generator().manual_seed(0)
    moving = staying = fresh = 0.0
    for _ in range(NUM_VIEWS):
        batch = training.batch(samples, 0.15)
        assert batch.delta is not None
        signs = torch.randint(0, 2, batch.x.shape, generator=random) * 2.0 - 1
        moving += loss(batch.x, batch.y, batch.delta)
        staying += loss(batch.x, batch.y, memory.recall(samples, 0.15, plain))
        fresh += loss(batch.x, batch.y, 0.15 * signs)
        training.state.epoch += 1
    assert moving > 1.02 * staying and moving > 1.1 * fresh
