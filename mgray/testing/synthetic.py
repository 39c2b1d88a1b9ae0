"""Made-up logs whose structure is known: what a sequence model can learn of them, and how much there is to learn.

`SparseShop` and `DenseHabits` are unlike worlds: short histories over a large catalogue, and long ones over a small one
whose next item depends on three time scales. In both the probability of the next item is a known function of the
history, so ranking by it is the best that any model can do: `OracleScorer` measures that on a dataset of the log.

Legend: `U` users, `V` items, `S` successors of an item, `G` groups of items. Items are numbered from 0 here.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from mgray.schema import ITEM_ID, PAD, RATING, TIMESTAMP, USER_ID
from mgray.serve.scorer import HistoryList

SECONDS_BETWEEN_EVENTS = 60.0
FIRST_TIME = 1_600_000_000.0
GROUP_SIZE = 50  # items of a category or genre, which are neighbours by number
ZIPF_EXPONENT = 0.8

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def make_log(num_users: int, num_items: int, seed: int = 0, mean_events: int = 20) -> pl.DataFrame:
    """A log of `num_users` walks over a ring of items: columns user_id, item_id, timestamp (s), rating (1-5).

    From item `i` a user goes on to `i + 1` four times in five, else jumps anywhere: the next item is predictable,
    though every item is about equally popular. Histories hold 3 events at least.
    """
    random = np.random.default_rng(seed)
    lengths = 3 + random.poisson(mean_events - 3, num_users)
    owner = np.repeat(np.arange(num_users), lengths)
    first = np.concatenate([[True], owner[1:] != owner[:-1]])
    jump = first | (random.random(len(owner)) < 0.2)
    # Between two jumps the walk counts up, so an item is its stretch's start plus the distance from it.
    stretch = np.cumsum(jump) - 1
    position = np.arange(len(owner))
    start_position = position[jump][stretch]
    start_item = random.integers(0, num_items, jump.sum())[stretch]
    items = (start_item + position - start_position) % num_items
    rank = position - position[first][owner]
    timestamps = 1_600_000_000 + owner * 7.0 + rank * SECONDS_BETWEEN_EVENTS
    return pl.DataFrame(
        {
            USER_ID: [f"u{user}" for user in owner],
            ITEM_ID: [f"i{item}" for item in items],
            TIMESTAMP: timestamps,
            RATING: random.integers(1, 6, len(owner)).astype(np.float32),
        }
    )


class World(Protocol):
    num_items: int

    def probabilities(self, histories: Sequence[Ints]) -> Floats:
        """T histories of items, oldest first -> probability of each item to be next, [T, V], seen items not yet out."""


class OracleScorer:
    """Ranks by the true probabilities: no model of the log has higher expected metrics, seen items removed."""

    def __init__(self, world: World, item_ids: Sequence[str]) -> None:
        """item_ids: the dataset's, of item i at index i - 1."""
        self.world = world
        self.items = np.asarray([-1, *(int(item_id.removeprefix("i")) for item_id in item_ids)])

    def __call__(self, histories: HistoryList) -> Tensor:
        """T histories of a dataset of the world's log -> scores [T, V + 1]; padding scores minus infinity."""
        scores = self.world.probabilities([self.items[history.items] for history in histories])[:, self.items]
        scores[:, PAD] = -np.inf
        return torch.from_numpy(scores)


class _Popularity:
    """Zipf's law over the catalogue, the ranks in random order; draws from all of it or from one group."""

    def __init__(self, num_items: int, random: np.random.Generator) -> None:
        weights = (1.0 + random.permutation(num_items)) ** -ZIPF_EXPONENT
        self.share = weights / weights.sum()
        self._before = np.concatenate([[0.0], np.cumsum(self.share)])
        self.group_share = self.share.reshape(-1, GROUP_SIZE)
        self.group_share = self.group_share / self.group_share.sum(1, keepdims=True)  # [G, GROUP_SIZE] within a group

    def draw(self, num: int, random: np.random.Generator) -> Ints:
        return self._at(random.random(num))

    def draw_within(self, groups: Ints, random: np.random.Generator) -> Ints:
        low, high = self._before[groups * GROUP_SIZE], self._before[(groups + 1) * GROUP_SIZE]
        return np.clip(self._at(low + random.random(len(groups)) * (high - low)), groups * GROUP_SIZE, None)

    def _at(self, quantiles: Floats) -> Ints:
        return np.minimum(np.searchsorted(self._before, quantiles, side="right") - 1, len(self.share) - 1)


def _draw_rows(shares: Floats, random: np.random.Generator) -> Ints:
    """One index of each row of [N, M] shares, which sum to 1 over M."""
    found: Ints = (random.random((len(shares), 1)) > np.cumsum(shares, axis=1)[:, :-1]).sum(1)
    return found


def _walk(
    lengths: Ints, draw: Callable[[Ints, Ints], Ints], on_event: Callable[[Ints, Ints], None] | None = None
) -> Ints:
    """Histories [U, longest], -1 past a user's end: `draw(users, last items)` again wherever a user has the item.

    The first event's last item is -1. on_event: told users and their items after each step.
    """
    items = np.full((len(lengths), int(lengths.max())), -1, np.int64)
    for step in range(items.shape[1]):
        missing = users = np.flatnonzero(lengths > step)
        while len(missing):
            last = items[missing, step - 1] if step else np.full(len(missing), -1)
            drawn = draw(missing, last)
            is_new = ~(items[missing, :step] == drawn[:, None]).any(1)
            items[missing[is_new], step] = drawn[is_new]
            missing = missing[~is_new]
        if on_event is not None:
            on_event(users, items[users, step])
    return items


def _as_log(items: Ints, gaps: Floats, starts: Floats) -> pl.DataFrame:
    """items, gaps (s) before each event: [U, longest]; starts: [U] (s)."""
    times = starts[:, None] + np.cumsum(gaps, axis=1)
    user, place = np.nonzero(items >= 0)
    return pl.DataFrame(
        {
            USER_ID: [f"u{number}" for number in user],
            ITEM_ID: [f"i{item}" for item in items[user, place]],
            TIMESTAMP: np.round(times[user, place]),
        }
    )


class SparseShop:
    """A large catalogue and short histories, of 3 events and a geometric rest: most items have a handful of events.

    The next item is, with probability 0.45, one of the last item's 4 successors (0.5, 0.25, 0.15, 0.1); 0.35, one of
    3 categories that follow its category (0.6, 0.3, 0.1), by popularity within it; 0.2, any item by popularity.
    Counting pairs finds the first part where data is plenty; the second asks to learn what items have in common.
    Nobody takes an item twice.
    """

    WEIGHTS = (0.45, 0.35, 0.2)
    SUCCESSOR_WEIGHTS = np.array([0.5, 0.25, 0.15, 0.1])
    CATEGORY_WEIGHTS = np.array([0.6, 0.3, 0.1])

    def __init__(self, num_items: int = 20_000, mean_events: float = 8.0, seed: int = 0) -> None:
        """num_items: a multiple of GROUP_SIZE."""
        random = np.random.default_rng([seed, 1])
        num_groups = num_items // GROUP_SIZE
        self.num_items, self.mean_events, self.seed = num_items, mean_events, seed
        self.popularity = _Popularity(num_items, random)
        self.successors = random.integers(0, num_items, (num_items, len(self.SUCCESSOR_WEIGHTS)))
        self.next_groups = random.integers(0, num_groups, (num_groups, len(self.CATEGORY_WEIGHTS)))

    def make_log(self, num_users: int) -> pl.DataFrame:
        """Columns user_id, item_id, timestamp (s since 1970)."""
        random = np.random.default_rng([self.seed, 2])
        lengths = 2 + random.geometric(1 / (self.mean_events - 2), num_users)
        lengths = np.minimum(lengths, 50)

        def draw(users: Ints, last: Ints) -> Ints:
            count = len(users)
            source = random.choice(3, count, p=self.WEIGHTS)
            followed = self.successors[last, random.choice(4, count, p=self.SUCCESSOR_WEIGHTS)]
            groups = self.next_groups[last // GROUP_SIZE, random.choice(3, count, p=self.CATEGORY_WEIGHTS)]
            related = self.popularity.draw_within(groups, random)
            anything = self.popularity.draw(count, random)
            return np.where(last < 0, anything, np.choose(source, [followed, related, anything]))

        items = _walk(lengths, draw)
        gaps = random.exponential(86_400.0, items.shape)
        return _as_log(items, gaps, FIRST_TIME + random.random(num_users) * 86_400 * 365)

    def probabilities(self, histories: Sequence[Ints]) -> Floats:
        """T histories of items, oldest first -> probability of each item to be next, [T, V], seen items not yet out."""
        last = np.asarray([history[-1] if len(history) else -1 for history in histories], dtype=np.int64)
        found = np.tile(self.popularity.share, (len(histories), 1))
        rows = np.flatnonzero(last >= 0)
        found[rows] *= self.WEIGHTS[2]
        for place, weight in enumerate(self.SUCCESSOR_WEIGHTS):
            found[rows, self.successors[last[rows], place]] += self.WEIGHTS[0] * weight
        within = np.arange(GROUP_SIZE)
        for place, weight in enumerate(self.CATEGORY_WEIGHTS):
            groups = self.next_groups[last[rows] // GROUP_SIZE, place]
            columns = groups[:, None] * GROUP_SIZE + within
            found[rows[:, None], columns] += self.WEIGHTS[1] * weight * self.popularity.group_share[groups]
        return found


class DenseHabits:
    """A small catalogue and long histories, whose next item depends on the last event, the last dozen and hundreds.

    The next item is, with probability 0.2, one of the last item's 5 successors (0.4, 0.25, 0.15, 0.1, 0.1); 0.35, of a
    genre drawn by its share of the user's last events (each weighs exp(-age / 12)); 0.35, of one drawn by its share of
    a longer past (exp(-age / 200)); 0.1, any item; by popularity each. So users grow tastes of their own at two time
    scales (a Polya urn that forgets), and nothing hidden is left: the shares follow from the history. Nobody takes an
    item twice.
    """

    WEIGHTS = (0.2, 0.35, 0.35, 0.1)
    SUCCESSOR_WEIGHTS = np.array([0.4, 0.25, 0.15, 0.1, 0.1])
    TIME_SCALES = (12.0, 200.0)  # events

    def __init__(self, num_items: int = 2_000, mean_events: float = 200.0, seed: int = 0) -> None:
        """num_items: a multiple of GROUP_SIZE; mean_events: of a history, at most num_items / 5."""
        random = np.random.default_rng([seed, 1])
        self.num_items, self.mean_events, self.seed = num_items, mean_events, seed
        self.num_groups = num_items // GROUP_SIZE
        self.popularity = _Popularity(num_items, random)
        self.successors = random.integers(0, num_items, (num_items, len(self.SUCCESSOR_WEIGHTS)))

    def make_log(self, num_users: int) -> pl.DataFrame:
        """Columns user_id, item_id, timestamp (s since 1970)."""
        random = np.random.default_rng([self.seed, 2])
        lengths = np.maximum(3, random.gamma(4.0, self.mean_events / 4, num_users)).astype(np.int64)
        lengths = np.minimum(lengths, self.num_items // 2)
        taste = np.zeros((len(self.TIME_SCALES), num_users, self.num_groups))

        def draw(users: Ints, last: Ints) -> Ints:
            count = len(users)
            anything = self.popularity.draw(count, random)
            if last[0] < 0:
                return anything
            source = random.choice(4, count, p=self.WEIGHTS)
            followed = self.successors[last, random.choice(5, count, p=self.SUCCESSOR_WEIGHTS)]
            shares = taste[:, users] / taste[:, users].sum(2, keepdims=True)
            near, far = (self.popularity.draw_within(_draw_rows(share, random), random) for share in shares)
            return np.choose(source, [followed, near, far, anything])

        def on_event(users: Ints, items: Ints) -> None:
            for scale, time_scale in enumerate(self.TIME_SCALES):
                taste[scale, users] *= np.exp(-1 / time_scale)
                taste[scale, users, items // GROUP_SIZE] += 1

        items = _walk(lengths, draw, on_event)
        gaps = random.exponential(3_600.0, items.shape)
        return _as_log(items, gaps, FIRST_TIME + random.random(num_users) * 86_400 * 30)

    def probabilities(self, histories: Sequence[Ints]) -> Floats:
        """T histories of items, oldest first -> probability of each item to be next, [T, V], seen items not yet out."""
        return np.stack([self._probabilities(history) for history in histories])

    def _probabilities(self, history: Ints) -> Floats:
        if not len(history):
            by_popularity: Floats = self.popularity.share
            return by_popularity
        found: Floats = self.WEIGHTS[3] * self.popularity.share
        np.add.at(found, self.successors[history[-1]], self.WEIGHTS[0] * self.SUCCESSOR_WEIGHTS)
        age = np.arange(len(history))[::-1]
        for weight, time_scale in zip(self.WEIGHTS[1:3], self.TIME_SCALES, strict=True):
            taste = np.bincount(history // GROUP_SIZE, np.exp(-age / time_scale), self.num_groups)
            found += weight * (taste[:, None] / taste.sum() * self.popularity.group_share).ravel()
        return found
