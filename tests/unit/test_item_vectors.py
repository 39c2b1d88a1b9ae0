"""Items start near those that they stand near."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

from mgray.config import TrainConfig
from mgray.data import cooccurrence
from mgray.data.cooccurrence import pair_counts
from mgray.data.dataset import Dataset
from mgray.model.mgdsc import MGDSC
from mgray.train import item_init
from mgray.train.item_init import factors, positive_pmi, start_items_
from tests.datasets import write_dataset
from tests.models import model_config

WIDTH = 8
GROUP = 20  # items
COOCCURRENCE, RANDOM = TrainConfig(item_init="cooccurrence"), TrainConfig(item_init="random")


def test_pairs_by_hand(tmp_path: Path) -> None:
    """Training part a b a c (the last two events are held out): a->b 1, a->a 1/2, b->a 1, a->c 1 + 1/3, b->c 1/2."""
    items = ["a", "b", "a", "c", "x", "y"]
    log = pl.DataFrame({"user_id": ["u"] * 6, "item_id": items, "timestamp": np.arange(6.0), "rating": [1.0] * 6})
    dataset = write_dataset(tmp_path / "v", log, num_shards=1)
    number = {item: i for i, item in enumerate(dataset.item_ids, start=1)}
    counts = pair_counts(dataset, (1, 1 / 2, 1 / 3)).toarray()
    pairs = {(a, b): counts[number[a], number[b]] for a in "abc" for b in "abc"}
    expected = {("a", "b"): 1, ("a", "a"): 1 / 2, ("b", "a"): 1, ("a", "c"): 4 / 3, ("b", "c"): 1 / 2}
    assert pairs == pytest.approx({pair: expected.get(pair, 0) for pair in pairs})


def test_mutual_information_by_hand() -> None:
    """Totals 4, 5, 3, pairs of an item with itself left out: log(count * sum of roots / (total * other's root))."""
    counts = sparse.csr_matrix(np.array([[7.0, 3, 1], [3, 0, 2], [1, 2, 0]]))  # the 7 is an item beside itself
    total = np.array([4.0, 5.0, 3.0])
    context = np.sqrt(total)

    def information(row: int, column: int, count: float) -> float:
        return max(0.0, np.log(count * context.sum() / (total[row] * context[column])))

    found = positive_pmi(counts).toarray()
    for row, column, count in ((0, 1, 3.0), (0, 2, 1.0), (1, 2, 2.0)):
        expected = (information(row, column, count) + information(column, row, count)) / 2
        assert found[row, column] == pytest.approx(expected)
        assert found[column, row] == pytest.approx(expected)
    assert np.diagonal(found).tolist() == [0, 0, 0]
    assert found[0, 1] > 0


@pytest.mark.parametrize(("size", "rank"), [(200, 5), (12, 6), (4, 7)], ids=["some of many", "half", "beyond the rank"])
def test_factors_are_the_best_of_their_rank(size: int, rank: int) -> None:
    """No product of their rank is nearer than that of the largest eigenvalues (Eckart & Young 1936)."""
    given = np.random.default_rng(0).random((size, size))
    matrix = given + given.T
    found = factors(sparse.csr_matrix(matrix), rank)
    assert found.shape == (size, rank)
    values, vectors = np.linalg.eigh(matrix)
    values[: max(0, size - rank)] = 0
    best = vectors * np.maximum(values, 0) @ vectors.T
    assert np.linalg.norm(matrix - found @ found.T) <= 1.01 * np.linalg.norm(matrix - best)


def test_a_log_without_pairs_has_no_factors() -> None:
    assert not factors(sparse.csr_matrix((400, 400)), 8).any()


def test_the_same_pairs_give_the_same_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle has each eigenvalue twice, where Lanczos' method begins anew at random; and one that runs out of
    restarts gives what it has found."""
    cycle = sparse.diags_array([1.0] * 99, offsets=1, shape=(100, 100)).tolil()
    cycle[0, 99] = 1
    matrix = sparse.csr_matrix(cycle + cycle.T)
    np.testing.assert_array_equal(factors(matrix, 6), factors(matrix, 6))
    assert factors(matrix, 6).any()
    monkeypatch.setattr(item_init, "MAX_RESTARTS", 1)
    monkeypatch.setattr(item_init, "TOLERANCE", 1e-12)
    assert factors(matrix, 6).shape == (100, 6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users of two tastes, each with a group of items of its own."""
    source = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"{'ab'[user % 2]}{item}", time)
        for user in range(200)
        for time, item in enumerate(source.permutation(GROUP)[:10])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return write_dataset(tmp_path_factory.mktemp("tastes") / "v", log)


def make_model(dataset: Dataset) -> MGDSC:
    torch.manual_seed(0)
    return MGDSC(model_config(width=WIDTH, heads=2), dataset.num_items)


def started(dataset: Dataset, config: TrainConfig = COOCCURRENCE) -> torch.Tensor:
    model = make_model(dataset)
    start_items_(model, dataset, config)
    return model.embedding.weight.detach().clone()


def test_items_of_one_taste_start_near_each_other(dataset: Dataset) -> None:
    table = started(dataset)
    assert table[0].tolist() == [0.0] * WIDTH
    assert table[1:].square().sum(1).mean().sqrt() == pytest.approx(1, abs=0.1)
    unit = torch.nn.functional.normalize(table[1:], dim=1)
    same = torch.tensor([[a[0] == b[0] for b in dataset.item_ids] for a in dataset.item_ids])
    same.fill_diagonal_(fill_value=False)
    near = unit @ unit.T
    other = torch.tensor([[a[0] != b[0] for b in dataset.item_ids] for a in dataset.item_ids])
    assert near[same].mean() > near[other].mean() + 0.3
    torch.testing.assert_close(started(dataset), table, rtol=0, atol=0)


def test_random_items_stay_as_they_were(dataset: Dataset) -> None:
    torch.testing.assert_close(started(dataset, RANDOM), make_model(dataset).embedding.weight, rtol=0, atol=0)


def test_what_a_large_log_is_cut_to(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log too large: some users are counted. A catalogue too large: the rarest items start at random."""
    whole = pair_counts(dataset, item_init.WEIGHTS).sum()
    assert 0.3 < pair_counts(dataset, item_init.WEIGHTS, share=0.5).sum() / whole < 0.7
    monkeypatch.setattr(item_init, "MAX_PAIRS", dataset.manifest.train_events * item_init.WINDOW // 2)
    monkeypatch.setattr(item_init, "MAX_ITEMS", 10)
    item_init._start_vectors.cache_clear()  # of another test's limits
    items, vectors = item_init.item_vectors(dataset, WIDTH)
    assert vectors.shape == (10, WIDTH)
    counts = dataset.item_counts[1:]
    assert counts[items - 1].min() >= np.sort(counts)[-10]
    table, random = started(dataset), make_model(dataset).embedding.weight
    item_init._start_vectors.cache_clear()
    others = np.setdiff1d(np.arange(1, dataset.num_items + 1), items)
    torch.testing.assert_close(table[others], random[others])
    assert not torch.isclose(table[items], random[items]).any()


def test_a_wide_model_starts_at_random_beyond_the_rank(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_init, "MAX_RANK", 3)
    _, vectors = item_init.item_vectors(dataset, WIDTH)
    assert vectors[:, :3].any(0).all()
    assert not vectors[:, 3:].any()


def test_pairs_are_the_same_however_they_are_merged(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pair_counts(dataset, item_init.WEIGHTS)
    monkeypatch.setattr(cooccurrence, "MERGED_PAIRS", 1)
    assert abs(whole - pair_counts(dataset, item_init.WEIGHTS)).max() < 1e-9


def test_pairs_of_chosen_items_are_those_of_all(dataset: Dataset) -> None:
    """Bit for bit: the weights of distances are eighths, whose sums are exact."""
    chosen = np.array([7, 2, 11])
    whole = pair_counts(dataset, item_init.WEIGHTS).toarray()
    found = pair_counts(dataset, item_init.WEIGHTS, chosen=chosen).toarray()
    assert found.any()
    np.testing.assert_array_equal(found, whole[chosen][:, chosen])
