"""The gate: may a challenger replace the champion? Pure; both are measured on the same queries.

Legend: `T` queries, `U` users, `R` resamples. A query's gain is its NDCG@k, 1 / log2(rank + 1) where rank <= k, else 0.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mgray.config import GateConfig
from mgray.eval.metrics import query_metrics, ranking_names
from mgray.eval.slices import HISTORY_LENGTH, ITEM_POPULARITY, LENGTH_EDGES, POPULARITY_EDGES, slice_labels

RESAMPLE_CELLS = 2**22  # drawn users held at once
SEED = 20061106  # the same figures give the same decision

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class PeriodQueries(NamedTuple):
    """The queries of the test period, which both models answered: one entry each, in one order."""

    user: IntArray  # [T] 0..U-1
    history_length: IntArray  # [T] events
    item_popularity: IntArray  # [T] training events of the target; 0: not in the training part


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


class SliceDrop(NamedTuple):
    kind: str  # history_length or item_popularity
    label: str
    queries: int
    champion: float  # NDCG@k
    challenger: float

    @property
    def drop(self) -> float:
        return self.champion - self.challenger


class Cost(NamedTuple):
    parameters: int
    latency_ms: float  # one history scored by the model, in one process


class GateDecision(NamedTuple):
    passed: bool
    reasons: list[str]  # plain sentences with the numbers, the refusing ones first
    improvement: Interval | None  # of NDCG@k, challenger - champion; None: no champion, or nothing measured
    slices: list[SliceDrop]


def gains(ranks: IntArray, k: int) -> FloatArray:
    """Ranks from 1 [T] -> NDCG@k of each query with its one relevant item [T]."""
    return query_metrics(ranks, k)[:, 1]


def rank_metrics(ranks: IntArray, k: int) -> dict[str, float]:
    """Ranks from 1 [T] -> hr@k, ndcg@k, mrr@k; NaN where there is no query."""
    if not len(ranks):
        return dict.fromkeys(ranking_names(k), float("nan"))
    columns = query_metrics(ranks, k).T
    return {name: float(column.mean()) for name, column in zip(ranking_names(k), columns, strict=True)}


def paired_bootstrap(
    difference: FloatArray, user: IntArray, num_resamples: int, confidence: float, seed: int = SEED
) -> Interval:
    """Percentile interval of the mean paired difference [T], two-sided, at `confidence` (0..1).

    The paired bootstrap of information retrieval (Sakai, "Evaluating evaluation metrics based on the bootstrap",
    SIGIR 2006; percentile interval: Efron & Tibshirani 1993, chapter 13). A deviation: users are drawn, not queries,
    each with all of its queries, for the queries of one user are alike (cluster bootstrap: Davison & Hinkley 1997,
    section 3.8); drawing queries would give too narrow an interval.
    """
    _, number = np.unique(user, return_inverse=True)
    total = np.bincount(number, weights=difference)
    count = np.bincount(number).astype(np.float64)
    random = np.random.default_rng(seed)
    rows = max(1, RESAMPLE_CELLS // len(total))
    means = []
    for begin in range(0, num_resamples, rows):
        drawn = random.integers(0, len(total), (min(rows, num_resamples - begin), len(total)))
        means.append(total[drawn].sum(1) / count[drawn].sum(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high))


def compare_slices(queries: PeriodQueries, champion: FloatArray, challenger: FloatArray) -> list[SliceDrop]:
    """Mean gains of both [T] by history length and by item popularity; empty slices are left out."""
    rows = []
    for kind, edges, amounts in (
        (HISTORY_LENGTH, LENGTH_EDGES, queries.history_length),
        (ITEM_POPULARITY, POPULARITY_EDGES, queries.item_popularity),
    ):
        bucket = np.searchsorted(edges, amounts, side="left")
        for number, label in enumerate(slice_labels(edges)):
            inside = bucket == number
            if inside.any():
                before, after = float(champion[inside].mean()), float(challenger[inside].mean())
                rows.append(SliceDrop(kind, label, int(inside.sum()), before, after))
    return rows


def decide(
    config: GateConfig,
    k: int,
    queries: PeriodQueries,
    champion: IntArray | None,
    challenger: IntArray,
    cost: Cost,
) -> GateDecision:
    """Whether the challenger may become champion. champion, challenger: ranks [T] on `queries`, from 1.

    Without a champion only the bounds on size and latency count. Each check that is not off gives one reason.
    """
    refused: list[str] = []
    held: list[str] = []

    def judge(ok: bool, sentence: str) -> None:
        (held if ok else refused).append(f"{sentence}: {'holds' if ok else 'refused'}")

    improvement, slices = None, []
    if champion is None:
        held.append("no champion yet: nothing to compare with")
    elif not len(challenger):
        refused.append("the test period holds no query, so nothing can be compared: refused")
    else:
        before, after = gains(champion, k), gains(challenger, k)
        improvement = paired_bootstrap(after - before, queries.user, config.num_resamples, config.confidence)
        slices = compare_slices(queries, before, after)
        figures = (
            f"ndcg@{k} {before.mean():.4f} -> {after.mean():.4f}, difference {improvement.mean:+.4f}, "
            f"{config.confidence:.0%} interval {improvement.low:+.4f} to {improvement.high:+.4f} "
            f"({len(before):,} queries of {len(np.unique(queries.user)):,} users)"
        )
        if config.min_improvement is None:
            held.append(f"{figures}; no improvement is asked for")
        else:
            asked = f"; the interval's lower end must be above {config.min_improvement:+.4f}"
            judge(improvement.low > config.min_improvement, figures + asked)
        if config.max_slice_drop is not None:
            _judge_slices(config.max_slice_drop, config.min_slice_queries, k, slices, held, refused)
    if config.max_parameters is not None:
        judge(
            cost.parameters <= config.max_parameters,
            f"{cost.parameters:,} parameters, at most {config.max_parameters:,} allowed",
        )
    if config.max_latency_ms is not None:
        judge(
            cost.latency_ms <= config.max_latency_ms,
            f"one history is scored in {cost.latency_ms:.2f} ms, at most {config.max_latency_ms:g} ms allowed",
        )
    return GateDecision(not refused, refused + held, improvement, slices)


def _judge_slices(
    bound: float, min_queries: int, k: int, slices: list[SliceDrop], held: list[str], refused: list[str]
) -> None:
    judged = [row for row in slices if row.queries >= min_queries]
    fallen = [row for row in judged if row.drop > bound]
    for row in fallen:
        refused.append(
            f"{row.kind} {row.label}: ndcg@{k} {row.champion:.4f} -> {row.challenger:.4f} over {row.queries:,} "
            f"queries, a fall of {row.drop:.4f}, at most {bound:g} allowed: refused"
        )
    if not fallen:
        worst = f" (largest fall {max(row.drop for row in judged):.4f})" if judged else ""
        held.append(
            f"none of {len(judged)} slices of {min_queries} queries or more falls by more than {bound:g}{worst}: holds"
        )


def decision_json(decision: GateDecision) -> dict[str, object]:
    """The decision as plain values, for a JSON file."""
    return {
        "passed": decision.passed,
        "reasons": decision.reasons,
        "improvement": decision.improvement._asdict() if decision.improvement else None,
        "slices": [row._asdict() for row in decision.slices],
    }
