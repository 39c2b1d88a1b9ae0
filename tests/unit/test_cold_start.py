"""Cold start is measured on what a service would know, no more."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from benchmarks._cold_start import measure_cold_start, measure_new_users, new_user_queries, newest, without_items
from mgray.config import EvaluateConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Query
from mgray.schema import UNKNOWN
from mgray.serve.scorer import HistoryList
from tests.datasets import write_dataset

NUM_ITEMS = 40
COUNTS = np.arange(NUM_ITEMS + 1)


def query(items: list[int], target: int) -> Query:
    history = Columns(np.asarray(items, np.int32), times=np.arange(len(items), dtype=np.float64))
    return Query("u", history, target)


class ReadsFarBack:
    """Puts the successor of the fourth last item first: right where four events are known, a miss where fewer are."""

    def __call__(self, histories: HistoryList) -> Tensor:
        scores = torch.rand(len(histories), NUM_ITEMS + 1, generator=torch.Generator().manual_seed(0))
        scores[:, 0] = -torch.inf
        for row, history in enumerate(histories):
            if len(history) >= 4:
                scores[row, int(history.items[-4]) % NUM_ITEMS + 1] = 2.0
        return scores


def test_the_newest_events_stay_in_every_column() -> None:
    short = newest(query([7, 8, 9], 10), 2)
    assert short.history.items.tolist() == [8, 9]
    assert short.history.times.tolist() == [1, 2]
    assert short.target == 10


def test_hidden_items_have_no_number() -> None:
    hidden = np.zeros(NUM_ITEMS + 1, bool)
    hidden[[8, 10]] = True
    assert without_items(query([7, 8, 9], 10), hidden).target == UNKNOWN
    shown = without_items(query([7, 8, 9], 11), hidden)
    assert (shown.history.items.tolist(), shown.history.times.tolist(), shown.target) == ([7, 9], [0, 2], 11)
    assert without_items(query([7], UNKNOWN), hidden).target == UNKNOWN


def test_quality_grows_with_what_the_scorer_can_read() -> None:
    random = np.random.default_rng(0)
    histories = [random.integers(1, NUM_ITEMS + 1, 12).tolist() for _ in range(200)]
    queries = [query(items, items[-4] % NUM_ITEMS + 1) for items in histories]
    options = EvaluateConfig(k=1, remove_seen=False)
    result = measure_cold_start(ReadsFarBack(), [*queries, query([1, 2], 3)], COUNTS, options)
    assert result.num_queries == 200
    assert {length: metrics["hr@1"] == 1 for length, metrics in result.by_length.items()} == {
        "1": False,
        "2": False,
        "5": True,
        "10": True,
        "all": True,
    }
    # a tenth hidden: a hit needs its target and its last four events shown, 0.9**5 = 0.59, and scatters by 0.035
    assert result.by_hidden_share["0"]["hr@1"] == pytest.approx(200 / 201)
    assert result.by_hidden_share["0.1"]["hr@1"] == pytest.approx(0.59, abs=0.15)
    assert result.by_hidden_share["0.3"]["hr@1"] < result.by_hidden_share["0.1"]["hr@1"]


def test_new_users_are_those_that_began_after_training(tmp_path: Path) -> None:
    # The first eight tenths are trained on, all of `old`, who comes back once; `new` begins behind them.
    events = [("old", f"i{n % 10}", n) for n in range(85)] + [("new", f"i{n % 10}", 100 + n) for n in range(20)]
    log = pl.DataFrame([*events, ("old", "i3", 200)], schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset = write_dataset(tmp_path / "data", log, split="temporal")
    queries = list(new_user_queries(dataset))
    assert {query.user_id for query in queries} == {"new"}
    assert [query.user_id for query in dataset.queries("test")].count("old") == 1
    assert len(queries) == sum(query.user_id == "new" for query in dataset.queries("test"))


class MissesAll:
    """Puts an item first that no target is."""

    def __call__(self, histories: HistoryList) -> Tensor:
        scores = torch.zeros(len(histories), NUM_ITEMS + 1)
        scores[:, 0] = -torch.inf
        scores[:, NUM_ITEMS] = 1.0
        return scores


def test_new_users_are_measured_by_what_is_known_of_them() -> None:
    histories = [[5, 6, 7, 8][:known] for known in range(5)]
    queries = [query(items, items[-4] % NUM_ITEMS + 1 if len(items) == 4 else UNKNOWN) for items in histories]
    options = EvaluateConfig(k=1, remove_seen=False)
    found = measure_new_users({"far": ReadsFarBack(), "none": MissesAll()}, queries, COUNTS, options)
    assert {label: row["far"]["count"] for label, row in found.items()} == {"0": 1, "1": 1, "2-4": 3}
    assert {label: row["far"]["hr@1"] for label, row in found.items()} == {"0": 0, "1": 0, "2-4": pytest.approx(1 / 3)}
    assert {row["none"]["hr@1"] for row in found.values()} == {0}
