"""The pair table equals a plain loop, and keeps to its limits."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load, save

from mgray.data.dataset import Dataset
from mgray.data.pair_table import DISTANCE_WEIGHTS, MAX_DISTANCE, Limits, PairTable, count_pairs
from mgray.schema import UNKNOWN
from tests.datasets import write_dataset

SMALL = Limits(in_memory=40)  # items above it, and ranges of several items


def make_log() -> pl.DataFrame:
    """60 users of 2 to 30 events over 25 items, the first of which is in half of the events."""
    random = np.random.default_rng(3)
    rows = []
    for user in range(60):
        for time in range(int(random.integers(2, 31))):
            item = 0 if random.random() < 0.5 else int(random.integers(1, 25))
            rows.append((f"u{user}", f"i{item}", 1e9 + time * 3600.0))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", make_log(), 3, min_item_count=18)


def plain_pairs(dataset: Dataset, include_valid: bool = False) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], float] = defaultdict(float)
    for shard in range(dataset.num_shards):
        histories = dataset.read(shard)
        for row in range(len(histories.user_ids)):
            end = histories.valid_end[row] if include_valid else histories.train_end[row]
            items = [item for item in histories.row(row).items[:end].tolist() if item != UNKNOWN]
            for place, item in enumerate(items):
                for distance, successor in enumerate(items[place + 1 : place + 1 + MAX_DISTANCE], start=1):
                    found[item, successor] += distance**-0.5
    return found


def as_dict(table: PairTable) -> dict[tuple[int, int], float]:
    pairs = table.csr().tocoo()
    return dict(zip(zip(pairs.row.tolist(), pairs.col.tolist(), strict=True), pairs.data.tolist(), strict=True))


@pytest.mark.parametrize("include_valid", [False, True])
@pytest.mark.parametrize("limits", [Limits(), SMALL])
def test_pairs_are_those_of_a_plain_loop(dataset: Dataset, include_valid: bool, limits: Limits) -> None:
    assert dataset.manifest.cold_items, "an unknown item is passed over"
    table = count_pairs(dataset, include_valid, limits)
    assert as_dict(table) == pytest.approx(plain_pairs(dataset, include_valid), rel=1e-6)
    assert (table.share, table.num_found) == (1.0, len(table.items))
    assert (table.offsets[:2] == 0).all(), "padding has no successor"
    assert all((np.diff(table.csr()[item].indices) > 0).all() for item in range(1, dataset.num_items + 1))


def test_a_pair_by_hand(tmp_path: Path) -> None:
    rows = [("u", item, 1e9 + place) for place, item in enumerate(["a", "b", "a", "b", "c", "c"])]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    table = count_pairs(write_dataset(tmp_path / "version", log, 1))  # a b a b train
    weights = {("a", "a"): 2**-0.5, ("a", "b"): 1 + 1 + 3**-0.5, ("b", "a"): 1.0, ("b", "b"): 2**-0.5}
    number = {"a": 1, "b": 2}
    assert as_dict(table) == pytest.approx({(number[x], number[y]): weight for (x, y), weight in weights.items()})


def test_an_item_keeps_its_best_successors(dataset: Dataset) -> None:
    whole = count_pairs(dataset)
    for limits in (Limits(successors=4), Limits(successors=4, in_memory=40)):
        table = count_pairs(dataset, limits=limits)
        for item in range(1, dataset.num_items + 1):
            row = whole.csr()[item]
            best = np.lexsort((row.indices, -row.data))[:4]
            assert table.csr()[item].indices.tolist() == sorted(row.indices[best].tolist())
        assert (table.max_successors, table.num_found) == (4, len(whole.items))


@pytest.mark.parametrize("in_memory", [40, 2**20])
def test_all_items_keep_fewer_where_the_table_would_be_too_large(dataset: Dataset, in_memory: int) -> None:
    whole = count_pairs(dataset)
    table = count_pairs(dataset, limits=Limits(pairs=50, in_memory=in_memory))
    lengths = np.diff(whole.offsets)
    most = table.max_successors
    assert len(table.items) == np.minimum(lengths, most).sum() <= 50 < np.minimum(lengths, most + 1).sum()
    expected = count_pairs(dataset, limits=Limits(successors=most))
    assert np.array_equal(table.items, expected.items)
    assert np.array_equal(table.weights, expected.weights)


def test_of_a_log_that_takes_too_long_a_share_is_counted(dataset: Dataset) -> None:
    total = sum(plain_pairs(dataset).values())
    num_pairs = sum(
        min(MAX_DISTANCE, length - 1 - place)
        for lengths in dataset.train_lengths()
        for length in lengths.tolist()
        for place in range(length)
    )
    limits = Limits(counted=num_pairs // 2)
    table, again = count_pairs(dataset, limits=limits), count_pairs(dataset, limits=limits)
    assert table.share == limits.counted / num_pairs
    assert np.array_equal(table.weights, again.weights)
    assert 0.25 < table.weights.sum() / total < 0.75
    assert count_pairs(dataset, limits=Limits(counted=num_pairs)).share == 1.0


def test_a_table_goes_through_safetensors(dataset: Dataset) -> None:
    table = count_pairs(dataset, limits=Limits(successors=4))
    read = PairTable.from_arrays(load(save(table.arrays())))
    for name, array in table.arrays().items():
        assert np.array_equal(array, read.arrays()[name]), name
    assert [one.dtype for one in read[:3]] == [np.int64, np.int32, np.float32]


def test_a_log_without_pairs(tmp_path: Path) -> None:
    log = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [1e9, 2e9]})
    table = count_pairs(write_dataset(tmp_path / "version", log, 1))
    assert table.offsets.tolist() == [0, 0, 0, 0]
    assert table.csr().nnz == 0
    assert len(DISTANCE_WEIGHTS) == MAX_DISTANCE
