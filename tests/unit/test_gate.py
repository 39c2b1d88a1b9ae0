"""The gate's numbers, each to be had by hand, and its laws."""

import numpy as np
import pytest

from mgray.config import GateConfig
from mgray.eval.gate import Cost, PeriodQueries, compare_slices, decide, gains, paired_bootstrap, rank_metrics

OPEN = GateConfig(min_improvement=None, max_slice_drop=None)
CHEAP = Cost(parameters=1000, latency_ms=2.0)
MISS = 2**31 - 1


def window(users: list[int], length: int = 5, popularity: int = 20) -> PeriodQueries:
    count = len(users)
    return PeriodQueries(np.asarray(users), np.full(count, length), np.full(count, popularity))


def test_metrics_of_ranks() -> None:
    ranks = np.asarray([1, 3, 11, MISS])
    assert gains(ranks, 10).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert rank_metrics(ranks, 10) == pytest.approx({"hr@10": 0.5, "ndcg@10": 1.5 / 4, "mrr@10": (1 + 1 / 3) / 4})
    assert all(np.isnan(value) for value in rank_metrics(ranks[:0], 10).values())


def test_an_equal_difference_everywhere_leaves_no_doubt() -> None:
    interval = paired_bootstrap(np.full(6, 0.25), np.asarray([0, 0, 1, 2, 2, 2]), 500, 0.95)
    assert interval == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_is_that_of_the_normal_law_where_users_have_one_query_each() -> None:
    """1,600 differences of +-1 alternate: mean 0, standard error 1/40, so the 95% interval is +-1.96/40."""
    difference = np.tile([1.0, -1.0], 800)
    interval = paired_bootstrap(difference, np.arange(1600), 4000, 0.95)
    assert interval.mean == 0
    assert (interval.low, interval.high) == pytest.approx((-1.96 / 40, 1.96 / 40), rel=0.06)


def test_users_are_drawn_not_queries() -> None:
    """100 copies of each of 16 users' differences say no more than the 16 do; drawn as queries they would say 10 times
    more."""
    difference = np.repeat(np.tile([1.0, -1.0], 8), 100)
    by_user = paired_bootstrap(difference, np.repeat(np.arange(16), 100), 4000, 0.95)
    by_query = paired_bootstrap(difference, np.arange(1600), 4000, 0.95)
    assert by_user.high == pytest.approx(1.96 / 4, rel=0.1)
    assert by_user.high / by_query.high == pytest.approx(10, rel=0.15)


def test_a_user_weighs_by_queries() -> None:
    """Three queries up, one down: the mean is that of queries, 0.5, not of users, 0."""
    assert paired_bootstrap(np.asarray([1.0, 1.0, 1.0, -1.0]), np.asarray([7, 7, 7, 3]), 200, 0.9).mean == 0.5


def test_the_same_figures_give_the_same_interval_however_memory_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    difference, user = np.random.default_rng(0).normal(size=300), np.arange(300) // 3
    whole = paired_bootstrap(difference, user, 300, 0.9)
    monkeypatch.setattr("mgray.eval.gate.RESAMPLE_CELLS", 1000)
    assert paired_bootstrap(difference, user, 300, 0.9) == whole


def test_better_everywhere_passes_and_equal_does_not() -> None:
    users = list(range(50))
    worse, better = np.full(50, 3), np.full(50, 1)  # NDCG 0.5 and 1
    passed = decide(GateConfig(), 10, window(users), worse, better, CHEAP)
    assert passed.passed
    assert passed.improvement == pytest.approx((0.5, 0.5, 0.5))
    assert passed.reasons[0] == (
        "ndcg@10 0.5000 -> 1.0000, difference +0.5000, 90% interval +0.5000 to +0.5000 (50 queries of 50 users); "
        "the interval's lower end must be above +0.0000: holds"
    )
    assert not decide(GateConfig(), 10, window(users), better, better, CHEAP).passed
    assert decide(GateConfig(min_improvement=-0.01), 10, window(users), better, better, CHEAP).passed
    assert not decide(GateConfig(min_improvement=0.5), 10, window(users), worse, better, CHEAP).passed


def test_a_fallen_slice_refuses_what_is_better_on_the_whole() -> None:
    """300 queries, 100 with long histories: there NDCG falls from 1 to 0.5, elsewhere it rises from 0 to 1."""
    users = np.arange(300)
    lengths = np.where(users < 100, 60, 5)
    queries = PeriodQueries(users, lengths, np.full(300, 20))
    before, after = np.where(users < 100, 1, MISS), np.where(users < 100, 3, 1)
    config = GateConfig(max_slice_drop=0.1, min_slice_queries=100)
    decision = decide(config, 10, queries, before, after, CHEAP)
    assert not decision.passed
    assert decision.improvement is not None
    assert decision.improvement.low > 0
    assert decision.reasons[0] == (
        "history_length 50-99: ndcg@10 1.0000 -> 0.5000 over 100 queries, a fall of 0.5000, at most 0.1 allowed: "
        "refused"
    )
    # a slice too small to judge, and a bound that is off
    assert decide(config.model_copy(update={"min_slice_queries": 101}), 10, queries, before, after, CHEAP).passed
    assert decide(config.model_copy(update={"max_slice_drop": None}), 10, queries, before, after, CHEAP).passed


def test_slices_hold_every_query_once_a_kind() -> None:
    queries = PeriodQueries(np.arange(4), np.asarray([0, 9, 10, 5000]), np.asarray([0, 1, 9, 10]))
    rows = compare_slices(queries, np.zeros(4), np.ones(4))
    assert [(row.kind, row.label, row.queries) for row in rows] == [
        ("history_length", "0-9", 2),
        ("history_length", "10-19", 1),
        ("history_length", "500+", 1),
        ("item_popularity", "0", 1),
        ("item_popularity", "1-9", 2),
        ("item_popularity", "10-49", 1),
    ]
    assert {row.drop for row in rows} == {-1.0}


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        ({"max_parameters": 999}, "1,000 parameters, at most 999 allowed: refused"),
        ({"max_latency_ms": 1.5}, "one history is scored in 2.00 ms, at most 1.5 ms allowed: refused"),
    ],
)
def test_size_and_latency_have_bounds(bound: dict[str, float], sentence: str) -> None:
    ranks = np.asarray([1, 2])
    decision = decide(OPEN.model_copy(update=bound), 10, window([0, 1]), ranks, ranks, CHEAP)
    assert (decision.passed, decision.reasons[0]) == (False, sentence)
    # the bounds hold for the first champion too
    assert not decide(OPEN.model_copy(update=bound), 10, window([0, 1]), None, ranks, CHEAP).passed


def test_without_a_champion_nothing_is_compared() -> None:
    decision = decide(GateConfig(), 10, window([0, 1]), None, np.asarray([5, 5]), CHEAP)
    assert (decision.passed, decision.reasons) == (True, ["no champion yet: nothing to compare with"])


def test_an_empty_window_refuses() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    decision = decide(OPEN, 10, PeriodQueries(nothing, nothing, nothing), nothing, nothing, CHEAP)
    assert (decision.passed, decision.improvement) == (False, None)
