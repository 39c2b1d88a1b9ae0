"""mgray.data.moments: parts that were measured apart have together the moments of the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.data.moments import combine, measure, standardize

numbers = st.floats(-1e6, 1e6) | st.just(float("nan")) | st.integers(-3, 3).map(float)


def test_moments_by_hand() -> None:
    values = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan], [8.0, 5.0, np.nan]])
    found = measure(values)
    assert found.numbers.tolist() == [3, 2, 0]
    assert found.mean.tolist() == [4, 5, 0]
    assert found.squares.tolist() == [9 + 1 + 16, 0, 0]
    assert found.std.tolist() == [np.sqrt(26 / 3), 0, 0]
    # {1, 3} has mean 2 and squares 2; {8} has 0; between them 6**2 * 2 * 1 / 3 = 24
    apart = combine([measure(values[:2]), measure(values[2:])], 3)
    assert apart.squares.tolist() == [26, 0, 0]
    assert apart.mean.tolist() == [4, 5, 0]


def test_nothing_has_no_moments() -> None:
    for found in (combine([], 2), measure(np.zeros((0, 2))), combine([measure(np.zeros((0, 2)))] * 3, 2)):
        assert [column.tolist() for column in (*found, found.std)] == [[0, 0]] * 4
    assert combine([measure(np.array([[2.0], [4.0]])), measure(np.array([[np.nan]]))], 1).std.tolist() == [1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_parts_combine_to_the_whole(rows: list[tuple[float, float]], cuts: list[int]) -> None:
    values = np.array(rows, np.float64).reshape(-1, 2)
    found = combine([measure(part) for part in np.split(values, sorted(cuts))], 2)
    for column in range(2):
        own = values[:, column][~np.isnan(values[:, column])]
        assert found.numbers[column] == len(own)
        if len(own):
            # each sum of at most 40 terms up to 1e6 rounds by some 40 * 1e6 * 2**-53, and so does each combination
            assert found.mean[column] == pytest.approx(own.mean(), rel=1e-12, abs=1e-8)
            assert found.std[column] == pytest.approx(own.std(), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("num_parts", [1, 2, 7, 100])
def test_a_mean_of_a_billion_does_not_drown_a_deviation_of_one(num_parts: int) -> None:
    generator = np.random.default_rng(0)
    values = 1e9 + generator.standard_normal((10_000, 1))
    bounds = np.sort(generator.integers(0, len(values), num_parts - 1))
    found = combine([measure(part) for part in np.split(values, bounds)], 1)
    # sum(x**2) - n * mean**2 in float64 would be off by 1e18 * 2**-53, a hundred times the variance; here a part's mean
    # is off by some 1e-7, a step of float64 at 1e9, and the variance by its square
    assert found.mean[0] == pytest.approx(np.mean(values), abs=1e-6)
    assert found.std[0] == pytest.approx(np.std(values), rel=1e-7)


def test_standardized_columns() -> None:
    values = np.array([[1.0, 7.0, np.nan], [3.0, 7.0, 2.0], [np.nan, 7.0, 4.0]])
    found = measure(values)
    scaled = standardize(values, found.mean, found.std)
    # a missing number is the mean, a constant column is all 0
    assert scaled.tolist() == [[-1, 0, 0], [1, 0, -1], [0, 0, 1]]
    assert scaled.dtype == np.float32
    assert standardize(np.zeros((0, 3)), found.mean, found.std).shape == (0, 3)
    assert standardize(np.array([[1e9 + 1]]), [1e9], [0.5]).tolist() == [[2]]  # float32 alone would lose the 1


def test_a_constant_is_one_though_its_mean_is_rounded() -> None:
    values = np.full((1000, 1), 0.1)
    found = measure(values)
    assert standardize(np.array([[0.1], [0.2]]), found.mean, found.std).tolist() == [[0], [0]]
