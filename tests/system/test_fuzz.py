"""Bytes from elsewhere, changed at random, are accepted or refused: nothing else."""

import random
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, mutated, open_target
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

NUM = 300  # of each target; the large runs are tests/bench/fuzz.py


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_accepts_or_refuses_any_bytes(name: str, tmp_path: Path) -> None:
    with open_target(name, tmp_path) as target:
        for seed in target.seeds:
            target.run(seed)

        @settings(
            max_examples=NUM,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(target.seeds), st.integers(0), st.binary(max_size=64))
        def read(seed: bytes, changes: int, garbage: bytes) -> None:
            target.run(mutated(seed, random.Random(changes)))
            target.run(garbage)

        read()
