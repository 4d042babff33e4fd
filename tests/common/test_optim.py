"""The optimizer that spares a node torch's: the same numbers, less of the rest."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from waiting import WAIT_S

from common.errors import ConfigError
from common.optim import SGD, cosine, one_cycle, schedule, warmed_up


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_moves_the_weights_as_torchs_own_does(nesterov: bool) -> None:
    ours, theirs = net(), net()
    optimizer = SGD(
        ours.parameters(), learning_rate=0.1, weight_decay=0.01, nesterov=nesterov
    )
    groups: list[dict[str, Any]] = [
        {"params": [p for p in theirs.parameters() if p.dim() > 1]},
        {"params": [p for p in theirs.parameters() if p.dim() == 1]},
    ]
    groups[0]["weight_decay"] = 0.01
    reference = torch.optim.SGD(
        groups,
        lr=0.1,
        momentum=0.9,
        nesterov=nesterov,
    )
    for seed in range(5):
        x = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))
        loss = ours(x).square().sum()
        optimizer.step(torch.autograd.grad(loss, list(ours.parameters())))
        reference.zero_grad()
        theirs(x).square().sum().backward()
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_restored_optimizer_goes_on_where_it_was() -> None:
    model = net()
    optimizer = SGD(model.parameters(), learning_rate=0.1)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))

    def step(model: nn.Module, optimizer: SGD) -> None:
        loss = model(x).square().sum()
        optimizer.step(torch.autograd.grad(loss, list(model.parameters())))

    step(model, optimizer)
    copy = net()
    copy.load_state_dict(model.state_dict())
    restored = SGD(copy.parameters(), learning_rate=0.1)
    restored.load_state_dict(optimizer.state_dict())
    step(model, optimizer)
    step(copy, restored)
    for mine, other in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_training_step_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from common.optim import SGD\n"
        "p = torch.ones(2, 2, requires_grad=True)\n"
        "optimizer = SGD([p], learning_rate=0.1, weight_decay=0.1)\n"
        "optimizer.step(torch.autograd.grad(p.square().sum(), [p]))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WAIT_S)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_a_schedule_stays_in_the_unit_range_and_ends_at_zero(name: str) -> None:
    factors = [schedule(name)(i / 100) for i in range(101)]
    assert all(0 <= f <= 1 for f in factors)
    assert max(factors) == 1
    assert factors[-1] == 0


def test_three_steps_of_a_tenth_come_where_rslads_authors_have_them() -> None:
    epochs = (0, 214, 215, 259, 260, 284, 285, 300)
    factors = [schedule("multi_step")(epoch / 300) for epoch in epochs]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_schedules_bear_progress_beyond_the_end() -> None:
    assert cosine(1.2) == one_cycle(1.2) == 0


def test_an_unknown_schedule_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="cosine, multi_step, one_cycle"):
        schedule("steps")


def test_a_warm_up_reaches_all_at_its_share_and_stays() -> None:
    assert warmed_up(0.1, 0.2) == 0.5
    assert warmed_up(0.2, 0.2) == warmed_up(0.9, 0.2) == warmed_up(0.0, 0.0) == 1
