"""Results of a training run: the registered model, the report, and what a person reads at its end."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
from rich.console import Console

from mgray.config import ResolvedTrainJobConfig, TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset, Query
from mgray.data.manifest import MANIFEST_FILE, Manifest, short_key
from mgray.eval.measured_baselines import MeasuredBaselines
from mgray.eval.slices import SliceFigures
from mgray.eval.valid_share import MAX_COST, max_users_share
from mgray.report import report_data
from mgray.report.model_card import model_card
from mgray.report.run_report import render_html
from mgray.schema import UNKNOWN, OptionalColumn
from mgray.serve.model_folder import ModelInfo, load_info
from mgray.serve.recommender import Reasons, Recommender
from mgray.serve.request import raw_lists
from mgray.train.run_result import RankResult
from pipelines import tracking
from pipelines.evaluate.job import print_result, repeat_notes
from pipelines.runtime import cluster
from pipelines.runtime.console import say
from pipelines.runtime.redact import command_line, shown_uri
from pipelines.runtime.result import DatasetLabel, JobResult, VersionLabel
from pipelines.tracking.registry import TRAINING_KEY_TAG, training_key
from pipelines.train.unregistered import Registration, register_command

REPORT_FILE = "report.html"  # in a run's folder
EXAMPLE_FILMS = 10
EXAMPLE_EVENTS = 5  # that the report names as what a recommendation comes from


class FinishedRun(NamedTuple):
    """A training that has ended, and where it ran."""

    config: ResolvedTrainJobConfig
    dataset: Dataset
    trained: RankResult  # rank 0's
    model_folder: Path
    run_id: str
    uri: str
    plan: cluster.WorkerPlan
    seconds: dict[str, float]  # by phase
    baselines: MeasuredBaselines | None = None  # None: not measured yet

    @property
    def ranks(self) -> bool:
        """A model that only rates recommends nothing, and is not registered."""
        return self.config.model.outputs != "rating"

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Baseline -> its metrics."""
        return self.baselines.metrics if self.baselines else {}

    @property
    def notes(self) -> list[str]:
        """Notes that a person must read beside the figures."""
        notes = time_notes(self.config.train, self.trained.epochs) + valid_notes(self.trained)
        if self.trained.memory_failure:
            notes.append(f"the model has no memory (model.memory), for its fit failed: {self.trained.memory_failure}")
        if self.baselines is None:
            return [*notes, "The baselines are not measured yet; they follow here"]
        return notes + repeat_notes(self.baselines) + self.baselines.notes()


class Published(NamedTuple):
    """What is with MLflow before the baselines are measured."""

    version: str | None  # None: not registered
    registration: Registration | None  # None: a model that only rates
    example: report_data.Example | None
    report: Path
    failure: Exception | None = None  # of the registration


class TrainResult(JobResult):
    """Result of the train job."""

    run_id: str
    tracking_uri: str
    model: VersionLabel | None  # None: not registered
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    baselines_share: float  # of the users, that the baselines were measured on
    report: str
    checkpoint: str  # the model folder
    workers: str
    positions_s: int
    dataset: DatasetLabel | None = None
    rows: dict[str, int] = {}
    seconds: dict[str, float] = {}
    unsent_metrics: int = 0


def publish(run: FinishedRun, out: Console) -> Published:
    """Bring the model and its report to MLflow. Nothing of it waits for the baselines."""
    recommender = Recommender(run.model_folder)
    query = example_query(run.dataset, recommender.scorer.columns) if run.ranks else None
    example = make_example(run.dataset, query, recommender) if query is not None else None
    version = failure = registration = None
    if run.ranks:
        registration = _registration(run, recommender.info, example_request(run.dataset, query, recommender))
        try:
            version = tracking.register(
                run.config.tracking, run.model_folder, registration.request, registration.tags, registration.card
            )
        except Exception as error:  # of MLflow, its store or the network; told at the end: hours of training come first
            failure = error
            registration.keep(run.model_folder.parent)
    published = Published(version, registration, example, run.model_folder.parent / REPORT_FILE, failure)
    _write_report(run, published)
    if version is not None:
        say(out, f"registered: {run.config.tracking.model_name} version {version}; the baselines follow")
    return published


def finish(run: FinishedRun, published: Published, out: Console) -> TrainResult:
    """Add the baselines to what was published, and print the tables on stderr."""
    settings = run.config.tracking
    if published.registration is not None:
        registration = _with_baselines(published.registration, run)
        if published.version is not None:
            version = published.version
            tracking.try_to_log("the card", lambda: tracking.describe_version(settings, version, registration.card))
        elif published.failure is not None:
            registration.keep(run.model_folder.parent)
    _write_report(run, published)
    print_result(out, run.trained.metrics, run.figures, run.notes, published.example)
    say(out, f"report: {published.report}")
    say(out, f"MLflow UI: {tracking.ui_command(run.uri)}")
    out.print(f"  then the runs: {tracking.runs_link(run.uri)}", highlight=False, soft_wrap=True)
    if published.failure is not None:
        where = f"the registry at {shown_uri(run.uri)}" if settings.register_model else "MLflow's run"
        mend = f", and this registers it: {register_command(run.config, run.model_folder)}"
        raise RuntimeError(
            f"the model is not in {where}: {published.failure}; it lies in {run.model_folder}"
            f"{mend if settings.register_model else ''}"
        ) from published.failure
    return TrainResult(
        run_id=run.run_id,
        tracking_uri=shown_uri(run.uri),
        model=VersionLabel(name=settings.model_name, version=published.version) if published.version else None,
        metrics=run.trained.metrics,
        baselines=run.figures,
        baselines_share=run.baselines.share if run.baselines else 1.0,
        report=str(published.report),
        checkpoint=str(run.model_folder),
        workers=run.plan.label,
        positions_s=round(run.trained.positions / run.trained.train_s),
    )


def _write_report(run: FinishedRun, published: Published) -> None:
    published.report.write_text(render_html(_report_data(run, published.version, published.example)), encoding="utf-8")
    tracking.try_to_log("report and manifest", partial(_log_files, run.dataset, published.report))


def _with_baselines(registration: Registration, run: FinishedRun) -> Registration:
    card = model_card(run.config, load_info(run.model_folder), run.dataset.manifest, run.trained, run.figures)
    return registration.model_copy(update={"card": card})


def _registration(run: FinishedRun, info: ModelInfo, request: dict[str, list[list[Any]]]) -> Registration:
    """Gather what goes to the registry with the model. request: the model's input example."""
    fingerprint = run.dataset.manifest.fingerprint
    tags = {"dataset_fingerprint": fingerprint, "run_id": run.run_id}
    tags |= {tracking.metric_key(f"test/{name}"): f"{value:.6f}" for name, value in run.trained.metrics.items()}
    tags |= {TRAINING_KEY_TAG: training_key(run.config, fingerprint)}
    card = model_card(run.config, info, run.dataset.manifest, run.trained, run.figures)
    return Registration(request=request, tags=tags, card=card, manifest=run.dataset.manifest)


def _report_data(run: FinishedRun, version: str | None, example: report_data.Example | None) -> report_data.ReportData:
    config, trained, manifest = run.config, run.trained, run.dataset.manifest
    members = "" if config.model.members == 1 else f" ({config.model.members} members)"
    slices = run.baselines.slices if run.baselines else {}
    return report_data.ReportData(
        title=f"mgray: {', '.join(str(g) for g in config.model.granularities)}{members}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        facts={
            "run": run.run_id,
            "model": f"{config.tracking.model_name} version {version}" if version else "not registered",
            **run_facts(run.dataset, trained, run.plan, run.seconds),
            **baseline_facts(run.baselines),
        },
        k=config.evaluate.k,
        metrics=trained.metrics,
        baselines=run.figures,
        num_targets=trained.num_targets,
        curves=trained.curve,
        slices=slice_rows({report_data.MODEL: trained.slices} | slices),
        granularities=granularity_shares(config, trained.attention),
        example=example,
        config=tracking.run_params(config, run.uri),
        rows=manifest.rows,
        notes=[*report_notes(config, manifest), *run.notes],
    )


def _log_files(dataset: Dataset, report_path: Path) -> None:
    mlflow.log_artifact(str(report_path))
    mlflow.log_dict(dataset.manifest.model_dump(mode="json"), MANIFEST_FILE)
    if dataset.manifest.report_file is not None:
        mlflow.log_artifact(str(dataset.folder / dataset.manifest.report_file), "ingest")


def run_facts(
    dataset: Dataset, trained: RankResult, plan: cluster.WorkerPlan, seconds: dict[str, float]
) -> dict[str, str]:
    """Facts on the data and the training for the report, by label."""
    manifest = dataset.manifest
    return {
        "dataset": short_key(manifest.fingerprint),
        "users, items, events": f"{manifest.users:,}, {manifest.items:,}, {manifest.rows['written']:,}",
        "parameters": f"{trained.parameters:,}",
        "workers": f"{plan.label} ({trained.device})",
        "memory": "none" if trained.memory is None else trained.memory.label,
        "epochs, steps": f"{trained.epochs:.1f}, {trained.steps:,} (best: {trained.best_epoch:.1f})",
        "positions a second": f"{trained.positions / trained.train_s:,.0f}",
        "seconds": ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()),
    }


def baseline_facts(measured: MeasuredBaselines | None) -> dict[str, str]:
    """The baselines' settings for the report, by label."""
    settings = measured.settings if measured else {}
    return {f"{name}, chosen by the validation part": text for name, text in settings.items()}


def slice_rows(slices_by_system: dict[str, dict[str, list[SliceFigures]]]) -> dict[str, list[report_data.SliceRow]]:
    """System -> slices, to slice kind -> rows that show every system side by side."""
    rows: dict[str, list[report_data.SliceRow]] = {}
    for kind, model_rows in slices_by_system[report_data.MODEL].items():
        by_label: dict[str, dict[str, dict[str, float]]] = {row.label: {} for row in model_rows}
        for system, slices in slices_by_system.items():
            for row in slices[kind]:
                by_label[row.label][system] = row.metrics
        counts = {row.label: row.num_targets for row in model_rows}
        rows[kind] = [
            report_data.SliceRow(label=label, count=counts[label], metrics=m) for label, m in by_label.items()
        ]
    return rows


def example_query(dataset: Dataset, columns: Collection[OptionalColumn]) -> Query | None:
    """A user to show: of the first shard that has one, with a test event and enough history to read something into."""
    for shard in range(dataset.num_shards):
        queries = dataset.queries("test", columns, [shard])
        candidates = [query for query in queries if len(query.history) and query.target != UNKNOWN]
        if candidates:
            return max(candidates, key=lambda query: min(len(query.history), EXAMPLE_FILMS))
    return None


def make_example(dataset: Dataset, query: Query, recommender: Recommender) -> report_data.Example:
    lists = raw_lists([query.history], dataset, recommender.info.inputs)
    history = lists["history"][0]
    result = recommender.recommend([history], EXAMPLE_FILMS, beside=lists)
    shown = {*history, *result.items[0]}
    titles = {item: dataset.titles[recommender.encoder.number(item) - 1] for item in shown}  # numbered alike
    return report_data.Example(
        user_id=query.user_id,
        last=[titles[item] for item in history[-EXAMPLE_FILMS:]],
        recommended=[(titles[i], s) for i, s in zip(result.items[0], result.scores[0], strict=True)],
        next=dataset.titles[query.target - 1],
        why=explain_example(titles, recommender.explain([history], result, beside=lists)[0]),
    )


def explain_example(titles: Mapping[str, str], reasons: Reasons) -> report_data.Why:
    """titles: item id -> title."""
    events = [(titles[item], score) for item, score in zip(reasons.events, reasons.event_scores, strict=True)]
    return report_data.Why(
        granularities=list(zip(reasons.granularities, reasons.granularity_scores, strict=True)),
        events=sorted(events, key=lambda event: -abs(event[1]))[:EXAMPLE_EVENTS],
    )


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
    share = max_users_share(config.evaluate, manifest.users)
    if config.train.include_valid:
        notes.append(
            "The model trained on the validation part too (train.include_valid), the baselines on the training part "
            "alone; the model saved is the last one, chosen by no figure."
            + (" Of about a tenth of the users it did not, for the fit of memory." if config.model.memory else "")
        )
    elif share < 1:
        notes.append(
            f"Validation during training was by at most {share:.1%} of the users (evaluate.max_valid_users), drawn by "
            "a hash of their ids; the figures above are by all."
        )
    if config.model.outputs != "next_item":
        notes.append(
            "Ratings are those of the test part's events, predicted from the user's history by the model and the "
            "baselines alike, and clipped to the scale; accuracy is after rounding to it."
        )
    return notes


def time_notes(config: TrainConfig, epochs: float) -> list[str]:
    """Note that more time would train on, where time is what ended the training at `epochs`."""
    if config.max_time_s is None or epochs >= config.epochs:
        return []
    return [
        f"{config.max_time_s:g} s of training (train.max_time_s) were enough for {epochs:.1f} of {config.epochs} "
        "epochs; more may do better: --train.max_time_s SECONDS, or none"
    ]


def valid_notes(trained: RankResult) -> list[str]:
    """Note that validation was by fewer users than evaluate.max_valid_users allows, where the cost made it so."""
    share = trained.valid_share
    if not share.is_cut or not trained.valid_s:  # with train.include_valid there was none
        return []
    return [
        f"validation during training was by about {share.users:.2%} of the users, drawn by a hash of their ids: by "
        f"{share.allowed:.0%} it would cost about {share.cost:.0%} of the training, where at most {MAX_COST:.0%} is "
        f"meant; it took {trained.valid_s / max(trained.train_s, 1e-9):.1%} (all users at any cost: "
        "--evaluate.max_valid_users none)"
    ]


def granularity_shares(config: TrainJobConfig, attention: list[list[float]] | None) -> list | None:
    if attention is None:
        return None
    return [
        report_data.GranularityShare(label=str(granularity), share=float(np.mean(heads)), heads=heads)
        for granularity, heads in zip(config.model.granularities, attention, strict=True)
    ]


def example_request(dataset: Dataset, query: Query | None, recommender: Recommender) -> dict[str, list[list[Any]]]:
    """The model's input example, which has every column that it reads: the last events of a real user, or none."""
    if query is None:
        return recommender.empty_request()
    return raw_lists([query.history.take(slice(-5, None))], dataset, recommender.info.inputs)
