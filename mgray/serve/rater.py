"""Rater: the ratings that a model with a rating head predicts.

Legend: `Q` queries, `T` targets, `V` items (1..V; 0 is padding).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.data.columns import Columns
from mgray.data.inputs import read_columns
from mgray.data.padding import left_pad
from mgray.model.ensemble import Model
from mgray.model.rating_head import RatedSums, RaterState
from mgray.schema import PAD, UNKNOWN


class RatingQuery(NamedTuple):
    """Items to predict the ratings of, for a user with this history, and the true ratings."""

    history: Columns  # known items with ratings, oldest first
    targets: npt.NDArray[np.int64]  # [n] 1..V, or UNKNOWN
    ratings: npt.NDArray[np.float32]  # [n]


Rater = Callable[[Sequence[RatingQuery]], Tensor]  # Q queries -> predicted ratings [T], query after query


class ModelRater:
    """Predicts ratings within the model's scale; an unknown item gets the user's mean."""

    def __init__(self, model: Model, max_length: int, device: torch.device) -> None:
        assert model.rating_head is not None, "model.outputs has no rating"
        self.model, self.head = model, model.rating_head
        self.max_length, self.device = max_length, device
        self.columns = read_columns(model.config)

    @torch.no_grad()
    def __call__(self, queries: Sequence[RatingQuery]) -> Tensor:
        """Q queries -> predicted ratings [T], query after query."""
        self.model.eval()
        inputs = left_pad([query.history for query in queries], self.max_length, self.columns)
        inputs = inputs.map(lambda tensor: tensor.to(self.device))
        interest = self.model.fuse(inputs, only_last=True)[0][:, -1]
        state = self.head.user(interest, RatedSums(*(sums[:, -1] for sums in self.head.sums(inputs))))
        targets, owner = flat_targets(queries)
        owner = owner.to(self.device)
        mine = RaterState(*(part[owner] for part in state))
        rated, scale = self.head.rate(mine, targets.to(self.device)).cpu(), self.model.spec.rating_scale
        return rated.clamp(scale[0], scale[-1]) if scale else rated


def flat_targets(queries: Sequence[RatingQuery]) -> tuple[Tensor, Tensor]:
    """(items [T], PAD where unknown; index of each item's query [T])."""
    items = np.concatenate([query.targets for query in queries])
    owner = np.repeat(np.arange(len(queries)), [len(query.targets) for query in queries])
    return torch.from_numpy(np.where(items == UNKNOWN, PAD, items)), torch.from_numpy(owner)
