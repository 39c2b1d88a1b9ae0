"""Mean and variance of columns, from pieces that combine without loss (Chan, Golub and LeVeque 1979)."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Moments(NamedTuple):
    """Counts, means and sums of squared deviations of F columns; all [F] float64."""

    numbers: Floats
    mean: Floats
    squares: Floats

    @property
    def std(self) -> Floats:
        """Population standard deviation [F]; 0 where there is no number."""
        return np.sqrt(self.squares / np.maximum(self.numbers, 1))


def measure(values: Floats) -> Moments:
    """Moments of values [E, F]; NaN is not counted."""
    real = ~np.isnan(values)
    count = real.sum(0).astype(np.float64)
    mean = np.where(real, values, 0.0).sum(0) / np.maximum(count, 1)
    squares = (np.where(real, values - mean, 0.0) ** 2).sum(0)
    return Moments(count, mean, squares)


def combine(parts: Iterable[Moments], num_columns: int) -> Moments:
    """Moments of all pieces together, added in the order given."""
    total = Moments(*(np.zeros(num_columns) for _ in range(3)))
    for part in parts:
        count = np.maximum(total.numbers + part.numbers, 1)
        delta = part.mean - total.mean
        total = Moments(
            total.numbers + part.numbers,
            total.mean + delta * part.numbers / count,
            total.squares + part.squares + delta**2 * total.numbers * part.numbers / count,
        )
    return total


def is_constant(mean: Any, std: Any) -> npt.NDArray[np.bool_]:
    """Which columns are constant, [F]. Their deviation is a rounding error, not always exactly zero."""
    found: npt.NDArray[np.bool_] = np.asarray(std) <= 1e-13 * np.abs(mean)
    return found


def scale(values: Floats, mean: Any, std: Any) -> npt.NDArray[np.float32]:
    """[E, F] to zero mean and unit variance, a constant column to its distance from the mean; NaN stays NaN."""
    found: npt.NDArray[np.float32] = ((values - mean) / np.where(is_constant(mean, std), 1.0, std)).astype(np.float32)
    return found


def unscale(scaled: npt.NDArray[np.float32], mean: Any, std: Any) -> Floats:
    """Invert `scale`, [E, F], within float32 precision."""
    found: Floats = scaled * np.where(is_constant(mean, std), 1.0, std) + mean
    return found


def fill(scaled: npt.NDArray[np.float32], mean: Any, std: Any) -> npt.NDArray[np.float32]:
    """Scaled values [E, F] as a model reads them: a missing number is 0, the mean, and a constant column all 0."""
    return np.where(np.isnan(scaled) | is_constant(mean, std), np.float32(0), scaled)


def standardize(values: Floats, mean: Any, std: Any) -> npt.NDArray[np.float32]:
    """`fill` of `scale`: [E, F] to what a model reads."""
    return fill(scale(values, mean, std), mean, std)
