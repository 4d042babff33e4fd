"""Trainings in turns: who has used the least goes on."""

from collections.abc import Callable

import pytest

from common.errors import TrustError
from deploy.compare.interleave import in_turns


def test_the_one_that_has_used_the_least_goes_on() -> None:
    told: list[str] = []

    def work(name: str, cost: float) -> Callable[[Callable[[float], None]], str]:
        def run(rest: Callable[[float], None]) -> str:
            for turn in (1, 2, 3):
                told.append(name)
                rest(turn * cost)
            return name

        return run

    assert in_turns([work("a", 1.0), work("b", 2.5)]) == ["a", "b"]
    assert "".join(told) == "abaabb"


def test_when_one_training_fails_the_others_end_and_its_error_is_told() -> None:
    def fails(rest: Callable[[float], None]) -> None:
        rest(1.0)
        raise TrustError("damaged")

    def goes_on(rest: Callable[[float], None]) -> None:
        for turn in range(1000):
            rest(turn)
        raise AssertionError("was not stopped")

    with pytest.raises(TrustError, match="damaged"):
        in_turns([goes_on, fails])
