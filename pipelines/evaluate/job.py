"""Figures of a model and of the baselines on a part of a dataset, and the eval job."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from mgray.config import EvalJobConfig, EvaluateConfig
from mgray.data.dataset import Dataset, IntArray, Part, Query, Turn
from mgray.data.item_numbers import number_map
from mgray.errors import InputError
from mgray.eval.measured_baselines import MeasuredBaselines, evaluate_baselines
from mgray.eval.part_metrics import PartMetrics
from mgray.eval.ranking import evaluate_batches, own_batches
from mgray.eval.rating import evaluate_ratings, rating_queries
from mgray.report import report_data
from mgray.report.terminal import example_table, metrics_table
from mgray.schema import PAD, UNKNOWN
from mgray.serve.rater import ModelRater, RatingQuery
from mgray.serve.recommender import Recommender
from mgray.serve.translation import Translation, check_items_known
from pipelines import tracking
from pipelines.ingest.job import dataset_line, ingest
from pipelines.runtime import cluster
from pipelines.runtime.console import PhaseProgress, console, say
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.result import DatasetLabel, JobResult, VersionLabel
from pipelines.tracking.registry import Registry, own_data

MIN_REPEAT_SHARE = 0.01  # of the targets, to be worth a note


def print_result(
    out: Console,
    metrics: dict[str, float],
    baselines: dict[str, dict[str, float]],
    notes: Sequence[str],
    example: report_data.Example | None = None,
) -> None:
    out.print(metrics_table(metrics, baselines))
    for sentence in report_data.verdict(metrics, baselines):
        say(out, sentence)
    if example is not None:
        out.print(example_table(example))
    for note in notes:
        out.print(f"[yellow]{note}[/]", soft_wrap=True)


def repeat_notes(baselines: MeasuredBaselines) -> list[str]:
    """Note for a part whose targets are often items that the user has, which a baseline tells: it knows all items."""
    count = baselines.num_targets
    if baselines.num_repeats < max(1, MIN_REPEAT_SHARE * count):
        return []
    share = baselines.num_repeats / count
    return [
        f"{share:.1%} of the {count:,} targets are items that the user has by then, which the ranking leaves out: "
        "misses of every system; where what is done again matters, --evaluate.remove_seen false"
    ]


class Asked(NamedTuple):
    """Counts of what the queries held that the model does not know."""

    unknown_targets: int  # they count as misses
    history_events: int
    unknown_history_events: int  # they are left out of the histories

    def notes(self, num_targets: int) -> list[str]:
        found = []
        if self.unknown_targets:
            share = self.unknown_targets / max(1, num_targets)
            found.append(
                f"{self.unknown_targets:,} of the {num_targets:,} targets ({share:.1%}) are items that the model does "
                "not know: they count as misses"
            )
        if self.unknown_history_events:
            share = self.unknown_history_events / max(1, self.history_events)
            found.append(
                f"{self.unknown_history_events:,} of the {self.history_events:,} events ({share:.1%}) of the queries' "
                "histories are on items that the model does not know: it did not read them"
            )
        return found


class ForeignPart:
    """A part of a dataset, as the queries of a model that was trained on another: in its numbers, over its items.

    Histories hold all events that the model knows, whatever the dataset's own vocabulary. Raises InputError where the
    dataset lacks an input of the model.
    """

    def __init__(self, recommender: Recommender, dataset: Dataset, part: Part, config: EvaluateConfig) -> None:
        self.recommender, self.dataset, self.part, self.config = recommender, dataset, part, config
        self.translation = Translation(dataset, recommender.vocabulary.item_ids, recommender.info)
        self.asked = Asked(0, 0, 0)

    @property
    def item_counts(self) -> IntArray:
        """Training events of the dataset on each of the model's items, [V + 1]."""
        counts = np.zeros(self.recommender.info.num_items + 1, np.int64)
        numbers, own = self.translation.items[: len(self.dataset.item_counts)], self.dataset.item_counts
        counts[numbers[numbers > PAD]] = own[numbers > PAD]
        return counts

    def queries(self) -> Iterator[list[Query]]:
        """Yield the queries in batches to be scored together, and count what they hold."""

        def ask(shard: int, turn: Turn) -> Iterator[Query]:
            for query in self.dataset.queries(self.part, self.translation.columns, [shard], turn=turn, whole=True):
                translated = self.translation.query(query)
                self._count(query, translated)
                yield translated

        return own_batches(self.dataset, ask, self.config.batch_events, self.recommender.info.max_length)

    def _count(self, query: Query, translated: Query) -> None:
        asked, events = self.asked, len(query.history)
        self.asked = Asked(
            asked.unknown_targets + (translated.target == UNKNOWN),
            asked.history_events + events,
            asked.unknown_history_events + events - len(translated.history),
        )

    def rating_queries(self) -> Iterator[list[RatingQuery]]:
        """Yield the queries in batches to be rated together."""

        def ask(shard: int, turn: Turn) -> Iterator[RatingQuery]:
            asked = rating_queries(self.dataset, self.part, self.translation.columns, [shard], turn=turn, whole=True)
            return map(self.translation.rating_query, asked)

        return own_batches(self.dataset, ask, self.config.batch_events, self.recommender.info.max_length)


def evaluate_foreign(
    recommender: Recommender, dataset: Dataset, part: Part, config: EvaluateConfig
) -> tuple[PartMetrics, Asked]:
    """Figures of a model on a dataset of other item numbers, ranked over all items of the model.

    Raises InputError where the part is empty, or the dataset lacks an input of the model.
    """
    foreign = ForeignPart(recommender, dataset, part, config)
    ranking = evaluate_batches(recommender.scorer, foreign.queries(), foreign.item_counts, config)
    if ranking.num_targets == 0:
        raise InputError(f"{dataset.folder}: the {part} part is empty; choose another --split or dataset")
    if recommender.info.config.outputs == "next_item":
        return PartMetrics(ranking, None), foreign.asked
    rater = ModelRater(recommender.model, recommender.info.max_length, recommender.device)
    ratings = evaluate_ratings(rater, foreign.rating_queries(), dataset.rating_scale())
    return PartMetrics(ranking, ratings), foreign.asked


def _baseline_notes(dataset: Dataset, recommender: Recommender) -> list[str]:
    """Note where the baselines rank other items than the model does."""
    own, known = dataset.item_ids, recommender.vocabulary.item_ids
    if len(own) == len(known) and (number_map(own, known)[1:-1] != UNKNOWN).all():
        return []
    return [
        f"the model ranks all {len(known):,} items that it knows; the baselines, made from the training part of this "
        f"dataset, rank its {len(own):,} items"
    ]


class QueryCounts(JobResult):
    """How many queries an evaluation asked, and what of them the model does not know."""

    queries: int
    unknown_targets: int
    history_events: int
    unknown_history_events: int


class EvaluationResult(JobResult):
    """Result of the eval job."""

    model: VersionLabel
    tracking_uri: str
    split: str
    dataset: DatasetLabel
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    baselines_share: float  # of the part's users, that the baselines were measured on
    slices: dict[str, list[dict[str, float | str]]]  # slice kind -> its buckets, as SliceFigures.as_json has them
    rows: QueryCounts


def run_evaluation(config: EvalJobConfig) -> dict[str, Any]:
    """The eval job -> its result line. Raises InputError where the user's input is wrong."""
    return evaluate_registered(config).line()


def evaluate_registered(config: EvalJobConfig) -> EvaluationResult:
    """Evaluate a registered model on a dataset, beside the baselines."""
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
    say(out, dataset_line(found))
    dataset = Dataset(found.path)
    check_items_known(dataset, recommender.vocabulary.item_ids, f"--model {config.model}")
    metrics, asked = evaluate_foreign(recommender, dataset, config.split, evaluation)
    measured = evaluate_baselines(dataset, config.split, evaluation, recommender.info.config.outputs)
    notes = [*repeat_notes(measured), *asked.notes(metrics.num_targets), *_baseline_notes(dataset, recommender)]
    print_result(out, metrics.compute(), measured.metrics, notes + measured.notes())
    return EvaluationResult(
        model=VersionLabel(name=name, version=version),
        tracking_uri=shown_uri(uri),
        split=config.split,
        dataset=DatasetLabel(path=str(found.path), fingerprint=found.manifest.fingerprint),
        metrics=metrics.compute(),
        baselines=measured.metrics,
        baselines_share=measured.share,
        slices={kind: [row.as_json() for row in rows] for kind, rows in metrics.slices().items()},
        rows=QueryCounts(queries=metrics.num_targets, **asked._asdict()),
    )
