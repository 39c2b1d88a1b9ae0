"""The figures beside a model's, and what they tell of the log itself."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from mgray.config import EvaluateConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset, Query, is_drawn
from mgray.eval import baselines, measured_baselines
from mgray.eval.baselines import LAST_EVENTS, Chooser, CooccurrenceScorer, RepeatScorer, sparse_ranks
from mgray.eval.measured_baselines import MeasuredBaselines, evaluate_baselines, sample_share
from mgray.serve.catalogue import MISS
from mgray.serve.model_folder import Vocabulary
from mgray.serve.score_blocks import whole as whole_scores
from pipelines.evaluate.job import repeat_notes
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """40 users: half end on what they began with. All took `old` once, `new` is of the last days."""
    rows = []
    for user in range(40):
        items = ["old", f"own{user % 5}", "new" if user < 20 else "other", "mid", "old" if user % 2 else "last"]
        rows += [(f"u{user}", item, 1e9 + day * 86_400.0) for day, item in enumerate(items)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return write_dataset(tmp_path_factory.mktemp("data") / "version", log)


def test_targets_that_the_user_has_are_told(dataset: Dataset) -> None:
    (note,) = repeat_notes(evaluate_baselines(dataset, "test", EvaluateConfig()))
    assert note.startswith("50.0% of the 40 targets are items that the user has by then")
    assert "--evaluate.remove_seen false" in note
    assert repeat_notes(evaluate_baselines(dataset, "test", EvaluateConfig(remove_seen=False))) == []
    assert repeat_notes(evaluate_baselines(dataset, "valid", EvaluateConfig())) == []
    assert repeat_notes(MeasuredBaselines()) == []


def test_recent_popularity_is_what_a_model_falls_back_on(dataset: Dataset) -> None:
    recent = Vocabulary.of(dataset).popularity
    best = {dataset.item_ids[number - 1] for number in recent.argsort()[-2:]}
    assert best == {"new", "other"}, "those of the newest training day"
    found = evaluate_baselines(dataset, "valid", EvaluateConfig(k=2))
    assert set(found.metrics) == set(found.slices) == {"popularity", "popularity_recent", "cooccurrence"}
    assert (found.share, found.num_targets, found.failures) == (1.0, 40, {})
    assert found.notes() == []


def test_a_baseline_that_fails_costs_its_row(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_baselines(dataset, "test", EvaluateConfig(remove_seen=False))
    assert set(whole.metrics) == {"popularity", "popularity_recent", "cooccurrence", "repeats"}
    monkeypatch.setattr(baselines, "TAUS", ())  # nothing to choose from
    found = evaluate_baselines(dataset, "test", EvaluateConfig(remove_seen=False))
    assert set(found.failures) == {"cooccurrence"}
    assert found.metrics == {name: row for name, row in whole.metrics.items() if name != "cooccurrence"}
    (note,) = found.notes()
    assert note.startswith("baseline cooccurrence: no figures, for it failed: ")


def test_of_a_long_part_some_users_are_measured(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_baselines(dataset, "test", EvaluateConfig())
    monkeypatch.setattr(measured_baselines, "MAX_QUERIES", 20)
    found = evaluate_baselines(dataset, "test", EvaluateConfig())
    assert found.share == sample_share(dataset, "test") == 0.5
    assert found.num_targets == sum(is_drawn(f"u{user}", 0.5) for user in range(40)) < whole.num_targets == 40
    assert "50.00% of the users" in found.notes()[0]
    monkeypatch.setattr(measured_baselines, "MIN_QUERIES", 1)
    monkeypatch.setattr(measured_baselines, "MAX_SCORES", 4 * (dataset.num_items + 1))
    assert sample_share(dataset, "test") == 0.1


HISTORIES = [[1, 2, 1], [3], [], [2] * 60]


def columns(histories: list[list[int]]) -> list[Columns]:
    return [Columns(np.asarray(items, np.int32)) for items in histories]


def test_repeats_weigh_what_the_user_had_by_age() -> None:
    scores = whole_scores(RepeatScorer(np.asarray([0, 5, 9, 9]), 0.5)(columns(HISTORIES)))
    expected = np.zeros((4, 4))
    expected[0, [1, 2]] = [1 + 0.25, 0.5]  # item 1 is the last event and the last but two
    expected[1, 3] = 1
    expected[3, 2] = 2  # 1 + 1/2 + 1/4 + ...
    tie_break = np.asarray([-np.inf, 0.5e-6, 0.9e-6, 0.9e-6])
    np.testing.assert_allclose(scores.numpy(), expected + tie_break, rtol=1e-6)


def test_cooccurrence_adds_up_what_followed_the_last_events() -> None:
    random = np.random.default_rng(2)
    counts = sparse.random(4, 4, 0.6, "csr", random_state=2, dtype=np.float32)
    popularity = random.integers(0, 9, 4)
    scores = whole_scores(CooccurrenceScorer(counts, popularity, 0.6, 2.0)(columns(HISTORIES))).numpy()
    dense, tie_break = np.log1p(counts.toarray() * 3 / 2), popularity / (popularity.max() + 1) * 1e-6
    for history, row in zip(HISTORIES, scores, strict=True):
        recent = history[-LAST_EVENTS:][::-1]
        expected = sum((0.6**age * dense[item] for age, item in enumerate(recent)), np.zeros(4))
        np.testing.assert_allclose(row[1:], (expected + tie_break)[1:], rtol=1e-5)
        assert row[0] == -np.inf


def test_settings_are_those_that_rank_the_validation_part_best(tmp_path: Path) -> None:
    """Every user takes a, b, then c to h, each once, then a again: it pays not to forget."""
    rows = [(f"u{user}", item, 1e9 + t) for user in range(30) for t, item in enumerate("aabcdefghaa")]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset = write_dataset(tmp_path / "version", log)
    config = EvaluateConfig(remove_seen=False, k=10)
    chooser = Chooser(dataset, "test", config)
    grid = [(0.5,), (0.995,)]
    assert chooser.best(grid, lambda setting: RepeatScorer(dataset.item_counts, *setting)) == (0.995,)
    assert chooser.best(grid[:1], lambda setting: RepeatScorer(dataset.item_counts, *setting)) == (0.5,)
    untold = Chooser(dataset, "valid", config)  # whose figures it would leak into
    assert untold.best(grid, lambda setting: RepeatScorer(dataset.item_counts, *setting)) == (0.5,)


def test_ranks_among_what_has_a_score() -> None:
    scores = sparse.csr_matrix(np.asarray([[0, 3, 2, 2, 0], [0, 3, 2, 0, 1], [0, 3, 2, 0, 1]], np.float32))
    asked = [Query("u", Columns(np.asarray([1], np.int32)), target) for target in (2, 4, 3)]
    assert sparse_ranks(scores, asked, remove_seen=False).tolist() == [3, 3, MISS]
    assert sparse_ranks(scores, asked, remove_seen=True).tolist() == [2, 2, MISS]
