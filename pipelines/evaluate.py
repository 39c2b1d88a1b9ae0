"""Test figures beside the baselines, the report, and what a person reads at the end of a run; and the eval job."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from rich.console import Console

from mgray import report_data as report
from mgray.baselines import make_baselines
from mgray.columns import OptionalColumn
from mgray.config import EvalJobConfig, EvaluateConfig, Outputs, TrainConfig, TrainJobConfig
from mgray.dataset import Dataset, Part, Query
from mgray.engine import HistoryList, evaluate_batches, evaluate_each, max_score_rows, part_batches
from mgray.errors import InputError
from mgray.evaluation import PartMetrics, valid_share
from mgray.manifest import MANIFEST_FILE, Manifest
from mgray.model_card import model_card
from mgray.rating import ModelRater, RatingQuery, evaluate_ratings, rating_batches
from mgray.rating_baselines import make_rating_baselines
from mgray.raw_history import raw_lists
from mgray.recommend import Reasons, Recommender
from mgray.report import render_html
from mgray.schema import UNKNOWN
from mgray.tables import example_table, metrics_table
from mgray.translation import Translation, check_items_known
from pipelines import cluster, tracking
from pipelines.ingest import describe, ingest
from pipelines.progress import PhaseProgress, console, say
from pipelines.registry import TRAINING_KEY_TAG, Registry, own_data, training_key
from pipelines.shown import command_line, shown_uri

EXAMPLE_FILMS = 10
EXAMPLE_EVENTS = 5  # that the report names as what a recommendation comes from
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


def slice_rows(slices_by_system: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, list[report.SliceRow]]:
    """System -> slices, to slice kind -> rows that show every system side by side."""
    rows: dict[str, list[report.SliceRow]] = {}
    for kind, model_rows in slices_by_system[report.MODEL].items():
        by_label: dict[str, dict[str, dict[str, float]]] = {str(row["slice"]): {} for row in model_rows}
        for system, slices in slices_by_system.items():
            for row in slices[kind]:
                by_label[row["slice"]][system] = {k: v for k, v in row.items() if k not in ("slice", "count")}
        counts = {row["slice"]: row["count"] for row in model_rows}
        rows[kind] = [report.SliceRow(label=label, count=counts[label], metrics=m) for label, m in by_label.items()]
    return rows


def example_query(dataset: Dataset, columns: Collection[OptionalColumn]) -> Query | None:
    """A user to show: of the first shard that has one, with a test event and enough history to read something into."""
    for shard in range(dataset.num_shards):
        queries = dataset.queries("test", columns, [shard])
        candidates = [query for query in queries if len(query.history) and query.target != UNKNOWN]
        if candidates:
            return max(candidates, key=lambda query: min(len(query.history), EXAMPLE_FILMS))
    return None


def make_example(dataset: Dataset, query: Query, recommender: Recommender) -> report.Example:
    titles = dict(zip(dataset.item_ids, dataset.titles, strict=True))
    lists = raw_lists([query.history], dataset, recommender.info.inputs)
    history = lists["history"][0]
    result = recommender.recommend([history], EXAMPLE_FILMS, beside=lists)
    return report.Example(
        user_id=query.user_id,
        last=[titles[item] for item in history[-EXAMPLE_FILMS:]],
        recommended=[(titles[i], s) for i, s in zip(result.items[0], result.scores[0], strict=True)],
        next=dataset.titles[query.target - 1],
        why=explain_example(titles, recommender.explain([history], result, beside=lists)[0]),
    )


def explain_example(titles: Mapping[str, str], reasons: Reasons) -> report.Why:
    """titles: item id -> title."""
    events = [(titles[item], score) for item, score in zip(reasons.events, reasons.event_scores, strict=True)]
    return report.Why(
        granularities=list(zip(reasons.granularities, reasons.granularity_scores, strict=True)),
        events=sorted(events, key=lambda event: -abs(event[1]))[:EXAMPLE_EVENTS],
    )


def publish(
    config: TrainJobConfig,
    dataset: Dataset,
    trained: dict[str, Any],
    baselines: dict[str, PartMetrics],
    model_folder: Path,
    run_id: str,
    uri: str,
    plan: cluster.WorkerPlan,
    seconds: dict[str, float],
    out: Console,
) -> dict[str, Any]:
    """Report and model to MLflow, tables to stderr; gives the result line's fields."""
    figures = {name: baseline.compute() for name, baseline in baselines.items()}
    recommender = Recommender(model_folder)
    ranks = config.model.outputs != "rating"  # a model that only rates recommends nothing, and is not registered
    query = example_query(dataset, recommender.scorer.columns) if ranks else None
    example = make_example(dataset, query, recommender) if query is not None else None
    request = example_request(dataset, query, recommender)
    tags = {"dataset_fingerprint": dataset.manifest.fingerprint, "run_id": run_id}
    tags |= {tracking.metric_key(f"test/{name}"): f"{value:.6f}" for name, value in trained["metrics"].items()}
    tags |= {TRAINING_KEY_TAG: training_key(config, dataset.manifest.fingerprint)}
    card = model_card(config, dataset.manifest, trained, figures)
    short = time_notes(config.train, trained["epochs"]) + repeat_notes(baselines)
    version = failure = None
    if ranks:
        try:
            version = tracking.register(config.tracking, model_folder, request, tags, card)
        except Exception as error:  # of MLflow, its store or the network; told at the end: hours of training come first
            failure = error
    model = {"name": config.tracking.model_name, "version": version} if version else None
    members = "" if config.model.members == 1 else f" ({config.model.members} members)"
    data = report.ReportData(
        title=f"mgray: {', '.join(str(g) for g in config.model.granularities)}{members}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        facts={
            "run": run_id,
            "model": f"{config.tracking.model_name} version {version}" if version else "not registered",
            **run_facts(dataset, trained, plan, seconds),
        },
        k=config.evaluate.k,
        metrics=trained["metrics"],
        baselines=figures,
        num_targets=trained["num_targets"],
        curves=[report.CurvePoint(**point) for point in trained["curve"]],
        slices=slice_rows(
            {report.MODEL: trained["slices"]} | {n: b.slices() for n, b in baselines.items() if b.ranking is not None}
        ),
        granularities=granularity_shares(config, trained["attention"]),
        example=example,
        config=tracking.run_params(config, uri),
        rows=dataset.manifest.rows,
        notes=[*report_notes(config, dataset.manifest), *short],
    )
    path = model_folder.parent / "report.html"
    path.write_text(render_html(data), encoding="utf-8")
    tracking.try_to_log("report and manifest", partial(_log_files, dataset, path))
    print_result(out, trained["metrics"], figures, example)
    for note in short:
        out.print(f"[yellow]{note}[/]", soft_wrap=True)
    say(out, f"report: {path}")
    say(out, f"MLflow UI: {tracking.ui_command(uri)}")
    out.print(f"  then the runs: {tracking.runs_link(uri)}", highlight=False, soft_wrap=True)
    if failure is not None:
        where = f"the registry at {shown_uri(uri)}" if config.tracking.register_model else "MLflow's run"
        raise RuntimeError(f"the model is not in {where}; it lies in {model_folder}: {failure}") from failure
    return {
        "run_id": run_id,
        "tracking_uri": shown_uri(uri),
        "model": model,
        "metrics": trained["metrics"],
        "baselines": figures,
        "report": str(path),
        "checkpoint": str(model_folder),
        "workers": plan.label,
        "positions_s": round(trained["positions"] / trained["train_s"]),
    }


def _log_files(dataset: Dataset, report_path: Path) -> None:
    mlflow.log_artifact(str(report_path))
    mlflow.log_dict(dataset.manifest.model_dump(mode="json"), MANIFEST_FILE)
    if dataset.manifest.report_file is not None:
        mlflow.log_artifact(str(dataset.folder / dataset.manifest.report_file), "ingest")


def run_facts(
    dataset: Dataset, trained: dict[str, Any], plan: cluster.WorkerPlan, seconds: dict[str, float]
) -> dict[str, str]:
    """What the report says of the data and the training, by label."""
    manifest = dataset.manifest
    return {
        "dataset": manifest.fingerprint[:16],
        "users, items, events": f"{manifest.users:,}, {manifest.items:,}, {manifest.rows['written']:,}",
        "parameters": f"{trained['parameters']:,}",
        "workers": f"{plan.label} ({trained['device']})",
        "epochs, steps": f"{trained['epochs']:.1f}, {trained['steps']:,} (best: {trained['best_epoch']:.1f})",
        "positions a second": f"{trained['positions'] / trained['train_s']:,.0f}",
        "seconds": ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()),
    }


def print_result(
    out: Console, metrics: dict[str, float], baselines: dict[str, dict[str, float]], example: report.Example | None
) -> None:
    out.print(metrics_table(metrics, baselines))
    for sentence in report.verdict(metrics, baselines):
        say(out, sentence)
    if example is not None:
        out.print(example_table(example))


def report_notes(config: TrainJobConfig, manifest: Manifest) -> list[str]:
    """How the figures were measured."""
    notes = []
    if config.model.outputs != "rating":
        notes.append(
            "Ranking is over the full catalogue; "
            + ("items the user already has are removed. " if config.evaluate.remove_seen else "seen items stay in. ")
            + "Ties count against the model, and so does a target that is not in the training part."
        )
    if config.model.outputs != "rating" and manifest.split.kind == "random":
        notes.append(
            "The split is random, as for ratings: the model trained on events that came after those it is asked for, "
            "so its ranking says little of the next item, and cannot be compared with that of another split."
        )
    share = valid_share(config.evaluate, manifest.users)
    if config.train.include_valid:
        notes.append(
            "The model trained on the validation part too (train.include_valid), the baselines on the training part "
            "alone; the model saved is the last one, chosen by no figure."
        )
    elif share < 1:
        notes.append(
            f"Validation during training was by about {share:.1%} of the users (evaluate.max_valid_users), drawn by a "
            "hash of their ids; the figures above are by all."
        )
    if config.model.outputs != "next_item":
        notes.append(
            "Ratings are those of the test part's events, predicted from the user's history by the model and the "
            "baselines alike, and clipped to the scale; accuracy is after rounding to it."
        )
    return notes


def time_notes(config: TrainConfig, epochs: float) -> list[str]:
    """What to say of a training that came to `epochs`: that more time would train on, where time is what ended it."""
    if config.max_time_s is None or epochs >= config.epochs:
        return []
    return [
        f"{config.max_time_s:g} s of training (train.max_time_s) were enough for {epochs:.1f} of {config.epochs} "
        "epochs; more may do better: --train.max_time_s SECONDS, or none"
    ]


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


def granularity_shares(config: TrainJobConfig, attention: list[list[float]] | None) -> list | None:
    if attention is None:
        return None
    return [
        report.GranularityShare(label=str(granularity), share=float(np.mean(heads)), heads=heads)
        for granularity, heads in zip(config.model.granularities, attention, strict=True)
    ]


def example_request(dataset: Dataset, query: Query | None, recommender: Recommender) -> dict[str, list[list[Any]]]:
    """The model's input example, which has every column that it reads: the last events of a real user, or none."""
    if query is None:
        return recommender.empty_request()
    return raw_lists([query.history.take(slice(-5, None))], dataset, recommender.info.inputs)


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
    uri = tracking.open_tracking(config.tracking, home)
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
    out.print(metrics_table(metrics.compute(), baselines))
    for sentence in report.verdict(metrics.compute(), baselines):
        say(out, sentence)
    for note in repeat_notes(measured):
        out.print(f"[yellow]{note}[/]", soft_wrap=True)
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
