"""The teacher's training loop, without Ray: objectives, resuming, repeatability."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import TINY_ATTACK, tiny_run
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from cloud.training.checkpoint import load_checkpoint, save_checkpoint
from cloud.training.images import augmented, for_teacher
from cloud.training.kept_weights import BestEpoch, average_weights
from cloud.training.objectives import (
    OBJECTIVES,
    divergence,
    perturbed_weights,
    still_statistics,
)
from cloud.training.ranks import Ranks
from cloud.training.teacher import EpochReport, TeacherRun, fit_teacher
from cloud.training.teacher_files import teacher_digest
from cloud.training.validation import ranking_attack
from common.config import AttackConfig, DatasetConfig, RunConfig
from common.data.datasets import Dataset, Split, load_dataset
from common.errors import DataError, StorageError
from common.models.zoo import build_model


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny_run().dataset, seed=0)


def test_a_teacher_of_all_images_learns_from_more_than_its_release_speaks_of(
    dataset: Dataset,
) -> None:
    assert for_teacher(tiny_run(), dataset) is dataset
    whole = for_teacher(tiny_run(all_images=True), dataset)
    assert (len(dataset.train), len(whole.train)) == (180, 1437 - 20)
    assert whole.val is dataset.val and whole.test is dataset.test


def test_a_teacher_of_all_images_is_another_one() -> None:
    few, whole = tiny_run(), tiny_run(all_images=True)
    assert teacher_digest(few) != teacher_digest(whole)


def rows(*splits: Split) -> list[bytes]:
    """Pixels and label of each image."""
    return [
        image.tobytes() + label.tobytes()
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    ]


def test_a_teacher_of_the_others_has_none_of_the_nodes_images(dataset: Dataset) -> None:
    others = for_teacher(tiny_run(images="others"), dataset)
    assert others.val is dataset.val and others.test is dataset.test
    taught = rows(others.train)
    assert len(taught) == 1437 - 200
    assert not set(taught) & set(rows(dataset.train, dataset.val, dataset.test))
    whole = load_dataset(DatasetConfig(), seed=0)
    known = taught + rows(dataset.train, dataset.val)
    assert sorted(known) == sorted(rows(whole.train, whole.val))


def test_nodes_hold_neither_validation_nor_test_images(dataset: Dataset) -> None:
    held = set(rows(dataset.train))
    assert not held & set(rows(dataset.val, dataset.test))


def test_a_teacher_of_other_images_is_another_one() -> None:
    found = {teacher_digest(tiny_run(images=i)) for i in ("same", "all", "others")}
    assert len(found) == 3
    assert teacher_digest(tiny_run(all_images=True)) in found


def test_a_limit_that_leaves_none_out_is_refused(dataset: Dataset) -> None:
    config = tiny_run(images="others")
    whole = config.dataset.model_copy(update={"limit": 5000})
    with pytest.raises(DataError, match="limit = 5000 leaves no training image"):
        for_teacher(config.model_copy(update={"dataset": whole}), dataset)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(config: RunConfig, dataset: Dataset, **arguments: Any) -> nn.Module:
    """The best epoch's model of a training."""
    return fit_teacher(config, dataset, **arguments).best_model()


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_learns(objective: str, dataset: Dataset) -> None:
    config = tiny_run(objective=objective, epochs=15, beta=3.0)
    if objective == "n_fgsm":  # moves a pixel by three times eps
        threat = config.threat.model_copy(update={"eps": config.threat.eps / 3})
        config = config.model_copy(update={"threat": threat})
    reports: list[EpochReport] = []
    fit_teacher(config, dataset, after_epoch=lambda _, r: reports.append(r))
    assert [r.epoch for r in reports] == [*range(1, 16)]
    assert reports[-1].clean_accuracy > 0.5  # chance is 0.1
    assert reports[-1].robust_accuracy > 0.2


@pytest.mark.parametrize("objective", sorted(OBJECTIVES.keys() - {"n_fgsm"}))
def test_an_attack_of_more_restarts_finds_more_loss(
    objective: str, dataset: Dataset
) -> None:
    torch.manual_seed(0)
    model = build_model("cnn_small", in_channels=1, image_size=8, num_classes=10).eval()
    x = torch.from_numpy(dataset.train.images[:64]) / 255
    y = torch.from_numpy(dataset.train.labels[:64])
    with torch.no_grad():
        clean = torch.softmax(model(x), 1)

    def losses(restarts: int) -> Tensor:
        x_adv = OBJECTIVES[objective].craft(
            model,
            x,
            y,
            eps=0.15,
            attack=TINY_ATTACK.model_copy(update={"restarts": restarts}),
            generator=torch.Generator().manual_seed(0),
        )
        with torch.no_grad():
            if objective == "trades":
                return divergence(model(x_adv), clean)
            logits = model(x_adv)
            loss = F.cross_entropy(logits, y, reduction="none")
            return torch.where(logits.argmax(1) == y, loss, torch.inf)

    assert (losses(3) >= losses(1)).all()
    assert (losses(3) > losses(1)).any()


def test_a_training_by_few_steps_is_ranked_by_an_attack_of_many() -> None:
    few = AttackConfig(steps=1, step_size=0.15)
    assert ranking_attack(few, 0.1) == AttackConfig(steps=10, step_size=0.025)
    many = AttackConfig(steps=7, step_size=0.02, random_start=False)
    assert ranking_attack(many, 0.1) == many


def test_the_same_seed_gives_the_same_teacher(dataset: Dataset) -> None:
    config = tiny_run(epochs=2)
    first = trained(config, dataset)
    torch.rand(7)  # the global generator has no influence
    assert torch.equal(weights(first), weights(trained(config, dataset)))
    other = trained(config.model_copy(update={"seed": 1}), dataset)
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_training_ends_with_the_very_same_weights(
    ema_decay: float, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tiny_run(ema_decay=ema_decay, shift=1)
    folder = tmp_path_factory.mktemp("checkpoint")

    def keep_the_second(run: TeacherRun, report: EpochReport) -> None:
        if report.epoch == 2:
            save_checkpoint(folder, run.state())

    whole = trained(config, dataset, after_epoch=keep_the_second)
    state = load_checkpoint(folder)
    assert state.epoch == 2
    resumed = trained(config, dataset, resume_from=state)
    assert torch.equal(weights(whole), weights(resumed))


def test_a_damaged_checkpoint_is_refused_in_one_line(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, TeacherRun(tiny_run(), dataset).state())
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageError, match="missing or damaged") as e:
        load_checkpoint(folder)
    assert "\n" not in str(e.value)


def test_the_checkpoint_of_another_teacher_is_refused(dataset: Dataset) -> None:
    state = TeacherRun(tiny_run(model="cnn_tiny"), dataset).state()
    with pytest.raises(StorageError, match="another teacher"):
        TeacherRun(tiny_run(), dataset).restore(state)


def test_of_the_epochs_within_chance_of_each_other_the_latest_is_kept(
    dataset: Dataset,
) -> None:
    config = tiny_run(epochs=6, learning_rate=0.2)
    seen: dict[int, tuple[float, Tensor]] = {}

    def note(run: TeacherRun, report: EpochReport) -> None:
        seen[report.epoch] = report.robust_accuracy, weights(run.model)

    best = trained(config, dataset, after_epoch=note)
    highest = max(robust for robust, _ in seen.values())
    chance = (highest * (1 - highest) / len(dataset.val)) ** 0.5
    latest = max(e for e, (robust, _) in seen.items() if robust >= highest - chance)
    assert torch.equal(weights(best), seen[latest][1])


def test_a_robustly_overfitted_end_is_not_kept(dataset: Dataset) -> None:
    run = TeacherRun(tiny_run(), dataset)
    early, overfitted = 0.5, 0.3
    best = BestEpoch(run.model, num_images=len(dataset.val))
    for epoch, robust in enumerate([0.1, early, overfitted, overfitted], 1):
        best.update(epoch, run.model, robust)
    assert best.epoch == 2


def test_training_leaves_torchs_global_generator_alone(dataset: Dataset) -> None:
    before = torch.random.get_rng_state()
    fit_teacher(tiny_run(epochs=1), dataset)
    assert torch.equal(before, torch.random.get_rng_state())


def test_weight_perturbation_moves_uphill_and_restores_every_bit() -> None:
    model = nn.Linear(4, 3)
    before = copy.deepcopy(model.state_dict())
    x, y = torch.rand(16, 4), torch.randint(0, 3, (16,))

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(x), y)

    at_rest = float(loss().detach())
    with perturbed_weights(list(model.parameters()), loss, 0.05):
        assert float(loss().detach()) > at_rest
        assert torch.equal(model.bias, before["bias"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weight_perturbation_follows_the_loss_as_far_as_each_weights_own_length() -> (
    None
):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x, x_adv = torch.rand(16, 4), torch.rand(16, 4)
    y = torch.randint(0, 3, (16,))
    config = tiny_run(beta=3.0).teacher

    def loss() -> Tensor:  # TRADES' own, its KL included, as in the paper's code
        return OBJECTIVES["trades"].loss(model, x, x_adv, y, config)

    weights = [p for p in model.parameters() if p.dim() > 1]
    before = [w.detach().clone() for w in weights]
    uphill = torch.autograd.grad(loss(), weights)
    with perturbed_weights(list(model.parameters()), loss, 0.01):
        for weight, old, gradient in zip(weights, before, uphill, strict=True):
            expected = 0.01 * old.norm() * gradient / gradient.norm()
            assert torch.allclose(weight - old, expected, atol=1e-6)


def test_the_uphill_loss_leaves_batchnorms_statistics_alone() -> None:
    norm = nn.BatchNorm2d(3)
    assert norm.running_mean is not None
    with still_statistics(nn.Sequential(norm)):
        norm(torch.rand(8, 3, 4, 4))
    assert torch.equal(norm.running_mean, torch.zeros(3))
    norm(torch.rand(8, 3, 4, 4))
    assert norm.running_mean.abs().min() > 0


def test_an_attack_differentiates_by_the_images_alone(dataset: Dataset) -> None:
    run = TeacherRun(tiny_run(), dataset)
    seen: list[bool] = []

    def watch(model: nn.Module, arguments: object) -> None:
        seen.append(any(p.requires_grad for p in model.parameters()))

    run.model.register_forward_pre_hook(watch)
    run.step(torch.arange(32), 0.0, torch.Generator().manual_seed(0))
    # TRADES: the clean answer and two steps of the attack, then both of the loss.
    assert seen == [False] * 3 + [True] * 2
    assert all(p.grad is None for p in run.model.parameters())


def test_mart_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    x, x_adv, y = torch.randn(6, 4), torch.randn(6, 4), torch.arange(6) % 4
    config = tiny_run(objective="mart", beta=5.0).teacher
    found = OBJECTIVES["mart"].loss(lambda z: z, x, x_adv, y, config)  # logits as given
    expected = 0.0
    for clean, adversarial, label in zip(
        x.softmax(1), x_adv.softmax(1), y, strict=True
    ):
        wrong = max(float(p) for k, p in enumerate(adversarial) if k != label)
        boosted = -math.log(adversarial[label]) - math.log(1 - wrong)
        kl = float((clean * (clean / adversarial).log()).sum())
        expected += (boosted + 5 * kl * (1 - float(clean[label]))) / len(y)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_mart_stays_finite_where_the_wrong_class_is_certain() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    config = tiny_run(objective="mart").teacher
    loss = OBJECTIVES["mart"].loss(
        lambda z: z, torch.zeros(1, 3), logits, torch.tensor([1]), config
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()
    assert gradient[0, 0] > 1  # away from the wrong class, by both of its terms


def test_label_smoothing_asks_for_less_than_certainty() -> None:
    logits, y = torch.randn(8, 5), torch.arange(8) % 5
    config = tiny_run(label_smoothing=0.2).teacher
    smooth = torch.full((8, 5), 0.2 / 5).scatter_(1, y[:, None], 0.8 + 0.2 / 5)
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    found = OBJECTIVES["pgd_at"].loss(lambda z: z, logits, logits, y, config)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_averaged_model_follows_weights_and_statistics_alike() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averaged = copy.deepcopy(model)
    before = copy.deepcopy(averaged.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(4)
    average_weights(averaged, model, decay=0.75)
    for name, value in averaged.state_dict().items():
        step = 1 if value.is_floating_point() else 4  # a count is taken over
        assert torch.allclose(value, before[name] + step), name


def _be_a_rank(rank: int, folder: str, config: str) -> None:
    """Train as one of two, and leave what came of it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    run = RunConfig.model_validate_json(config)
    data = load_dataset(run.dataset, seed=0)
    model = trained(run, data, ranks=Ranks(rank, 2))
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_train_what_one_process_trains_on_the_same_batches(
    dataset: Dataset, tmp_path: Path
) -> None:
    # Without chance of a rank's own: no random start, no augmentation.
    attack = TINY_ATTACK.model_copy(update={"random_start": False})
    config = tiny_run(objective="pgd_at", attack=attack, ema_decay=0.9, awp_gamma=0.01)
    alone = trained(config, dataset).state_dict()
    arguments = (str(tmp_path), config.model_dump_json())
    spawn(_be_a_rank, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(value, first[name], rtol=1e-3, atol=1e-5), name


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Callable[[Callable[[], object]], list[str]]]:
    """Give a function that lists the messages between ranks that a call sends."""
    # A group of one sends every message that it would send to others.
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )

    def listed(call: Callable[[], object]) -> list[str]:
        with torch.profiler.profile() as profile:
            call()
        return [
            e.key.removeprefix("gloo:") for e in profile.events() if "gloo:" in e.key
        ]

    yield listed
    torch.distributed.destroy_process_group()


def test_the_ranks_exchange_one_message_a_step_and_one_an_epoch(
    dataset: Dataset, sent: Callable[[Callable[[], object]], list[str]]
) -> None:
    config = tiny_run(ema_decay=0.9)
    run = TeacherRun(config, dataset, ranks=Ranks(0, 2))
    num_steps = len(dataset.train) // config.teacher.batch_size
    assert sent(run.run_epoch) == ["all_reduce"] * (num_steps + 1)  # loss and counts


def test_the_ranks_agree_on_all_statistics_in_one_message(
    sent: Callable[[Callable[[], object]], list[str]],
) -> None:
    statistics = [torch.randn(3), torch.randn(2, 5), torch.tensor(7.0)]
    before = copy.deepcopy(statistics)
    assert sent(lambda: Ranks(0, 2).agree(statistics)) == ["broadcast"]
    for value, expected in zip(statistics, before, strict=True):
        assert torch.equal(value, expected)


def test_divergence_is_torchs_kl_and_zero_between_equals() -> None:
    logits, other = torch.randn(8, 5), torch.randn(8, 5)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=other),
        torch.distributions.Categorical(logits=logits),
    )
    assert torch.allclose(divergence(logits, other.softmax(1)), expected, atol=1e-6)
    assert divergence(logits, logits.softmax(1)).abs().max() < 1e-6


def test_a_shift_moves_whole_images_and_fills_with_black() -> None:
    x = torch.rand(64, 2, 6, 5) + 0.1
    moved = augmented(
        x, shift=2, flip=False, generator=torch.Generator().manual_seed(0)
    )
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    for before, after in zip(padded, moved, strict=True):
        crops = [before[:, i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
        assert any(torch.equal(after, crop) for crop in crops)
    assert not torch.equal(moved, x)


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    x = torch.rand(200, 1, 4, 4)
    flipped = augmented(
        x, shift=0, flip=True, generator=torch.Generator().manual_seed(0)
    )
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 60 < sum(mirrored) < 140
