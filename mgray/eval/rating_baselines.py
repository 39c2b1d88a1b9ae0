"""Baselines of a rating head. Each rates by what it learned of items, and by the query's history of the user.

So a user who was not in the training part, or rated more since, is no stranger to a baseline either.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.data.dataset import Dataset
from mgray.serve.rater import Rater, RatingQuery

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BIAS_SHRINKAGE = 5.0  # ratings that a bias is shrunk by
BIAS_ROUNDS = 15
NUM_FACTORS = 20
FACTOR_PENALTY = 0.1  # of a factor's square, for each rating of its user or item
FACTOR_ROUNDS = 15


class Ratings:
    """The training part's ratings, E in all."""

    def __init__(self, users: IntArray, items: IntArray, ratings: FloatArray, num_items: int) -> None:
        self.users, self.items, self.ratings = users, items, ratings
        self.num_users, self.num_items = int(users.max(initial=-1)) + 1, num_items
        self.mean = float(ratings.mean())


def training_ratings(dataset: Dataset) -> Ratings:
    """Training ratings of known items; users are numbered in the order of the shards."""
    users, items, ratings, first = [], [], [], 0
    for histories in dataset.train_events(["ratings"]):
        lengths = np.diff(histories.offsets)
        given = histories.columns.ratings
        assert given is not None
        rated = ~np.isnan(given)
        users.append((first + np.repeat(np.arange(len(lengths)), lengths))[rated])
        items.append(histories.columns.items[rated].astype(np.int64))
        ratings.append(given[rated].astype(np.float64))
        first += len(lengths)
    return Ratings(np.concatenate(users), np.concatenate(items), np.concatenate(ratings), dataset.num_items)


class MeanRater:
    """The training part's mean for everyone."""

    def __init__(self, ratings: Ratings) -> None:
        self.mean = ratings.mean

    def __call__(self, queries: Sequence[RatingQuery]) -> Tensor:
        return torch.full((sum(len(query.targets) for query in queries),), self.mean)


class BiasRater:
    """Mean + item's bias + user's bias, each a mean of what the others leave, shrunk, fitted in turns (Koren 2010)."""

    def __init__(self, ratings: Ratings) -> None:
        self.mean = ratings.mean
        self.item_bias = np.zeros(ratings.num_items + 1)
        user_bias = np.zeros(ratings.num_users)
        centered = ratings.ratings - ratings.mean
        item_count = BIAS_SHRINKAGE + np.bincount(ratings.items, minlength=len(self.item_bias))
        user_count = BIAS_SHRINKAGE + np.bincount(ratings.users, minlength=len(user_bias))
        for _ in range(BIAS_ROUNDS):
            left = centered - user_bias[ratings.users]
            self.item_bias = np.bincount(ratings.items, left, len(self.item_bias)) / item_count
            left = centered - self.item_bias[ratings.items]
            user_bias = np.bincount(ratings.users, left, len(user_bias)) / user_count

    def user_bias(self, query: RatingQuery) -> float:
        items, deviations = rated_history(query, self.mean)
        return float((deviations - self.item_bias[items]).sum() / (BIAS_SHRINKAGE + len(items)))

    def __call__(self, queries: Sequence[RatingQuery]) -> Tensor:
        rated = [self.mean + self.user_bias(query) + self.item_bias[known(query.targets)] for query in queries]
        return torch.from_numpy(np.concatenate(rated)).float()


class FactorRater:
    """Biased matrix factorization by alternating least squares, the penalty weighed by counts (Zhou et al. 2008).

    A user's and an item's bias are factors whose partner is 1. A query's user is solved from its history.
    """

    def __init__(self, ratings: Ratings, seed: int = 0) -> None:
        self.mean = ratings.mean
        random = np.random.default_rng(seed)
        centered = ratings.ratings - ratings.mean
        # Columns: the user's partner of its bias (1), the item's bias, factors; of users: bias, 1, factors.
        self.item_rows = np.zeros((ratings.num_items + 1, 2 + NUM_FACTORS))
        self.item_rows[:, 0] = 1
        self.item_rows[1:, 2:] = random.normal(scale=0.1, size=(ratings.num_items, NUM_FACTORS))
        user_rows = np.zeros((ratings.num_users, 2 + NUM_FACTORS))
        by_user, by_item = _groups(ratings.users, ratings.num_users), _groups(ratings.items, ratings.num_items + 1)
        for _ in range(FACTOR_ROUNDS):
            for user, places in enumerate(by_user):
                user_rows[user] = self._solve(self.item_rows[ratings.items[places]], centered[places], fixed=1)
            for item, places in enumerate(by_item):
                self.item_rows[item] = self._solve(user_rows[ratings.users[places]], centered[places], fixed=0)

    @staticmethod
    def _solve(partners: FloatArray, deviations: FloatArray, fixed: int) -> FloatArray:
        """The row that fits the deviations best, its column `fixed` 1. partners: [n, 2 + F], deviations: [n]."""
        row = np.zeros(partners.shape[1])
        row[fixed] = 1
        if len(deviations):
            free = np.arange(len(row)) != fixed
            basis, left = partners[:, free], deviations - partners[:, fixed]
            penalty = FACTOR_PENALTY * len(left) * np.eye(basis.shape[1])
            row[free] = np.linalg.solve(basis.T @ basis + penalty, basis.T @ left)
        return row

    def __call__(self, queries: Sequence[RatingQuery]) -> Tensor:
        rated = []
        for query in queries:
            items, deviations = rated_history(query, self.mean)
            user = self._solve(self.item_rows[items], deviations, fixed=1)
            rated.append(self.mean + self.item_rows[known(query.targets)] @ user)
        return torch.from_numpy(np.concatenate(rated)).float()


def known(items: IntArray) -> IntArray:
    """The row of each item; 0, whose bias and factors are 0, for one outside the vocabulary."""
    return np.maximum(items, 0)


def rated_history(query: RatingQuery, mean: float) -> tuple[IntArray, FloatArray]:
    """(items that the user rated, the ratings' deviation from the mean), each [n]."""
    ratings = query.history.ratings
    assert ratings is not None, "rating queries hold ratings"
    rated = ~np.isnan(ratings)
    return query.history.items[rated].astype(np.int64), ratings[rated].astype(np.float64) - mean


def _groups(owner: IntArray, size: int) -> list[IntArray]:
    """The places of each owner 0..size - 1."""
    return np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=size))[:-1])


def make_rating_baselines(dataset: Dataset) -> dict[str, Rater]:
    """Name -> rater, each from the training part alone."""
    ratings = training_ratings(dataset)
    return {
        "global_mean": MeanRater(ratings),
        "user_item_bias": BiasRater(ratings),
        "matrix_factorization": FactorRater(ratings),
    }
