"""Catch-up AdamW: the steps that a row without gradients missed, in closed form.

Legend: `U` rows, `W` width of a row, `J` steps looked back.

AdamW moves a row in each step, also in one without a gradient: weight decay shrinks it, and the moments, which fade,
still pull. A row whose moments were m and v after step t has, j steps later, m beta1^j and v beta2^j, so step s = t + j
moves it by

    -lr_s m r^j sqrt(1 - beta2^s) / (1 - beta1^s) / (sqrt(v) + eps y_s),    r = beta1 / sqrt(beta2),
                                                                            y_s = sqrt(beta2^-j - beta2^t)

Without eps the sum over the missed steps is m / sqrt(v) times a number that depends on t alone. `MissedSteps` keeps it
for every t, so a row costs the same however many steps it missed. With eps the sum is a mean of 1 / (sqrt(v) + eps y)
over y, taken by Gauss's quadrature of three points, which the first six moments of y give (written as a continued
fraction, it needs no points: Stieltjes). It is exact for rows that missed three steps at most. Else its error, over the
length of the move without eps, is 1e-5 from step 20 on, and none where sqrt(v) is far from eps on either side.

No difference of prefix sums is taken: r^j leaves these no digits after 400 steps.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LOOK_BACK = 512  # J: r^512 is 1e-21, so later steps of a gap add nothing but decay
NUM_MOMENTS = 6
SMALLEST_SPREAD = 1e-13  # variance of y below which it is rounding: one missed step has none

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]


class RowFactors(NamedTuple):
    """Effect of a row's missed steps, [U, 1] float32 each.

    weight = decay weight - pull m / (s + a0 - b1 / (s + a1 - b2 / (s + a2))), s = sqrt(v); m *= first; v *= second.
    """

    decay: Tensor
    first: Tensor
    second: Tensor
    pull: Tensor
    a0: Tensor
    b1: Tensor
    a1: Tensor
    b2: Tensor
    a2: Tensor


class MissedSteps:
    """The steps taken since no row was behind, as the sums that a row needs to catch up from any of them."""

    def __init__(self, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        self.beta1, self.beta2 = betas
        self.eps, self.weight_decay = eps, weight_decay
        back = np.arange(LOOK_BACK, 0, -1, dtype=np.float64)  # j, the oldest first
        self._fading = (self.beta1 / np.sqrt(self.beta2)) ** back
        self._growing = self.beta2**-back
        self.restart(0)

    def restart(self, step: int) -> None:
        """Forget all steps up to `step`: no row is behind it."""
        self.step = self.base = step
        # Entry i is of rows that were up to date after step base + i.
        self._log_decay = np.zeros(1024)
        self._sums = np.zeros((1024, NUM_MOMENTS))

    def add(self, rate: float) -> None:
        """One more step. rate: its learning rate, below 1 / weight_decay."""
        newest = self.step - self.base
        if newest + 2 > len(self._log_decay):
            self._log_decay = np.concatenate([self._log_decay, np.zeros_like(self._log_decay)])
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        self.step += 1
        # As AdamW's kernel rounds it: of 10,000 steps the rounding would show.
        decay = np.log(np.float64(np.float32(1 - rate * self.weight_decay)))
        self._log_decay[newest + 1] = self._log_decay[newest] + decay
        oldest = max(0, newest + 1 - LOOK_BACK)
        count = newest + 1 - oldest
        entries = slice(oldest, newest + 1)
        correction = np.sqrt(1 - self.beta2**self.step) / (1 - self.beta1**self.step)
        pull = rate * correction * self._fading[-count:]
        # All sums fade as the weights do; they are kept as if they did not, which is made up for in `since`.
        pull *= np.exp(self._log_decay[entries] - self._log_decay[newest + 1])
        since = self.base + np.arange(oldest, newest + 1, dtype=np.float64)
        spread = np.sqrt(self._growing[-count:] - self.beta2**since) - 1  # y - 1, whose powers lose fewer digits
        for moment in range(NUM_MOMENTS):
            self._sums[entries, moment] += pull
            pull = pull * spread

    def since(self, last: IntArray, device: torch.device) -> RowFactors:
        """last: [U], the step that each row is up to date with, `base` at least."""
        entry = last - self.base
        missed = (self.step - last).astype(np.float64)
        decay = np.exp(self._log_decay[self.step - self.base] - self._log_decay[entry])
        pull, *fraction = _continued_fraction(np.ascontiguousarray(self._sums[entry].T))
        parts = [decay, np.exp(missed * np.log(self.beta1)), np.exp(missed * np.log(self.beta2)), pull * decay]
        parts += [part * self.eps**power for part, power in zip(fraction, (1, 2, 1, 2, 1), strict=True)]
        factors = torch.from_numpy(np.stack(parts).astype(np.float32)).to(device)
        return RowFactors(*factors.unsqueeze(-1))


def _continued_fraction(sums: FloatArray) -> tuple[FloatArray, ...]:
    """Sums of a (y - 1)^k, k = 0..5, [6, U] -> total of a, a0, b1, a1, b2, a2, [U] each.

    total / (z + a0 - b1 / (z + a1 - b2 / (z + a2))) is Gauss's quadrature, of three points, of a / (z + y): the a are
    the recurrence coefficients of the polynomials orthogonal under the weights `a`, worked out from central moments.
    """
    total = sums[0]
    with np.errstate(divide="ignore", invalid="ignore"):  # a row that missed nothing, or too few steps for a term
        m1, m2, m3, m4, m5 = sums[1:] / np.where(total == 0, 1.0, total)
        c2 = m2 - m1**2
        # Powers by products: numpy's own takes ten times as long.
        c3 = m3 - m1 * (3 * m2 - 2 * m1 * m1)
        c4 = m4 - m1 * (4 * m3 - m1 * (6 * m2 - 3 * m1 * m1))
        c5 = m5 - m1 * (5 * m4 - m1 * (10 * m3 - m1 * (10 * m2 - 4 * m1 * m1)))
        mean = 1 + m1
        has_two = c2 > SMALLEST_SPREAD
        skew = np.where(has_two, c3 / c2, 0.0)
        square = c4 - skew * c3 - c2**2  # of the second polynomial
        has_three = has_two & (square > SMALLEST_SPREAD * c2)
        cube = c5 - 2 * skew * c4 + (skew**2 - 2 * c2) * c3 + 2 * skew * c2**2
        b1 = np.where(has_two, c2, 0.0)
        b2 = np.where(has_three, square / c2, 0.0)
        a2 = mean + np.where(has_three, cube / square, 0.0)
    return total, mean, b1, mean + skew, b2, a2


@torch.no_grad()
def catch_up_(weight: Tensor, first: Tensor, second: Tensor, factors: RowFactors) -> None:
    """Take the missed steps, in place. weight, first and second moment: [U, W] float32."""
    root = second.sqrt()
    below = factors.b2 / (root + factors.a2)
    torch.sub(root, below, out=below)
    torch.div(factors.b1, below.add_(factors.a1), out=below)
    torch.sub(root, below, out=below)
    torch.div(first, below.add_(factors.a0), out=below)
    weight.mul_(factors.decay).sub_(below.mul_(factors.pull))
    first.mul_(factors.first)
    second.mul_(factors.second)
