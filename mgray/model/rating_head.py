"""Rating head: predicts the rating that a user gives an item next, from the ratings so far and the interest.

Legend: `B` sequences, `L` positions, `D` width, `V` items (1..V; 0 is padding).

A causal form of asymmetric SVD (Koren 2008, "Factorization meets the neighborhood"): a user is no row of a table but
the items rated so far, so a new user needs no training. In units of the training part's deviation from its mean,

    rating(t, j) = b_j + u_t + q_j . (w_t + W interest_t)
    u_t = sum_s d_s / (lambda + n_t),  d_s = rating_s - b_s
    w_t = sum_s ((d_s - u_t) x_s + y_s) / sqrt(kappa + n_t)

over the n_t rated events s up to t; y counts unrated events too. W starts at zero: the head starts as user + item bias.
W interest is penalized as the items' factors are: without a penalty, a model that reads each history many times
memorizes its ratings.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mgray.data.inputs import Inputs, InputSpec
from mgray.model.layers import Dropout
from mgray.schema import PAD

FACTOR_STD = 0.1  # of the factors at the start
USER_SHRINKAGE, FACTOR_SHRINKAGE = 5.0, 10.0  # lambda and kappa at the start, events
BIAS_PENALTY = 0.25  # of the factors' penalty, on an item's bias


class RaterState(NamedTuple):
    """A user's side of the prediction, at each position or at one."""

    bias: Tensor  # [...] the user's mean deviation, shrunk
    factors: Tensor  # [..., D]
    learned: Tensor  # [..., D] W interest, the part of the factors that the penalty is on


class RatedSums(NamedTuple):
    """Sums over the events up to a position: all that the head reads of them."""

    events: Tensor  # [...]
    rated: Tensor  # [...] events that have a rating
    deviation: Tensor  # [...] sum of d_s
    pulled: Tensor  # [..., D] sum of d_s x_s + y_s
    plain: Tensor  # [..., D] sum of x_s over the rated


class RatingHead(nn.Module):
    def __init__(self, num_items: int, width: int, dropout: float, spec: InputSpec) -> None:
        super().__init__()
        self.mean, self.std = spec.rating_mean, spec.rating_std or 1.0
        # A row an item: its bias, q, x and y, so that one gather reads them all.
        self.table = nn.Embedding(num_items + 1, 1 + 3 * width, padding_idx=PAD)
        nn.init.normal_(self.table.weight, std=FACTOR_STD)
        with torch.no_grad():
            self.table.weight[:, 0] = 0
            self.table.weight[PAD] = 0
        self.width = width
        self.log_shrinkage = nn.Parameter(torch.tensor([USER_SHRINKAGE, FACTOR_SHRINKAGE]).log())
        self.from_interest = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.from_interest.weight)
        self.dropout = Dropout(dropout)

    def describe(self, interest: Tensor, inputs: Inputs) -> RaterState:
        """interest: [B, L, D]; inputs with ratings -> the user at every position, [B, L] and [B, L, D]."""
        return self.user(interest, self.sums(inputs))

    def sums(self, inputs: Inputs, past: RatedSums | None = None) -> RatedSums:
        """inputs with ratings: [B, L] -> at every position, [B, L] and [B, L, D]. past: before the first, [B]."""
        assert inputs.ratings is not None, "a model with a rating head reads ratings"
        bias, _, x, y = self._rows(inputs.items)
        is_event = inputs.items != PAD
        is_rated = is_event & ~inputs.ratings.isnan()
        standardized = (inputs.ratings.nan_to_num(self.mean) - self.mean) / self.std
        deviation = torch.where(is_rated, standardized - bias, 0.0)
        pulled = deviation.unsqueeze(-1) * x + is_event.unsqueeze(-1) * y
        summands = RatedSums(is_event, is_rated, deviation, pulled, is_rated.unsqueeze(-1) * x)
        sums = (summand.cumsum(1) for summand in summands)
        if past is None:
            return RatedSums(*sums)
        return RatedSums(*(sum_ + before.unsqueeze(1) for sum_, before in zip(sums, past, strict=True)))

    def no_sums(self, batch: int) -> RatedSums:
        """The sums of users without an event, [B]."""
        one, wide = self.table.weight.new_zeros(batch), self.table.weight.new_zeros(batch, self.width)
        counts = torch.zeros_like(one, dtype=torch.int64)
        return RatedSums(counts, counts, one, wide, wide)

    def user(self, interest: Tensor, sums: RatedSums) -> RaterState:
        """interest: [..., D], sums: [...] of the same positions -> the user at each of them."""
        shrinkage = self.log_shrinkage.exp()
        bias = sums.deviation / (shrinkage[0] + sums.rated)
        scale = (shrinkage[1] + sums.events).rsqrt().unsqueeze(-1)
        factors = (sums.pulled - bias.unsqueeze(-1) * sums.plain) * scale
        learned = (sums.events > 0).unsqueeze(-1) * self.from_interest(interest.float())
        return RaterState(bias, self.dropout(factors + learned), learned)

    def rate(self, state: RaterState, items: Tensor) -> Tensor:
        """The rating of each item by the user beside it, in the log's units. items: [...] int64 in 0..V -> [...]."""
        bias, q, _, _ = self._rows(items)
        return self.mean + self.std * (bias + state.bias + (state.factors * q).sum(-1))

    def loss(self, interest: Tensor, inputs: Inputs, targets: Tensor, ratings: Tensor, penalty: float) -> Tensor:
        """Sum over the rated targets of the squared error, in units of the variance, and of the penalty.

        interest: [B, L, D], targets: [B, L] int64, 0 = none, ratings: [B, L] float32, NaN = none -> [] float32. The
        penalty is on the squared norm of the target's row and of W interest each time one is rated, so that it weighs
        the same against an item's errors however often that is rated (as in SGD of a matrix factorization).
        """
        with torch.autocast(interest.device.type, enabled=False):
            state = self.describe(interest, inputs)
            rated = (targets != PAD) & ~ratings.isnan()
            chosen, given = targets[rated], ratings[rated]
            asked = RaterState(*(part[rated] for part in state))
            error = (self.rate(asked, chosen) - given) / self.std
            bias, *factors = self._rows(chosen)
            norms = BIAS_PENALTY * bias.square() + sum(f.square().sum(-1) for f in (asked.learned, *factors))
            return error.square().sum() + penalty * norms.sum()

    def _rows(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """items: [...] -> bias [...], q, x, y [..., D]."""
        bias, q, x, y = self.table(items).split([1, self.width, self.width, self.width], dim=-1)
        return bias.squeeze(-1), q, x, y
