"""Figures of an ended search, for MLflow, for people and for the result line."""

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

import mlflow
import torch
from rich.console import Console

from mgray.config import ResolvedModelConfig, TrainJobConfig, TuneJobConfig, search_space
from mgray.config.command_line import job_words
from mgray.data.dataset import Dataset
from mgray.data.inputs import named_inputs
from mgray.data.manifest import Manifest, short_key
from mgray.errors import InputError
from mgray.model.ensemble import make_model, num_parameters
from mgray.report.search_report import SearchReport, TrialRow, render_search, search_line
from mgray.train.resolve import resolve_job
from pipelines import tracking
from pipelines.runtime.console import say
from pipelines.runtime.redact import command_line
from pipelines.runtime.result import JobResult
from pipelines.tune.search_folder import SearchFolder
from pipelines.tune.study import TrialRecord, importance

BEST_FILE, REPORT_FILE, TRIALS_FILE = "best.yaml", "search.html", "trials.json"


def best_of(trials: list[TrialRecord]) -> TrialRecord | None:
    """The highest score among those that trained to their end; among the stopped where none did."""
    for outcome in ("finished", "stopped"):
        found = [trial for trial in trials if trial.outcome == outcome and trial.curve]
        if found:
            return max(found, key=lambda trial: (trial.score, -trial.number))
    return None


def as_it_stands(trial: TrialRecord) -> TrialRecord:
    """A trial that the end of the search's time cut short counts as stopped, until a resume goes on with it."""
    if trial.outcome != "running" or not trial.curve:
        return trial
    return replace(trial, outcome="stopped", reason="unfinished when the search's time was up")


def no_best(trials: list[TrialRecord]) -> NoReturn:
    """The job fails with the first trial's reason."""
    failed = [trial for trial in trials if trial.outcome == "failed"]
    if not failed:
        raise InputError("search.max_time_s: no trial came to its first validation; give more time, or smaller trials")
    all_of_them = "the only trial failed" if len(failed) == 1 else f"all {len(failed)} trials failed; the first"
    text = f"{all_of_them} (trial {failed[0].number}): {failed[0].reason}"
    if failed[0].wrong_input:
        raise InputError(text)
    raise RuntimeError(text)


def rungs(search: SearchFolder) -> list[float]:
    """Epochs at which ASHA may stop a trial."""
    config = search.config.search
    found, rung = [], float(config.grace_epochs)
    while config.scheduler == "asha" and rung <= search.config.trial_epochs:
        found.append(rung)
        rung *= config.reduction_factor
    return found


def count_parameters(config: ResolvedModelConfig, manifest: Manifest) -> int:
    with torch.device("meta"):  # shapes alone
        model = make_model(config, manifest.items, named_inputs(config, manifest))
    return num_parameters(model)


def trial_row(trial: TrialRecord, search: SearchFolder, base: TrainJobConfig, manifest: Manifest) -> TrialRow:
    values = search_space.decode(search.space, trial.point)
    try:
        config = search_space.apply(base, values)
        parameters = count_parameters(resolve_job(config, manifest).model, manifest)
    except InputError:  # it failed by that
        config, parameters = base, 0
    levels = values.get("model.granularities", config.model.granularities)
    return TrialRow(
        number=trial.number,
        outcome=trial.outcome,
        reason=trial.reason,
        run_id=trial.run_id,
        curve=trial.curve,
        values=values,
        granularities=[str(level) for level in levels],
        parameters=parameters,
        seconds=trial.seconds,
        steps=trial.steps,
    )


class EndedSearch(NamedTuple):
    """A search whose trials have ended."""

    search: SearchFolder
    trials: list[TrialRecord]
    best: TrialRecord
    base: TrainJobConfig  # what trials differ from
    dataset: Dataset
    metric: str

    @property
    def best_values(self) -> dict[str, Any]:
        """Dotted key -> the best trial's value."""
        return search_space.decode(self.search.space, self.best.point)


class SearchFigures(JobResult):
    """Figures of an ended search; part of the tune job's result."""

    search: str  # its folder
    metric: str
    best: dict[str, Any]  # trial: its number, METRIC: its score, and dotted key -> value
    best_config: str
    trials: dict[str, int]  # outcome -> how many
    search_report: str


def publish_search(ended: EndedSearch, out: Console) -> SearchFigures:
    """Write best configuration, table of trials and report into the search's folder, and log them to the active run."""
    search, best, metric = ended.search, ended.best, ended.metric
    report = _report(ended)
    counts = {name: sum(row.outcome == name for row in report.trials) for name in ("finished", "stopped", "failed")}
    files = {
        BEST_FILE: report.best_yaml,
        REPORT_FILE: render_search(report),
        TRIALS_FILE: report.model_dump_json(indent=1),
    }
    for name, text in files.items():
        (search.path / name).write_text(text, encoding="utf-8")

    def log() -> None:
        for name in files:
            mlflow.log_artifact(str(search.path / name))
        mlflow.log_metrics(
            {f"search/{name}": count for name, count in counts.items()}
            | {tracking.metric_key(f"best_valid/{metric}"): best.score}
        )
        mlflow.set_tag("search.best_trial", str(best.number))

    tracking.try_to_log("the search's summary", log)
    say(out, search_line(report))
    say(out, f"report: {search.path / REPORT_FILE}")
    return SearchFigures(
        search=str(search.path),
        metric=metric,
        best={"trial": best.number, metric: best.score, **ended.best_values},
        best_config=str(search.path / BEST_FILE),
        trials=counts,
        search_report=str(search.path / REPORT_FILE),
    )


def _report(ended: EndedSearch) -> SearchReport:
    search, best = ended.search, ended.best
    config, manifest = search.config, ended.dataset.manifest
    rows = [trial_row(trial, search, ended.base, manifest) for trial in ended.trials if trial.outcome != "running"]
    marks = rungs(search)
    epoch = int(marks[0]) if marks else config.trial_epochs
    return SearchReport(
        title=f"mgray search: {search.name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        facts=_facts(config, manifest, rows, is_stopping=bool(marks)),
        metric=ended.metric,
        trial_epochs=config.trial_epochs,
        rungs=marks,
        trials=rows,
        best=best.number,
        importance=importance(ended.trials, search.space, epoch),
        importance_epoch=epoch,
        space=search_space.space_text(search.space),
        best_yaml=_best_yaml(ended),
    )


def _facts(config: TuneJobConfig, manifest: Manifest, rows: list[TrialRow], is_stopping: bool) -> dict[str, str]:
    """Facts on the search for the report, by label. is_stopping: whether ASHA may stop trials."""
    asha = f"grace {config.search.grace_epochs} epochs, factor {config.search.reduction_factor:g}"
    return {
        "algorithm": config.search.algorithm,
        "scheduler": f"asha ({asha})" if is_stopping else "none",
        "epochs of a trial": str(config.trial_epochs),
        "workers of a trial": str(config.scale.num_workers),
        "dataset": short_key(manifest.fingerprint),
        "users, items": f"{manifest.users:,}, {manifest.items:,}",
        "training seconds": f"{sum(row.seconds or 0 for row in rows):,.0f}",
        "seed": str(config.search.seed),
        "first trial": "the configuration given" if config.search.start_from_config else "drawn",
    }


def _best_yaml(ended: EndedSearch) -> str:
    heading = [
        f"The best of search {ended.search.name}: trial {ended.best.number}, validation {ended.metric} "
        f"{ended.best.score:.4f}.",
        shlex.join([*job_words("train"), "--config", BEST_FILE]),
    ]
    return search_space.best_yaml(search_space.apply(ended.base, ended.best_values, "best"), heading)
