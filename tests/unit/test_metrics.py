"""Ranking metrics on cases that a reader can work out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.eval.metrics import RankingMetrics, RatingMetrics, is_better
from mgray.eval.slices import LENGTH_EDGES, slice_label, slice_labels
from mgray.schema import UNKNOWN
from mgray.serve.catalogue import MISS, LeftOut, target_ranks

INF = math.inf
COUNTS = np.asarray([0, 60, 5, 5, 0])  # V = 4


def test_rank_is_one_plus_the_items_above() -> None:
    scores = torch.tensor([[-INF, 0.9, 0.5, 0.7, 0.1]])
    ranks = [target_ranks(scores, torch.tensor([item])).item() for item in (1, 3, 2, 4)]
    assert ranks == [1, 2, 3, 4]


def test_ties_count_against_the_model() -> None:
    scores = torch.tensor([[-INF, 0.5, 0.5, 0.5, 0.1]])
    assert target_ranks(scores, torch.tensor([1])).item() == 3


def test_nan_scores_count_against_the_model() -> None:
    scores = torch.tensor([[-INF, 0.5, math.nan, 0.1, 0.2], [-INF, math.nan, 0.1, 0.1, 0.1]])
    assert target_ranks(scores, torch.tensor([1, 1])).tolist()[0] == 2
    assert target_ranks(scores, torch.tensor([1, 1])).tolist()[1] > 4


def test_what_cannot_be_recommended_is_a_miss() -> None:
    scores = torch.tensor([[-INF, 0.9, 0.5, 0.7, 0.1]] * 2)
    seen = LeftOut.of([np.asarray([1, 3], dtype=np.int32), np.asarray([], dtype=np.int32)])
    # The first user has item 1 already; the second's target is not in the vocabulary.
    assert target_ranks(scores, torch.tensor([1, UNKNOWN]), seen).tolist() == [MISS, MISS]
    metrics = RankingMetrics(1, COUNTS)
    metrics.update(
        torch.tensor([MISS, MISS, 1]), torch.tensor([[2], [1], [1]]), [2, 0, 0], torch.tensor([1, UNKNOWN, 1])
    )
    assert (metrics.num_removed, metrics.num_targets) == (1, 3)
    # With 1 and 3 gone, item 2 leads.
    assert target_ranks(scores, torch.tensor([2, 2]), seen).tolist() == [1, 3]


def test_metrics_by_hand() -> None:
    metrics = RankingMetrics(2, COUNTS)
    top = torch.tensor([[1, 2], [1, 3], [1, 2]])
    metrics.update(torch.tensor([1, 2, 3]), top, [5, 12, 12], torch.tensor([1, 3, UNKNOWN]))
    result = metrics.compute()
    assert result["hr@2"] == pytest.approx(2 / 3)
    assert result["ndcg@2"] == pytest.approx((1 + 1 / math.log2(3)) / 3)
    assert result["mrr@2"] == pytest.approx((1 + 1 / 2) / 3)
    assert result["coverage@2"] == pytest.approx(3 / 4)
    slices = metrics.slices()
    assert [(row.label, row.num_targets, row.metrics["hr@2"]) for row in slices["history_length"]] == [
        ("0-9", 1, 1.0),
        ("10-19", 2, 0.5),
    ]
    assert [(row.label, row.num_targets) for row in slices["item_popularity"]] == [("0", 1), ("1-9", 1), ("50-99", 1)]


def test_no_target_is_no_figure() -> None:
    assert math.isnan(RankingMetrics(2, COUNTS).compute()["hr@2"])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 30))
def test_any_split_over_workers_gives_the_same(ranks: list[int], cut: int) -> None:
    """Sums add up: one accumulator over all targets equals two over any split."""

    def accumulate(part: list[int]) -> RankingMetrics:
        metrics = RankingMetrics(10, COUNTS)
        if part:
            tensor = torch.tensor(part)
            metrics.update(tensor, torch.ones(len(part), 1, dtype=torch.int64), part, torch.ones_like(tensor))
        return metrics

    whole, left, right = accumulate(ranks), accumulate(ranks[:cut]), accumulate(ranks[cut:])
    left.sums += right.sums
    left.recommended = (left.recommended + right.recommended).clamp(max=1)
    assert left.compute() == pytest.approx(whole.compute())


def test_slice_labels_match_their_values() -> None:
    assert slice_labels(LENGTH_EDGES)[:2] == ["0-9", "10-19"]
    assert [slice_label(v, LENGTH_EDGES) for v in (0, 9, 10, 499, 500)] == ["0-9", "0-9", "10-19", "200-499", "500+"]
    assert slice_label(0, (0, 9)) == "0"


def test_rating_errors_by_hand() -> None:
    """Given 5, 1, 3, 2; predicted 4.4 (rounds to 4), 0 (clipped to 1), 3.2, 2.5 (rounds up to 3)."""
    metrics = RatingMetrics((1, 2, 3, 4, 5))
    metrics.update(torch.tensor([4.4, 0.0]), torch.tensor([5.0, 1.0]))
    metrics.update(torch.tensor([3.2, 2.5]), torch.tensor([3.0, 2.0]))
    expected = {"rmse": math.sqrt((0.36 + 0.04 + 0.25) / 4), "mae": (0.6 + 0.2 + 0.5) / 4, "accuracy": 2 / 4}
    assert metrics.compute() == pytest.approx(expected, rel=1e-6)
    assert metrics.num_targets == 4


def test_ratings_without_a_scale_have_no_accuracy() -> None:
    metrics = RatingMetrics(())
    assert math.isnan(metrics.compute()["rmse"])
    metrics.update(torch.tensor([-7.0]), torch.tensor([1.0]))
    assert metrics.compute() == {"rmse": 8.0, "mae": 8.0}


def test_lower_errors_and_higher_ranks_are_better() -> None:
    assert is_better("rmse", 0.9, 1.0)
    assert not is_better("rmse", 1.0, 0.9)
    assert is_better("ndcg@10", 0.2, 0.1)
    assert is_better("ndcg@10", 0.0, None)
    assert is_better("rmse", 0.9, math.nan)
    assert not is_better("rmse", math.nan, 0.9)
