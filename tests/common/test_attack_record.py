"""An AutoAttack that is stopped goes on, and finds what it would have found whole."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_base import FABAttack
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from common.data.datasets import Dataset
from common.errors import StorageError
from common.faults import VARIABLE
from common.robustness.autoattack import Attacked, autoattack_each

EPS = 0.1
BATCH = 16
QUICK = ("apgd-ce", "apgd-dlr")  # the others take thousands of passes


class Stop(Exception):  # noqa: N818 - no error of ours
    """Ends an evaluation from outside."""


class _Noisy(nn.Module):
    """Answers differently each time."""

    def __init__(self, model: nn.Module, noise: float) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + self.noise * torch.randn_like(logits)


class _Stepped(nn.Module):
    """Masks its gradients: they are zero almost everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x * 50).round() / 50)
        return logits


@pytest.fixture(scope="module")
def student(digits: Dataset) -> nn.Module:
    """Give a linear model of which AutoAttack breaks some images and some not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = digits.train.tensors()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def images(digits: Dataset) -> tuple[Tensor, Tensor]:
    x, y = digits.test.tensors()
    return x[:40], y[:40]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, float]]:
    """Note which of the package's attacks are really run, on which batch."""
    found: list[tuple[str, int, float]] = []
    for kind in (APGDAttack, APGDAttack_targeted, FABAttack, SquareAttack):

        def noted(
            self: Any, x: Tensor, y: Tensor, run: Callable[..., Tensor] = kind.perturb
        ) -> Tensor:
            what = f"{type(self).__name__} {getattr(self, 'loss', '')}"
            found.append((what, len(x), float(x.sum())))
            return run(self, x, y)

        monkeypatch.setattr(kind, "perturb", noted)
    return found


def attacked(
    model: nn.Module, images: tuple[Tensor, Tensor], **options: Any
) -> Attacked:
    given: dict[str, Any] = {"eps": EPS, "seed": 3, "batch_size": BATCH}
    given |= {"attacks": QUICK} | options
    return autoattack_each(model, *images, **given)


@contextmanager
def stopped_after(num_batches: int) -> Iterator[Callable[[float], None]]:
    """Give a progress that stops an evaluation after so many batches."""
    left = num_batches

    def progress(share: float) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Stop

    with pytest.raises(Stop):
        yield progress


def interrupted(
    model: nn.Module, images: tuple[Tensor, Tensor], state: Path, batches: int
) -> bytes:
    """Stop an evaluation after so many batches; return the state that it leaves."""
    with stopped_after(batches) as progress:
        attacked(model, images, state=state, progress=progress)
    return state.read_bytes()


def same(one: Attacked, other: Attacked) -> bool:
    return (
        one.evaluation == other.evaluation
        and torch.equal(one.robust, other.robust)
        and torch.equal(one.x_adv, other.x_adv)
    )


@pytest.mark.parametrize("attacks", [QUICK, pytest.param(None, marks=pytest.mark.slow)])
def test_with_a_state_each_image_holds_as_by_the_package_itself(
    student: nn.Module,
    images: tuple[Tensor, Tensor],
    tmp_path: Path,
    attacks: tuple[str, ...] | None,
) -> None:
    x, y = images
    state = tmp_path / "state"
    for num_batches in (1, 4) if attacks else (1, 4, 5, 6, 7):
        with stopped_after(num_batches) as progress:
            attacked(student, images, attacks=attacks, state=state, progress=progress)
    found = attacked(student, images, attacks=attacks, state=state)
    runner = AutoAttack(student, eps=EPS, norm="Linf", seed=3, version="standard")
    runner.attacks_to_run = [*(attacks or runner.attacks_to_run)]
    x_adv, y_adv = runner.run_standard_evaluation(x, y, batch_size=BATCH)
    assert torch.equal(found.robust, y_adv == y)
    assert torch.equal(found.x_adv, x_adv)
    clean = int((student(x).argmax(1) == y).sum())
    assert clean > BATCH and 0 < int(found.robust.sum()) < clean


def test_stopped_after_every_batch_it_repeats_none_and_ends_as_a_whole_one(
    student: nn.Module,
    images: tuple[Tensor, Tensor],
    calls: list[tuple[str, int, float]],
    tmp_path: Path,
) -> None:
    whole = attacked(student, images)
    wanted = calls.copy()
    assert len(wanted) > 2 * len(QUICK)  # some attacks have several batches
    calls.clear()
    state = tmp_path / "state"
    for num_batches in range(1, len(wanted) + 1):
        interrupted(student, images, state, num_batches)
    assert calls == wanted
    found = attacked(student, images, state=state)
    assert calls == wanted
    assert same(found, whole)


def test_the_state_is_gone_when_the_evaluation_is_done(
    student: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    attacked(student, images, state=tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_flags_of_what_was_done_before_are_kept(
    student: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model, state = _Stepped(student), tmp_path / "state"
    whole = attacked(model, images)
    assert "zero_gradients" in whole.evaluation.flags
    interrupted(model, images, state, 4)
    assert same(attacked(model, images, state=state), whole)


def test_a_model_that_draws_random_numbers_draws_the_same_after_a_stop(
    student: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model, state = _Noisy(student, 0.1), tmp_path / "state"
    torch.manual_seed(5)
    whole = attacked(model, images)
    assert "randomized" in whole.evaluation.flags
    torch.manual_seed(5)
    interrupted(model, images, state, 4)
    torch.manual_seed(5)
    assert same(attacked(model, images, state=state), whole)


def test_a_model_that_answers_otherwise_than_before_is_attacked_anew(
    student: nn.Module,
    images: tuple[Tensor, Tensor],
    calls: list[tuple[str, int, float]],
    tmp_path: Path,
) -> None:
    model, state = _Noisy(student, 3.0), tmp_path / "state"
    torch.manual_seed(6)
    whole = attacked(model, images)
    wanted = calls.copy()
    torch.manual_seed(5)
    interrupted(model, images, state, 2)
    calls.clear()
    torch.manual_seed(6)
    assert same(attacked(model, images, state=state), whole)
    assert calls == wanted


def changed_model(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    return other


@pytest.mark.parametrize(
    "change",
    ["weights", "layers", "images", "labels", "eps", "seed", "batch_size", "attacks"],
)
def test_the_state_of_another_evaluation_is_not_used(
    student: nn.Module,
    images: tuple[Tensor, Tensor],
    calls: list[tuple[str, int, float]],
    tmp_path: Path,
    change: str,
) -> None:
    x, y = images
    model, options = student, {}
    if change == "weights":
        model = changed_model(student)
    elif change == "layers":
        model = nn.Sequential(student, nn.Identity())
    elif change == "images":
        x = x.clone()
        x[0, 0, 0, 0] += 0.25
    elif change == "labels":
        y = y.roll(1)
    else:
        new = {"eps": EPS / 2, "seed": 4, "batch_size": 20, "attacks": QUICK[:1]}
        options = {change: new[change]}
    whole = attacked(model, (x, y), **options)
    wanted = calls.copy()
    state = tmp_path / "state"
    interrupted(student, images, state, 4)
    calls.clear()
    assert same(attacked(model, (x, y), state=state, **options), whole)
    assert calls == wanted


def test_a_damaged_state_costs_time_only(
    student: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    whole = attacked(student, images)
    data = interrupted(student, images, state, 4)
    tail, flag = len(data) - 9, data.index(b"num_changed")
    for damaged in (
        b"",
        data[:100],
        data[:-9],
        data[:tail] + bytes([data[tail] ^ 1]) + data[tail + 1 :],  # in the pixels
        data.replace(b"takt.autoattack", b"takt.somethings"),
        data[:flag] + b"num_chanced" + data[flag + 11 :],
        data.replace(b'flags\\": [[]', b'flags\\": [{}', 1),
    ):
        assert damaged != data
        state.write_bytes(damaged)
        assert same(attacked(student, images, state=state), whole)


def test_a_state_that_cannot_be_written_ends_the_evaluation_and_the_old_one_stays(
    student: nn.Module,
    images: tuple[Tensor, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = tmp_path / "state"
    data = interrupted(student, images, state, 2)
    monkeypatch.setenv(VARIABLE, "autoattack.record.half_written:enospc")
    with pytest.raises(StorageError, match=r"cannot write .*state"):
        attacked(student, images, state=state)
    assert state.read_bytes() == data
