"""Test figures beside the baselines, the report, and what a person reads at the end of a run; and the eval job."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from rich.console import Console

from mgray import report_data as report
from mgray.baselines import make_baselines
from mgray.config import EvalJobConfig, EvaluateConfig, TrainJobConfig
from mgray.dataset import Dataset, Part, Query
from mgray.engine import evaluate, part_queries
from mgray.errors import InputError
from mgray.metrics import RankingMetrics
from mgray.model_card import model_card
from mgray.recommend import Recommender, number_map
from mgray.report import render_html
from mgray.schema import UNKNOWN
from mgray.tables import example_table, metrics_table
from pipelines import cluster, tracking
from pipelines.ingest import ingest
from pipelines.progress import PhaseProgress, console
from pipelines.registry import TRAINING_KEY_TAG, training_key
from pipelines.shown import command_line, shown_uri

EXAMPLE_FILMS = 10


def evaluate_baselines(dataset: Dataset, part: Part, config: EvaluateConfig) -> dict[str, RankingMetrics]:
    """Baseline name -> its metrics on the same queries as the model's."""
    queries = part_queries(dataset, part)
    return {
        name: evaluate(scorer, queries, dataset.item_counts, config) for name, scorer in make_baselines(dataset).items()
    }


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


def example_query(dataset: Dataset) -> Query | None:
    """A user to show: the first, by id, with a test event and enough history to read something into."""
    queries = dataset.queries("test", range(1))
    candidates = [query for query in queries if len(query.history) and query.target != UNKNOWN]
    return max(candidates, key=lambda query: min(len(query.history), EXAMPLE_FILMS), default=None)


def make_example(dataset: Dataset, query: Query, recommender: Recommender) -> report.Example:
    titles = dict(zip(dataset.item_ids, dataset.titles, strict=True))
    history = [dataset.item_ids[item - 1] for item in query.history]
    result = recommender.recommend([history], EXAMPLE_FILMS)
    return report.Example(
        user_id=query.user_id,
        last=[titles[item] for item in history[-EXAMPLE_FILMS:]],
        recommended=[(titles[i], s) for i, s in zip(result.items[0], result.scores[0], strict=True)],
        next=dataset.titles[query.target - 1],
    )


def publish(
    config: TrainJobConfig,
    dataset: Dataset,
    trained: dict[str, Any],
    baselines: dict[str, RankingMetrics],
    model_folder: Path,
    run_id: str,
    uri: str,
    plan: cluster.WorkerPlan,
    seconds: dict[str, float],
    out: Console,
) -> dict[str, Any]:
    """Report and model to MLflow, tables to stderr; gives the result line's fields."""
    figures = {name: baseline.compute() for name, baseline in baselines.items()}
    query = example_query(dataset)
    example = make_example(dataset, query, Recommender(model_folder)) if query is not None else None
    history = example_history(dataset, query)
    tags = {"dataset_fingerprint": dataset.manifest.fingerprint, "run_id": run_id}
    tags |= {tracking.metric_key(f"test/{name}"): f"{value:.6f}" for name, value in trained["metrics"].items()}
    tags |= {TRAINING_KEY_TAG: training_key(config, dataset.manifest.fingerprint)}
    card = model_card(config, dataset.manifest, trained, figures)
    version = tracking.register(config.tracking, model_folder, history, tags, card)
    model = {"name": config.tracking.model_name, "version": version} if version else None
    data = report.ReportData(
        title=f"mgray: {', '.join(str(g) for g in config.model.granularities)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        facts={
            "run": run_id,
            "model": f"{config.tracking.model_name} version {version}" if version else "not registered",
            "dataset": dataset.manifest.fingerprint[:16],
            "users, items, events": (
                f"{dataset.manifest.users:,}, {dataset.manifest.items:,}, {dataset.manifest.rows['written']:,}"
            ),
            "parameters": f"{trained['parameters']:,}",
            "workers": f"{plan.label} ({trained['device']})",
            "epochs, steps": f"{trained['epochs']:.1f}, {trained['steps']:,} (best: {trained['best_epoch']:.1f})",
            "positions a second": f"{trained['positions'] / trained['train_s']:,.0f}",
            "seconds": ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()),
        },
        k=config.evaluate.k,
        metrics=trained["metrics"],
        baselines=figures,
        num_targets=trained["num_targets"],
        curves=[report.CurvePoint(**point) for point in trained["curve"]],
        slices=slice_rows({report.MODEL: trained["slices"]} | {n: b.slices() for n, b in baselines.items()}),
        granularities=granularity_shares(config, trained["attention"]),
        example=example,
        config=tracking.run_params(config, uri),
        rows=dataset.manifest.rows,
        notes=[
            "Ranking is over the full catalogue; "
            + ("items the user already has are removed. " if config.evaluate.remove_seen else "seen items stay in. ")
            + "Ties count against the model, and so does a target that is not in the training part.",
        ],
    )
    path = model_folder.parent / "report.html"
    path.write_text(render_html(data), encoding="utf-8")
    mlflow.log_artifact(str(path))
    mlflow.log_dict(dataset.manifest.model_dump(mode="json"), "manifest.json")
    if dataset.manifest.report_file is not None:
        mlflow.log_artifact(str(dataset.folder / dataset.manifest.report_file), "ingest")

    out.print(metrics_table(trained["metrics"], figures))
    for sentence in report.verdict(trained["metrics"], figures):
        out.print(sentence, highlight=False, markup=False)
    if example is not None:
        out.print(example_table(example))
    out.print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"MLflow UI: {tracking.ui_command(uri)}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"  then the runs: {tracking.runs_link(config.tracking, uri)}", highlight=False, soft_wrap=True)
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


def granularity_shares(config: TrainJobConfig, attention: list[list[float]] | None) -> list | None:
    if attention is None:
        return None
    return [
        report.GranularityShare(label=str(granularity), share=float(np.mean(heads)), heads=heads)
        for granularity, heads in zip(config.model.granularities, attention, strict=True)
    ]


def example_history(dataset: Dataset, query: Query | None) -> list[str]:
    """Raw ids for the model's input example: the last items of a real user."""
    items = query.history[-5:] if query is not None else [1]
    return [dataset.item_ids[item - 1] for item in items]


class RemappedScorer:
    """A model trained on another dataset, scored in this dataset's item numbers; items it does not know come last."""

    def __init__(self, recommender: Recommender, dataset: Dataset) -> None:
        self.recommender = recommender
        self.to_model = number_map(dataset.item_ids, recommender.vocabulary.item_ids)[:-1]

    def __call__(self, histories: Any) -> torch.Tensor:
        translated = [self.to_model[history] for history in histories]
        scores = self.recommender.scorer([h[h != UNKNOWN] for h in translated])
        remapped = scores[:, torch.from_numpy(np.maximum(self.to_model, 0))]
        remapped[:, torch.from_numpy(self.to_model == UNKNOWN)] = -torch.inf
        return remapped


def run_evaluation(config: EvalJobConfig) -> dict[str, Any]:
    """Evaluate a registered model on a dataset, beside the baselines; gives the result line's fields."""
    out = console()
    home = cluster.job_home(config)
    uri = tracking.open_tracking(config.tracking, home)
    with tempfile.TemporaryDirectory() as temporary:
        folder, name, version = tracking.fetch_model(config.model, uri, Path(temporary))
        recommender = Recommender(folder)
    cluster.connect()
    with PhaseProgress(out) as progress:
        found = ingest(config.data, home, progress.update)
    dataset = Dataset(found.path)
    queries = part_queries(dataset, config.split)
    if not queries:
        raise InputError(f"{found.path}: the {config.split} part is empty; choose another --split or dataset")
    metrics = evaluate(RemappedScorer(recommender, dataset), queries, dataset.item_counts, config.evaluate)
    measured = evaluate_baselines(dataset, config.split, config.evaluate)
    baselines = {name: baseline.compute() for name, baseline in measured.items()}
    out.print(metrics_table(metrics.compute(), baselines))
    for sentence in report.verdict(metrics.compute(), baselines):
        out.print(sentence, highlight=False, markup=False)
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
