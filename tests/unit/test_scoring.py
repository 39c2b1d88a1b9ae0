"""Whole-array scoring equals the scorer called on one history after another; its pieces by hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from mgray.data.columns import Columns, concatenate
from mgray.data.item_numbers import number_map
from mgray.data.padding import flat_places, left_pad, plan_batches
from mgray.errors import InputError
from mgray.model.mgdsc import MGDSC
from mgray.schema import PREDICTION_SCHEMA, UNKNOWN
from mgray.serve.score_blocks import whole
from mgray.serve.scorer import ModelScorer
from mgray.serve.top_k import RankedLists, pad_rows, prediction_table, rank_lists
from tests.models import model_config

NUM_ITEMS = 30
LENGTHS = [3, 0, 25, 1, 40, 8]
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])


@pytest.fixture(scope="module")
def scorer() -> ModelScorer:
    torch.manual_seed(0)
    model = MGDSC(model_config(width=8, granularities=(1, 4), heads=2), NUM_ITEMS)
    return ModelScorer(model, np.arange(NUM_ITEMS + 1), 16, torch.device("cpu"))


@pytest.fixture(scope="module")
def columns() -> Columns:
    return Columns(np.random.default_rng(0).integers(1, NUM_ITEMS + 1, OFFSETS[-1]).astype(np.int32))


def test_numbers_of_another_vocabulary() -> None:
    numbers = number_map(["a", "b", "c"], ["c", "x", "a"])
    assert numbers.tolist() == [UNKNOWN, 3, UNKNOWN, 1, UNKNOWN]


def test_a_vocabulary_of_an_earlier_rule_of_ids_is_known() -> None:
    """The id as it stands first, then as it is spelled now."""
    assert number_map(["NULL", ""], ["\\N", "x"]).tolist() == [UNKNOWN] * 4, "what is no id is nobody else's"
    older = ["7.0", "7", " x", "9.00"]
    assert number_map(["7", "x", "9", "8"], older).tolist() == [UNKNOWN, 2, 3, 4, UNKNOWN, UNKNOWN]
    assert number_map(older, ["9", "x", "7"]).tolist() == [UNKNOWN, 3, 3, 2, 1, UNKNOWN]


def test_batches_hold_like_lengths_within_both_budgets() -> None:
    lengths = np.array([3, 20, 17, 9, 0, 8])
    # padded lengths 8, 24, 24, 16, 8, 8; longest first, at most 48 padded events and 2 rows
    assert [batch.tolist() for batch in plan_batches(lengths, 48, 2)] == [[1, 2], [3, 5], [0, 4]]
    assert [batch.tolist() for batch in plan_batches(lengths, 1, 9)] == [[1], [2], [3], [5], [0], [4]]
    assert list(plan_batches(np.zeros(0, np.int64), 48, 2)) == []


def test_padding_equals_that_of_the_scorer(columns: Columns) -> None:
    rows = np.array([4, 1, 0])
    histories = [columns.take(slice(OFFSETS[row], OFFSETS[row + 1])) for row in rows]
    padded = pad_rows(columns, OFFSETS, rows, 16).items
    assert torch.equal(padded, left_pad(histories, 16).items)
    assert padded[:, -3:].tolist() == [histories[0].items[-3:].tolist(), [0, 0, 0], histories[2].items.tolist()]
    nothing = pad_rows(Columns(np.zeros(0, np.int32)), np.zeros(3, np.int64), np.array([0, 1]), 16)
    assert torch.equal(nothing.items, torch.zeros(2, 1, dtype=torch.int64))
    owner, places = flat_places(OFFSETS[rows], OFFSETS[rows + 1])
    assert owner.tolist() == [0] * 40 + [2] * 3
    assert np.array_equal(columns.items[places], concatenate(histories).items)


@pytest.mark.parametrize("batch_events", [1, 40, 10_000])
def test_lists_equal_one_history_after_another(scorer: ModelScorer, columns: Columns, batch_events: int) -> None:
    blocked = np.array([2, 7])
    lists = rank_lists(scorer, columns, OFFSETS, 5, True, blocked, batch_events)
    for row in range(len(LENGTHS)):
        history = columns.take(slice(OFFSETS[row], OFFSETS[row + 1]))
        scores = whole(scorer([history]))
        scores[0, history.items.astype(np.int64)] = -torch.inf
        scores[:, blocked] = -torch.inf
        top = scores.topk(5)
        finite = top.values[0] > -torch.inf
        assert np.array_equal(lists.items[row], torch.where(finite, top.indices[0], 0).numpy())
        torch.testing.assert_close(torch.from_numpy(lists.scores[row]), top.values[0])
    assert lists.is_fallback.tolist() == [length == 0 for length in LENGTHS]
    assert lists.items[1].tolist() == [30, 29, 28, 27, 26]  # the most popular: item i has i events


def test_a_list_ends_where_the_catalogue_does(scorer: ModelScorer) -> None:
    everything = Columns(np.arange(1, NUM_ITEMS + 1, dtype=np.int32))
    lists = rank_lists(scorer, everything.take(slice(28)), np.array([0, 28]), 1000)
    assert sorted(lists.items[0, :2].tolist()) == [29, 30]
    assert lists.lengths.tolist() == [2]
    assert rank_lists(scorer, everything, np.array([0, NUM_ITEMS]), 1000).lengths.tolist() == [0]


def test_a_model_of_nan_is_an_input_error(columns: Columns) -> None:
    model = MGDSC(model_config(width=8, granularities=(1,), heads=2), NUM_ITEMS)
    model.embedding.weight.data[5] = torch.nan
    with pytest.raises(InputError, match="not numbers"):
        rank_lists(ModelScorer(model, np.arange(NUM_ITEMS + 1), 16, torch.device("cpu")), columns, OFFSETS, 5)


def test_table_of_lists() -> None:
    lists = RankedLists(
        np.array([[2, 1], [0, 0], [3, 0]], np.int32),
        np.array([[0.5, 0.25], [-np.inf, -np.inf], [1.0, -np.inf]], np.float32),
        np.array([False, False, True]),
    )
    users = pa.array(["u", "v", "w"], pa.large_string())
    table = prediction_table(lists, users, pa.array(["a", "b", "c"], pa.large_string()))
    assert table.schema == PREDICTION_SCHEMA
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("u", "b", 1, 0.5),
        ("u", "a", 2, 0.25),
        ("w", "c", 1, 1.0),
    ]
