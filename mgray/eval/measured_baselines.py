"""Figures of the baselines on a part: within bounds of time and memory, and each on its own.

What fails costs its own row. Scores are worked out by blocks of items; the pair table is bounded (see
mgray/data/pair_table.py). Of a long part, users are drawn by a hash of their ids: so many that queries are at most
MAX_QUERIES and scores at most MAX_SCORES, and MIN_QUERIES whatever the catalogue. Baselines of ratings are not sampled.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from mgray.config import EvaluateConfig, Outputs
from mgray.data.dataset import Dataset, Part, Query
from mgray.distributed import sum_over_ranks
from mgray.eval.baselines import Baseline, baseline_makers
from mgray.eval.metrics import RankingMetrics, RatingMetrics
from mgray.eval.part_metrics import PartMetrics
from mgray.eval.ranking import part_batches, rank_batch
from mgray.eval.rating import rating_batches, update_ratings
from mgray.eval.rating_baselines import make_rating_baselines
from mgray.eval.slices import SliceFigures
from mgray.serve.rater import Rater

MAX_QUERIES = 100_000  # of a part
MAX_SCORES = 2**33  # of a baseline: about two minutes of a core
MIN_QUERIES = 1_000

logger = logging.getLogger(__name__)


class MeasuredBaselines(NamedTuple):
    """What was measured, by name of the baseline, and what of it failed. Plain values, which travel to any process."""

    metrics: dict[str, dict[str, float]] = {}
    slices: dict[str, dict[str, list[SliceFigures]]] = {}  # of those that rank
    settings: dict[str, str] = {}  # that the validation part chose
    failures: dict[str, str] = {}  # name -> reason; such a baseline has no metrics
    share: float = 1.0  # of the part's users
    num_targets: int = 0
    num_repeats: int = 0  # targets that the ranking left out, as items that the user has

    def notes(self) -> list[str]:
        """What a person must read beside the figures."""
        found = [f"baseline {name}: no figures, for it failed: {reason}" for name, reason in self.failures.items()]
        if self.share < 1:
            found.append(
                f"the baselines' figures are of {self.share:.2%} of the users, drawn by a hash of their ids; the "
                "model's are of all"
            )
        return found


def sample_share(dataset: Dataset, part: Part) -> float:
    """Share of a part's users whose queries are within the bounds, 0 to 1."""
    manifest = dataset.manifest
    queries = {"train": manifest.train_events, "valid": manifest.valid_events, "test": manifest.test_events}[part]
    allowed = min(MAX_QUERIES, max(MIN_QUERIES, MAX_SCORES // (manifest.items + 1)))
    return min(1.0, allowed / max(1, queries))


def evaluate_baselines(
    dataset: Dataset, part: Part, config: EvaluateConfig, outputs: Outputs = "next_item"
) -> MeasuredBaselines:
    """Measure the baselines of a model of these outputs on the same part. Collective: call it on every rank."""
    found = MeasuredBaselines({}, {}, {}, {}, sample_share(dataset, part))
    if outputs != "rating":
        found = _measure_rankings(found, dataset, part, config)
    if outputs != "next_item":
        _measure_ratings(found, dataset, part, config)
    return found


def _measure_rankings(
    found: MeasuredBaselines, dataset: Dataset, part: Part, config: EvaluateConfig
) -> MeasuredBaselines:
    batches = list(part_batches(dataset, part, (), config, share=found.share))
    # Fewer lists cover fewer items: coverage of a sample is no match for the model's.
    k = min(config.k, dataset.num_items) if found.share >= 1 else None
    for name, make in baseline_makers(dataset, part, config).items():
        metrics = RankingMetrics(config.k, dataset.item_counts, with_coverage=k is not None)

        def measure(make: Callable[[], Baseline] = make, metrics: RankingMetrics = metrics) -> str:
            baseline = make()
            for batch in batches:
                _rank(baseline, batch, config.remove_seen, k, metrics)
            return baseline.settings

        settings = _agreed(found, name, measure)
        if settings is None:
            continue
        metrics.all_reduce()
        _add(found, name, PartMetrics(metrics, None))
        if settings:
            found.settings[name] = settings
        found = found._replace(num_targets=metrics.num_targets, num_repeats=metrics.num_removed)
    return found


def _rank(baseline: Baseline, batch: list[Query], remove_seen: bool, k: int | None, metrics: RankingMetrics) -> None:
    targets, ranks, recommended = rank_batch(baseline.scorer, batch, remove_seen, k)
    metrics.update(ranks, recommended, [len(query.history) for query in batch], targets)


def _measure_ratings(found: MeasuredBaselines, dataset: Dataset, part: Part, config: EvaluateConfig) -> None:
    made: dict[str, Rater] = {}
    _agreed(found, "ratings", lambda: made.update(make_rating_baselines(dataset)))
    if "ratings" in found.failures:
        return
    scale = dataset.rating_scale()
    for name, rater in made.items():
        metrics = RatingMetrics(scale)

        def measure(rater: Rater = rater, metrics: RatingMetrics = metrics) -> None:
            update_ratings(metrics, rater, rating_batches(dataset, part, (), config, share=found.share))

        _agreed(found, name, measure)
        if name not in found.failures:
            metrics.all_reduce()
            _add(found, name, PartMetrics(None, metrics))


def _add(found: MeasuredBaselines, name: str, metrics: PartMetrics) -> None:
    found.metrics[name] = metrics.compute()
    if metrics.ranking is not None:
        found.slices[name] = metrics.slices()


def _agreed(found: MeasuredBaselines, name: str, measure: Callable[[], str | None]) -> str | None:
    """What `measure` gives; None where it failed on any rank, which is noted. Collective."""
    result, failure = None, ""
    try:
        result = measure()
    except Exception as error:  # whatever it is, it is worth a row, not the run
        logger.warning("baseline %s failed", name, exc_info=True)
        failure = f"{type(error).__name__}: {error}"
    if sum_over_ranks(torch.tensor([float(bool(failure))])).item():
        found.failures[name] = failure or "on another rank"
        return None
    return result
