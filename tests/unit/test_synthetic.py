"""The worlds behave as their probabilities say, so the oracle's figures are the best that a model can reach."""

import numpy as np
import polars as pl
import pytest

from mgray.config import EvaluateConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset
from mgray.eval.baselines import make_baselines
from mgray.eval.ranking import evaluate, part_queries
from mgray.testing.synthetic import GROUP_SIZE, DenseHabits, OracleScorer, SparseShop
from tests.datasets import write_dataset

SHOP = SparseShop(num_items=1000, seed=3)
HABITS = DenseHabits(num_items=500, mean_events=60, seed=3)
WORLDS = pytest.mark.parametrize(("world", "num_users"), [(SHOP, 3000), (HABITS, 1200)], ids=["shop", "habits"])


def histories(log: pl.DataFrame) -> list[np.ndarray]:
    in_order = log.sort("user_id", "timestamp", maintain_order=True)
    items = in_order.select("user_id", pl.col("item_id").str.strip_prefix("i").cast(pl.Int64))
    return [group["item_id"].to_numpy() for _, group in items.group_by("user_id", maintain_order=True)]


@WORLDS
def test_a_log_is_made_by_its_seed(world: SparseShop | DenseHabits, num_users: int) -> None:
    log = world.make_log(100)
    assert log.equals(world.make_log(100))
    assert not log.equals(type(world)(world.num_items, world.mean_events, seed=4).make_log(100))
    assert log["user_id"].n_unique() == 100
    assert log["timestamp"].min() > 1.5e9


@WORLDS
def test_histories_are_as_long_as_said_and_hold_no_item_twice(world: SparseShop | DenseHabits, num_users: int) -> None:
    found = histories(world.make_log(num_users))
    assert min(len(history) for history in found) >= 3
    assert np.mean([len(history) for history in found]) == pytest.approx(world.mean_events, rel=0.1)
    assert all(len(set(history.tolist())) == len(history) for history in found)


@WORLDS
def test_probabilities_sum_to_one(world: SparseShop | DenseHabits, num_users: int) -> None:
    empty = np.zeros(0, np.int64)
    found = world.probabilities([empty, np.array([5]), np.arange(40, 90)])
    assert found.shape == (3, world.num_items)
    assert found.sum(1) == pytest.approx(1)
    assert (found > 0).all()


def test_the_shops_probabilities_by_hand() -> None:
    """A successor of item 7 in none of the categories that follow has 0.45 of its weight, and 0.2 of its popularity."""
    followers = {int(group) for group in SHOP.next_groups[7 // GROUP_SIZE]}
    place, item = next((i, int(s)) for i, s in enumerate(SHOP.successors[7]) if s // GROUP_SIZE not in followers)
    assert (SHOP.successors[7] == item).sum() == 1
    expected = 0.45 * SHOP.SUCCESSOR_WEIGHTS[place] + 0.2 * SHOP.popularity.share[item]
    assert SHOP.probabilities([np.array([1, 2, 7])])[0, item] == pytest.approx(expected)


def test_the_habits_probabilities_by_hand() -> None:
    """Of an item of another genre than the history's, and no successor, only its popularity is left."""
    history = np.arange(10)
    followed = set(HABITS.successors[9].tolist())
    other, own = (next(i for i in range(start, start + 50) if i not in followed) for start in (400, 0))
    found = HABITS.probabilities([history])[0]
    assert found[other] == pytest.approx(0.1 * HABITS.popularity.share[other])
    within = HABITS.popularity.group_share[0, own]
    assert found[own] == pytest.approx(0.1 * HABITS.popularity.share[own] + (0.35 + 0.35) * within)


@WORLDS
def test_events_come_as_often_as_their_probabilities_say(world: SparseShop | DenseHabits, num_users: int) -> None:
    """Calibration: of last events, as many are among the ten most probable as their probabilities promise."""
    found = histories(world.make_log(num_users))
    hits, promised = [], []
    for history in found:
        before, last = history[:-1], history[-1]
        chances = world.probabilities([before])[0]
        chances[before] = 0
        chances /= chances.sum()
        top = np.argsort(-chances)[:10]
        hits.append(last in top)
        promised.append(chances[top].sum())
    # a share of about 1/2 or 1/3 of n users scatters by less than 0.5 / sqrt(n): three deviations
    assert np.mean(hits) == pytest.approx(np.mean(promised), abs=1.5 / np.sqrt(num_users))


@pytest.fixture(scope="module")
def shop_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("shop") / "version", SHOP.make_log(3000))


@pytest.fixture(scope="module")
def habits_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("habits") / "version", HABITS.make_log(1200))


@pytest.mark.parametrize(("world", "name"), [(SHOP, "shop_dataset"), (HABITS, "habits_dataset")])
def test_the_oracle_is_ahead_of_counting(
    world: SparseShop | DenseHabits, name: str, request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(name)
    queries = part_queries(dataset, "test")
    scorers = {"oracle": OracleScorer(world, dataset.item_ids)} | make_baselines(dataset)
    ndcg = {
        name: evaluate(scorer, queries, dataset.item_counts, EvaluateConfig()).compute()["ndcg@10"]
        for name, scorer in scorers.items()
    }
    assert ndcg["oracle"] > 1.1 * ndcg["cooccurrence"] > 2 * ndcg["popularity"]


def test_long_histories_tell_more_than_their_last_event(habits_dataset: Dataset) -> None:
    oracle, queries = OracleScorer(HABITS, habits_dataset.item_ids), part_queries(habits_dataset, "test")

    def last_only(given: list[Columns]) -> object:
        return oracle([history.take(slice(-1, None)) for history in given])

    options = EvaluateConfig()
    whole = evaluate(oracle, queries, habits_dataset.item_counts, options).compute()["ndcg@10"]
    short = evaluate(last_only, queries, habits_dataset.item_counts, options).compute()["ndcg@10"]
    assert whole > 1.15 * short
