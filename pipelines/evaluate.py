"""Figures of a model and of the baselines on a part of a dataset, and the eval job."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mgray import report_data as report
from mgray.baselines import make_baselines
from mgray.config import EvalJobConfig, EvaluateConfig, Outputs
from mgray.dataset import Dataset, Part
from mgray.engine import HistoryList, evaluate_batches, evaluate_each, max_score_rows, part_batches
from mgray.errors import InputError
from mgray.evaluation import PartMetrics
from mgray.rating import ModelRater, RatingQuery, evaluate_ratings, rating_batches
from mgray.rating_baselines import make_rating_baselines
from mgray.recommend import Recommender
from mgray.schema import UNKNOWN
from mgray.tables import example_table, metrics_table
from mgray.translation import Translation, check_items_known
from pipelines import cluster, tracking
from pipelines.ingest import describe, ingest
from pipelines.progress import PhaseProgress, console, say
from pipelines.registry import Registry, own_data
from pipelines.shown import shown_uri

MIN_REPEAT_SHARE = 0.01  # of the targets, to be worth a note


def evaluate_baselines(
    dataset: Dataset, part: Part, config: EvaluateConfig, outputs: Outputs = "next_item"
) -> dict[str, PartMetrics]:
    """Baseline name -> its metrics on the same queries as those of a model of these outputs."""
    found: dict[str, PartMetrics] = {}
    if outputs != "rating":
        batches = part_batches(dataset, part, (), config)
        ranked = evaluate_each(make_baselines(dataset), batches, dataset.item_counts, config)
        found |= {name: PartMetrics(one, None) for name, one in ranked.items()}
    if outputs != "next_item":
        scale = dataset.rating_scale()
        for name, rater in make_rating_baselines(dataset).items():
            asked = rating_batches(dataset, part, (), config)
            found[name] = PartMetrics(None, evaluate_ratings(rater, asked, scale))
    return found


def print_result(
    out: Console,
    metrics: dict[str, float],
    baselines: dict[str, dict[str, float]],
    notes: Sequence[str],
    example: report.Example | None = None,
) -> None:
    out.print(metrics_table(metrics, baselines))
    for sentence in report.verdict(metrics, baselines):
        say(out, sentence)
    if example is not None:
        out.print(example_table(example))
    for note in notes:
        out.print(f"[yellow]{note}[/]", soft_wrap=True)


def repeat_notes(baselines: Mapping[str, PartMetrics]) -> list[str]:
    """What to say of a part whose targets are often what the user has; baselines: the first to rank knows all items."""
    ranking = next((baseline.ranking for baseline in baselines.values() if baseline.ranking is not None), None)
    if ranking is None or ranking.num_removed < max(1, MIN_REPEAT_SHARE * ranking.num_targets):
        return []
    share, count = ranking.num_removed / ranking.num_targets, ranking.num_targets
    return [
        f"{share:.1%} of the {count:,} targets are items that the user has by then, which the ranking leaves out: "
        "misses of every system; where what is done again matters, --evaluate.remove_seen false"
    ]


class RemappedScorer:
    """A model trained on another dataset, scored in this dataset's item numbers; items it does not know come last."""

    def __init__(self, recommender: Recommender, dataset: Dataset) -> None:
        self.recommender = recommender
        self.translation = Translation(dataset, recommender.vocabulary.item_ids, recommender.info)
        self.columns = self.translation.columns  # of the dataset, beside items, that queries must hold
        self.to_model = self.translation.items[:-1]

    def __call__(self, histories: HistoryList) -> torch.Tensor:
        # The caller thinks of the dataset's items; the model may have a hundred times as many.
        rows = max_score_rows(self.recommender.info.num_items)
        return torch.cat([self._scores(histories[begin : begin + rows]) for begin in range(0, len(histories), rows)])

    def _scores(self, histories: HistoryList) -> torch.Tensor:
        scores = self.recommender.scorer([self.translation(history)[0] for history in histories])
        remapped = scores[:, torch.from_numpy(np.maximum(self.to_model, 0))]
        remapped[:, torch.from_numpy(self.to_model == UNKNOWN)] = -torch.inf
        return remapped


class RemappedRater:
    """The ratings of a model trained on another dataset; an item that it does not know gets the user's mean."""

    def __init__(self, recommender: Recommender, translation: Translation) -> None:
        info = recommender.info
        self.rater = ModelRater(recommender.model, info.max_length, recommender.device)
        self.translation, self.items = translation, translation.items.astype(np.int64)

    def __call__(self, queries: Sequence[RatingQuery]) -> torch.Tensor:
        translation = self.translation
        return self.rater(
            [RatingQuery(translation(query.history)[0], self.items[query.targets], query.ratings) for query in queries]
        )


def evaluate_foreign(recommender: Recommender, dataset: Dataset, part: Part, config: EvaluateConfig) -> PartMetrics:
    """Figures of a model on a dataset of other item numbers. Raises InputError where the part is empty."""
    scorer, max_length = RemappedScorer(recommender, dataset), recommender.info.max_length
    batches = part_batches(dataset, part, scorer.columns, config, max_length)
    ranking = evaluate_batches(scorer, batches, dataset.item_counts, config)
    if ranking.num_targets == 0:
        raise InputError(f"{dataset.folder}: the {part} part is empty; choose another --split or dataset")
    if recommender.info.config.outputs == "next_item":
        return PartMetrics(ranking, None)
    asked = rating_batches(dataset, part, scorer.columns, config, max_length)
    rater = RemappedRater(recommender, scorer.translation)
    return PartMetrics(ranking, evaluate_ratings(rater, asked, dataset.rating_scale()))


def run_evaluation(config: EvalJobConfig) -> dict[str, Any]:
    """Evaluate a registered model on a dataset, beside the baselines; gives the result line's fields."""
    out = console()
    home = cluster.job_home(config)
    uri = tracking.open_tracking(config.tracking, home, runs=False, writes=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder, name, version = tracking.fetch_model(config.model, uri, Path(temporary))
        recommender = Recommender(folder)
    if config.split == "valid" and recommender.info.include_valid:
        out.print(
            f"[yellow]{config.model} trained on the validation part of its dataset (train.include_valid): on the same "
            "data, the figures say what it knows by heart[/]"
        )
    evaluation = recommender.info.as_measured(config.evaluate)
    if caution := recommender.info.caution(evaluation.remove_seen):
        out.print(f"[yellow]{config.model}: {caution}[/]")
    registry = Registry(uri, name)
    data = own_data(config.data, home, registry, registry.find(version))
    cluster.connect()
    with PhaseProgress(out) as progress:
        found = ingest(data, home, progress.update)
    say(out, describe(found))
    dataset = Dataset(found.path)
    check_items_known(dataset, recommender.vocabulary.item_ids, f"--model {config.model}")
    metrics = evaluate_foreign(recommender, dataset, config.split, evaluation)
    measured = evaluate_baselines(dataset, config.split, evaluation, recommender.info.config.outputs)
    baselines = {name: baseline.compute() for name, baseline in measured.items()}
    print_result(out, metrics.compute(), baselines, repeat_notes(measured))
    return {
        "model": {"name": name, "version": version},
        "tracking_uri": shown_uri(uri),
        "split": config.split,
        "dataset": {"path": str(found.path), "fingerprint": found.manifest.fingerprint},
        "metrics": metrics.compute(),
        "baselines": baselines,
        "slices": metrics.slices(),
        "rows": {"queries": metrics.num_targets},
    }
