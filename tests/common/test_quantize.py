"""The number codecs: how far what comes back may be from what went in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from common.release import dequantize_rows, pack_signs, quantize_rows, unpack_signs

_LARGEST = 127 * 65_504.0

_rows = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@given(_rows)
def test_quantised_rows_come_back_within_half_a_scale(
    values: NDArray[np.float32],
) -> None:
    quantised, scale = quantize_rows(values)
    assert np.isfinite(scale).all() and (scale >= 0).all()
    back = dequantize_rows(quantised, scale)
    assert back.dtype == np.float32 and np.isfinite(back).all()
    inside = np.clip(values.astype(np.float64), -_LARGEST, _LARGEST)
    error = np.abs(back - inside).reshape(len(values), -1).max(axis=1)
    assert (error <= 0.5001 * scale.astype(np.float64)).all()


@given(_rows)
def test_a_scale_is_no_wider_than_float16_makes_it(values: NDArray[np.float32]) -> None:
    _, scale = quantize_rows(values)
    peak = np.abs(values.astype(np.float64)).reshape(len(values), -1).max(axis=1)
    exact = np.minimum(peak / 127, 65_504)
    # one step of float16 above the exact scale: 2^-10 of it, or the smallest number
    assert (scale.astype(np.float64) <= exact * (1 + 2**-10) + 6e-8).all()


def test_a_row_of_zeros_comes_back_as_zeros_beside_other_rows() -> None:
    values = np.array([[0, 0], [1, -2]], np.float32)
    assert (dequantize_rows(*quantize_rows(values))[0] == 0).all()


def test_a_huge_row_saturates_instead_of_becoming_infinite() -> None:
    back = dequantize_rows(*quantize_rows(np.array([[1e30, -1e30, 0]], np.float32)))
    assert back.tolist() == [[_LARGEST, -_LARGEST, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_teacher_that_diverged_is_not_quantised(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantize_rows(np.array([[0.0, value]]))


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_signs_come_back_from_one_bit_a_pixel(
    shape: tuple[int, int, int], n: int, seed: int
) -> None:
    delta = np.random.RandomState(seed).uniform(-1, 1, (n, *shape))
    packed = pack_signs(delta)
    assert packed.shape == (n, -(-delta[0].size // 8))
    assert np.array_equal(unpack_signs(packed, shape), np.sign(delta))
