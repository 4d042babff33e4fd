"""Interleaved trainings: the one that has used the least goes on."""

from collections.abc import Callable

import pytest

from common.errors import TrustError
from deploy.compare.interleave import YieldCpu, interleave


def test_the_one_that_has_used_the_least_goes_on() -> None:
    order: list[str] = []

    def work(name: str, cost: float) -> Callable[[YieldCpu], str]:
        def run(yield_cpu: YieldCpu) -> str:
            for turn in (1, 2, 3):
                order.append(name)
                yield_cpu(turn * cost)
            return name

        return run

    assert interleave([work("a", 1.0), work("b", 2.5)]) == ["a", "b"]
    assert "".join(order) == "abaabb"


def test_when_one_training_fails_the_others_end_and_its_error_is_raised() -> None:
    def fails(yield_cpu: YieldCpu) -> None:
        yield_cpu(1.0)
        raise TrustError("damaged")

    def goes_on(yield_cpu: YieldCpu) -> None:
        for turn in range(1000):
            yield_cpu(turn)
        raise AssertionError("was not stopped")

    with pytest.raises(TrustError, match="damaged"):
        interleave([goes_on, fails])
