"""The search: many trials of the same training on Ray Tune, ASHA stopping the weak; then the best in full.

Resources on a cluster of C CPUs, workers of c CPUs each, W a trial:
- W = 1: a trial's actor is its worker and holds c CPUs. Tune places as many as fit.
- W > 1: the actor waits for a Train run whose workers Tune does not see, so it holds no CPU itself, and
  floor(C / (W c)) trials run at a time: every trial that starts finds room for all of its workers, so none waits for
  another. When ASHA stops a trial its actor dies, and Ray's clean-up returns the workers' placement group. That asks
  the dashboard's State API: without a dashboard the group leaks and the next trial waits forever (ray#54305).
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import mlflow
import ray
from ray import tune
from rich.console import Console

from mgray.config import TrainJobConfig, TuneJobConfig, search_space
from mgray.data.dataset import Dataset
from mgray.errors import InputError
from mgray.serve.model_folder import ModelInfo
from mgray.train.resolve import resolve_job
from pipelines import tracking
from pipelines.ingest.job import obtain_dataset
from pipelines.runtime import cluster
from pipelines.runtime.console import Timer, console, say
from pipelines.runtime.redact import shown_uri
from pipelines.runtime.result import DatasetLabel, VersionLabel
from pipelines.train.job import (
    MODEL_FOLDER,
    check_trainable,
    drop_all_but,
    find_warm_start,
    resolve_for,
    run_name,
    train_model,
)
from pipelines.tune.search_folder import SPACE_FILE, SearchFolder, open_search
from pipelines.tune.search_summary import (
    EndedSearch,
    SearchFigures,
    as_it_stands,
    best_of,
    no_best,
    publish_search,
)
from pipelines.tune.study import Point, StudySearcher, TrialRecord, make_scheduler, open_study, trial_records
from pipelines.tune.trial import TrialInput, run_trial
from pipelines.tune.trial_runs import TrialRuns

SECONDS_FOR_THE_STATE_API = 40.0
INTERRUPTED = "interrupted; --resume goes on"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class SearchResult(SearchFigures):
    """Result of the tune job. Fields without a figure: the best is not trained in full."""

    run_id: str
    tracking_uri: str
    dataset: DatasetLabel
    model: VersionLabel | None = None
    metrics: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    checkpoint: str = ""
    best_run_id: str = ""
    best_report: str = ""
    resumed: bool = False
    seconds: dict[str, float] = {}


def run_search(config: TuneJobConfig) -> dict[str, Any]:
    """The tune job -> its result line. Raises InputError where the user's input is wrong."""
    return search_and_train(config).line()


def search_and_train(config: TuneJobConfig) -> SearchResult:
    """Search, then train the best. A search that is complete gives its result again."""
    out, timer = console(), Timer()
    home = cluster.job_home(config)
    with open_search(config, home) as search:
        ended, earlier = search.memo.ended, search.memo.result
        if earlier is not None and ended >= search.config.search.num_trials:
            say(out, f"search {search.name} is complete: {ended} trials")
            return SearchResult(**earlier).more(resumed=True)
        uri = tracking.open_tracking(search.config.tracking, home)
        warm = _warm_start(search, uri)
        with timer.phase("ray_start"):
            cluster.connect(dashboard=search.config.scale.num_workers > 1)
        plan = cluster.plan_workers(search.config.scale)
        if plan.num_workers > 1:
            check_state_api()
        dataset = _dataset(search, home, out, timer)
        result = _Search(search, home, uri, warm, plan, dataset, out, timer).run()
        search.note(result=result.line())
    return result.more(resumed=config.resume, seconds=timer.seconds)


def check_state_api() -> None:
    """Raises InputError where the cluster has no dashboard, without which stopped trials keep their workers' CPUs."""
    from ray.util.state import list_placement_groups

    deadline = time.monotonic() + SECONDS_FOR_THE_STATE_API
    while True:
        try:
            list_placement_groups(address=ray.get_runtime_context().gcs_address, limit=1, timeout=5)
        except Exception as error:  # connection errors of several libraries
            if time.monotonic() > deadline:
                raise InputError(
                    "scale.num_workers: trials of several workers need Ray's dashboard, which this cluster does not "
                    "answer by; start the head with --include-dashboard true, or set --scale.num_workers 1"
                ) from error
            time.sleep(1)
        else:
            return


def concurrent_trials(config: TuneJobConfig, plan: cluster.WorkerPlan) -> int:
    """How many trials the nodes' CPUs and GPUs hold at a time, at most `search.max_concurrent`."""
    # At least one, though a node was lost since the plan: to Tune 0 is no limit.
    room = max(1, cluster.room(plan.resources_per_worker) // plan.num_workers)
    return min(room, config.search.max_concurrent or room)


def _dataset(search: SearchFolder, home: Path, out: Console, timer: Timer) -> Dataset:
    """Ingested once, by the search; a resumed one goes on with the version it began with, whatever the log is now."""
    if search.memo.knows("dataset"):
        return Dataset(search.memo.dataset)
    dataset, _ = obtain_dataset(search.config.data, home, out, timer)
    check_trainable(dataset)
    if not dataset.manifest.valid_events:
        raise InputError(f"{dataset.folder}: nothing to validate with; give a longer log, or another data.split")
    search.note(dataset=str(dataset.folder.absolute()))
    return dataset


def _warm_start(search: SearchFolder, uri: str) -> tuple[TrainJobConfig, ModelInfo | None]:
    """Find the model to start from, as `find_warm_start` does.

    A resumed search goes on from the version that an alias named when it began.
    """
    config = search.config
    if search.memo.knows("warm_start"):
        train = config.train.model_copy(update={"warm_start": search.memo.warm_start})
        config = config.model_copy(update={"train": train})
    found, start = find_warm_start(config, uri)
    search.note(warm_start=found.train.warm_start)
    return found, start


class _Failures(tune.Callback):
    """Trials whose process died, as often as `scale.max_failures` allows; the others end by a report."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        self.searcher.fail(trial.trial_id, f"its process ended: {' '.join(lines)[:500] or 'no reason given'}")


class _Search:
    """One process's part of a search."""

    def __init__(
        self,
        search: SearchFolder,
        home: Path,
        uri: str,
        warm: tuple[TrainJobConfig, ModelInfo | None],
        plan: cluster.WorkerPlan,
        dataset: Dataset,
        out: Console,
        timer: Timer,
    ) -> None:
        self.search, self.home, self.uri, self.plan, self.dataset = search, home, uri, plan, dataset
        self.out, self.timer, self.config = out, timer, search.config
        self.metric = f"{self.config.search.metric}@{self.config.evaluate.k}"
        found, self.start = warm
        asked = TrainJobConfig.model_validate(found.model_dump(include=set(TrainJobConfig.model_fields)))
        # The space's ranges hold numbers: the first trial, the configuration itself, has to be a point of them.
        # And before a trial is made, each of which would fail by a wrong input.
        self.base = resolve_for(dataset, asked, self.start)
        shorter = self.base.train.model_copy(update={"epochs": self.config.trial_epochs})
        self.trial_base = self.base.model_copy(update={"train": shorter})
        first = search_space.encode(search.space, self.base) if self.config.search.start_from_config else None
        self.study = open_study(search.path, self.config, first)
        self.runs: TrialRuns | None = None

    def records(self) -> list[TrialRecord]:
        return trial_records(self.study, self.search.space)

    def run(self) -> SearchResult:
        params = tracking.run_params(self.config, self.uri)
        params |= {f"space.{key}": words for key, words in search_space.space_text(self.search.space).items()}
        tags = tracking.run_tags((), self.dataset.manifest.fingerprint, self.plan.label)
        tags |= {"granularities": "searched", "search.name": self.search.name, "kind": "search"}
        earlier = self.search.memo.run_id
        # A param cannot be logged twice with two values, and a resume may have changed the budget.
        with tracking.start_run(
            self.config.tracking, {} if earlier else params, tags, f"search {self.search.name}", earlier
        ) as run:
            run_id = run.info.run_id
            self.search.note(run_id=run_id)
            mlflow.log_artifact(str(self.search.path / SPACE_FILE))
            self.runs = TrialRuns(self.config.tracking, self.uri, run_id)
            going_on = {r.run_id for r in self.records() if r.outcome == "running" and r.run_id}
            self.runs.end_leftovers(going_on)
            try:
                with self.timer.phase("search"):
                    exhausted = self._trials()
            finally:
                for record in self.records():
                    if record.outcome == "running" and record.run_id:
                        self.runs.update(record.run_id, "KILLED", {"search.outcome": INTERRUPTED})
                # One that was made as a signal came is on no record yet.
                self.runs.end_leftovers(set(), INTERRUPTED)
            trials = [as_it_stands(record) for record in self.records()]
            best = best_of(trials) or no_best(trials)
            figures = publish_search(
                EndedSearch(self.search, trials, best, self.base, self.dataset, self.metric), self.out
            )
            ended = sum(record.outcome != "running" for record in self.records())
            self.search.note(ended=self.config.search.num_trials if exhausted else ended)
        result = SearchResult(
            **figures.line(),
            run_id=run_id,
            tracking_uri=shown_uri(self.uri),
            dataset=DatasetLabel(path=str(self.dataset.folder), fingerprint=self.dataset.manifest.fingerprint),
        )
        return self._train_best(result, best)

    def _trials(self) -> bool:
        """Whether the space holds no point that has not been tried."""
        search = self.config.search
        remaining = search.num_trials - sum(record.outcome != "running" for record in self.records())
        if remaining <= 0:
            return False
        # Ctrl-C ends the job, as it does elsewhere, and --resume goes on; the rest is files that nobody reads.
        for name in ("TUNE_DISABLE_SIGINT_HANDLER", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"):
            os.environ.setdefault(name, "1")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables go to stdout, which is the result line's
        os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failure is a report without a score
        searcher = StudySearcher(self.study, self.search.space, self._prepare, self._ended)
        at_a_time = concurrent_trials(self.config, self.plan)
        say(
            self.out,
            f"search {self.search.name}: {remaining} trials, {at_a_time} at a time, "
            f"of {self.config.trial_epochs} epochs; {self.search.path}",
        )
        in_actor = self.plan.resources_per_worker if self.plan.num_workers == 1 else WAITING_ACTOR
        tuner = tune.Tuner(
            tune.with_resources(run_trial, tune.PlacementGroupFactory([in_actor])),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=make_scheduler(searcher, self.config),
                num_samples=remaining,
                max_concurrent_trials=at_a_time,
                time_budget_s=search.max_time_s,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
                # A process starts in 4-5 s on an idle core. A trial that waits for a Train run cannot be reset.
                reuse_actors=self.plan.num_workers == 1,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{time.time_ns()}",
                storage_path=str(self.search.path / "tune"),
                callbacks=[_Failures(searcher)],
                failure_config=tune.FailureConfig(max_failures=self.config.scale.max_failures),
                verbose=0,
            ),
        )
        tuner.fit()
        shutil.rmtree(self.search.path / "tune", ignore_errors=True)
        return searcher.exhausted

    def _prepare(self, number: int, point: Point, earlier: str | None) -> dict[str, Any]:
        """The trial's config and MLflow run: a new one, or that of the attempt which a kill cut short."""
        assert self.runs is not None
        values = search_space.decode(self.search.space, point)
        asked: TrainJobConfig = self.trial_base
        wrong_input = None
        try:
            asked = search_space.apply(self.trial_base, values, f"trial {number}")
            config = resolve_job(asked, self.dataset.manifest, self.start.config if self.start else None)
        except InputError as error:  # keys that are valid one by one and not together, or that the data does not fit
            config, wrong_input = self.trial_base, str(error)
        if earlier:
            self.runs.update(earlier, "RUNNING")
        else:
            tags = tracking.run_tags(asked.model.granularities, self.dataset.manifest.fingerprint, self.plan.label)
            tags |= {"search.name": self.search.name, "search.trial": str(number), "kind": "trial"}
            earlier = self.runs.create(
                f"trial {number}: {run_name(asked)}", tracking.run_params(asked, self.uri) | values, tags
            )
        return TrialInput(
            config=config.model_dump_json(),
            dataset=str(self.dataset.folder.absolute()),
            run_id=earlier,
            uri=self.uri,
            home=str(self.home),
            plan=self.plan,
            metric=self.metric,
            wrong_input=wrong_input,
        )._asdict()

    def _ended(self, record: TrialRecord) -> None:
        assert self.runs is not None
        assert record.run_id is not None
        ended = [r for r in self.records() if r.outcome != "running"]
        tags = {"search.outcome": record.outcome} | ({"search.reason": record.reason} if record.reason else {})
        figures = {f"best_valid/{self.metric}": record.score} if record.curve else {}
        self.runs.update(record.run_id, STATUS[record.outcome], tags, figures)
        drop_all_but((MODEL_FOLDER,), self.home / "runs" / record.run_id)
        best = best_of(ended)
        score = f"{self.metric} {record.score:.4f}" if record.curve else ""
        best_so_far = f" (best {best.score:.4f}, trial {best.number})" if best else ""
        say(
            self.out,
            f"{len(ended)}/{self.config.search.num_trials} trial {record.number} {record.outcome} {score}"
            f"{f': {record.reason}' if record.reason else ''}{best_so_far}",
        )

    def _train_best(self, result: SearchResult, best: TrialRecord) -> SearchResult:
        """Train the best trial's configuration in full, if that is asked for, and add what came of it."""
        if not self.config.search.train_best:
            return result.more(model=None)
        config = search_space.apply(self.base, search_space.decode(self.search.space, best.point), "best")
        workers = self.config.search.best_num_workers or self.config.scale.num_workers
        data = config.data.model_copy(update={"dataset": str(self.dataset.folder.absolute())})
        scale = config.scale.model_copy(update={"num_workers": workers})
        config = config.model_copy(update={"data": data, "scale": scale})
        say(self.out, "training the best in full")
        tags = {"mlflow.parentRunId": result.run_id, "search.name": self.search.name, "kind": "best of a search"}
        with self.timer.phase("train_best"):
            full = train_model(config, tags)
        assert self.runs is not None
        tags = {"search.best_run_id": full.run_id}
        if full.model:
            tags["search.model"] = f"{full.model.name} version {full.model.version}"
        figures = {f"test/{name}": value for name, value in full.metrics.items()}
        self.runs.update(result.run_id, "FINISHED", tags, figures)
        return result.more(
            model=full.model,
            metrics=full.metrics,
            baselines=full.baselines,
            checkpoint=full.checkpoint,
            best_run_id=full.run_id,
            best_report=full.report,
        )


# Trials of several workers: the actor waits and must take no CPU from them. A placement group cannot ask for nothing,
# and the head has this resource always.
WAITING_ACTOR = {"node:__internal_head__": 0.001}
