"""The main job: log -> dataset -> DDP training on Ray Train -> test figures -> MLflow's registry -> baselines."""

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from mgray.config import ResolvedTrainJobConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.data.inputs import named_inputs
from mgray.errors import InputError
from mgray.eval.measured_baselines import MeasuredBaselines
from mgray.serve.model_folder import ModelInfo, Vocabulary, load_info, save_vocabulary
from mgray.train import checkpoint
from mgray.train.resolve import resolve_job
from mgray.train.run_result import RankMistake, RankResult
from mgray.train.warm_start import check_fits
from pipelines import tracking
from pipelines.ingest.job import obtain_dataset
from pipelines.runtime import cluster
from pipelines.runtime.console import Timer, console, training_progress
from pipelines.runtime.result import DatasetLabel
from pipelines.train.baselines import STAGE_SUFFIX, measure_baselines
from pipelines.train.publish import REPORT_FILE, FinishedRun, TrainResult, finish, publish
from pipelines.train.worker import LocalSession, RankInput, RankRun, train_worker

MODEL_FOLDER = "model"  # in a run's folder: the best one
SPOOL_FILE = "unsent_metrics.jsonl"  # in a run's folder: what MLflow did not take
STATE_FOLDER = "state"  # in a run's folder: weights, optimizer state and progress of the latest step
# Ray Train's controller takes one report of the workers a poll, and they wait for it: by its default, 2 s a validation.
POLL_VARIABLE, POLL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5"
MEMORY_TAG = "memory"  # of MLflow's run: what the model looks up
VALID_USERS_TAG = "valid_users_share"  # of MLflow's run: share of the users that validation was by
WARM_START_FOLDER = "warm_start"  # in a run's folder while it trains: the model that it starts from


class Fitted(NamedTuple):
    """A training that has ended."""

    trained: RankResult  # rank 0's
    model_folder: Path  # the best model


class _Trainer(TorchTrainer):
    """TorchTrainer that leaves Ctrl-C to the job: Ray's own handler ends the run as if it had failed."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Do nothing: the job's handler raises, and the workers end with their controller, and it with the driver."""


def fit(
    given: RankInput,
    config: TrainJobConfig,
    plan: cluster.WorkerPlan,
    runs: Path,
    callbacks: Sequence[UserCallback] = (),
) -> Fitted:
    """Train by DDP on the cluster's workers; the run's storage is `runs`/run_id."""
    os.environ.setdefault(POLL_VARIABLE, POLL_S)
    trainer = _Trainer(
        train_worker,
        train_loop_config=given._asdict(),
        torch_config=TorchConfig(
            backend="nccl" if plan.use_gpu else "gloo", timeout_s=config.scale.collective_timeout_s
        ),
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers, use_gpu=plan.use_gpu, resources_per_worker=plan.resources_per_worker
        ),
        run_config=RunConfig(
            name=given.run_id,
            storage_path=str(runs),
            # Without a limit a worker group that cannot be placed is tried again forever.
            failure_config=FailureConfig(max_failures=config.scale.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=list(callbacks),
        ),
    )
    result = trainer.fit()
    trained = check_trained(result.return_value)
    assert result.checkpoint is not None, "the last epoch always validates, and so checkpoints"
    with result.checkpoint.as_directory() as folder:
        return Fitted(trained, _keep_best(Path(folder), given, runs / given.run_id))


def check_trained(result: RankResult | RankMistake) -> RankResult:
    """The rank's result. Raises InputError where it is a mistake of the user's."""
    if isinstance(result, RankMistake):
        raise InputError(result.message)
    return result


def check_trainable(dataset: Dataset, include_valid: bool = False) -> None:
    """Raises InputError where there is nothing to learn from: a next item needs two training events of one user."""
    if not any((lengths >= 2).any() for lengths in dataset.train_lengths(include_valid)):
        raise InputError(
            f"{dataset.folder}: no user has two events on known items to train on; give a longer log, or another "
            "data.split"
        )


def fit_here(given: RankInput, runs: Path, on_report: Callable[[dict[str, float]], None]) -> Fitted:
    """Train in this process, as a Tune trial of one worker does."""
    session = LocalSession(runs / given.run_id / "checkpoint", on_report)
    trained = check_trained(RankRun(given, session).run())
    return Fitted(trained, _keep_best(session.folder, given, runs / given.run_id))


def _keep_best(saved: Path, given: RankInput, run_folder: Path) -> Path:
    """Copy the best model and the latest training state out of a checkpoint into the run's folder, and write the
    model's vocabulary, which checkpoints do not have.
    """
    # Copied and not moved: Ray's record of the run names the checkpoint, and another attempt would look for it.
    shutil.copytree(saved / checkpoint.BEST_FOLDER, run_folder / MODEL_FOLDER, dirs_exist_ok=True)
    include_valid = ResolvedTrainJobConfig.model_validate_json(given.config).train.include_valid
    save_vocabulary(run_folder / MODEL_FOLDER, Vocabulary.of(Dataset(given.dataset), include_valid))
    state = run_folder / STATE_FOLDER
    state.mkdir(exist_ok=True)
    for path in (*saved.glob("*.safetensors"), saved / checkpoint.STATE_FILE):
        shutil.copy2(path, state / path.name)
    return run_folder / MODEL_FOLDER


def drop_all_but(kept: Collection[str], run_folder: Path) -> None:
    """Remove what an ended run needs no more, which may be gigabytes. What MLflow did not take stays."""
    kept = (*kept, SPOOL_FILE, str(Path(SPOOL_FILE).with_suffix(tracking.SENDING_SUFFIX)))
    for left in run_folder.glob("*") if run_folder.is_dir() else ():
        if left.name not in kept:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def find_warm_start(config: TrainJobConfig, uri: str) -> tuple[TrainJobConfig, ModelInfo | None]:
    """The config with what `train.warm_start` names now in place of an alias or a relative path, which may mean another
    later, and what that model is; None for none. Raises InputError where it names no model: before a run is made, not
    inside it.
    """
    source = config.train.warm_start
    if source is None:
        return config, None
    if source.startswith("models:/"):
        found = tracking.find_version(source, uri, "--train.warm_start")
        pinned = f"models:/{found.name}/{found.version}"
        info = tracking.fetch_info(pinned, uri)
    else:  # a Tune trial works in a folder of its own
        info, pinned = load_info(source), str(Path(source).absolute())
    train = config.train.model_copy(update={"warm_start": pinned})
    return config.model_copy(update={"train": train}), info


def resolve_for(dataset: Dataset, config: TrainJobConfig, start: ModelInfo | None) -> ResolvedTrainJobConfig:
    """Resolve the config by the dataset and by `start`, the model that training starts from.

    A config that the calling job has resolved stays as it is. Raises InputError where dataset or `start` does not fit.
    """
    if isinstance(config, ResolvedTrainJobConfig):
        resolved = config
    else:
        resolved = resolve_job(config, dataset.manifest, start.config if start else None)
    if start is not None:
        check_fits(resolved.model, named_inputs(resolved.model, dataset.manifest), start.config, start.inputs)
    return resolved


def fetch_warm_start(config: TrainJobConfig, uri: str, run_folder: Path) -> str | None:
    """The folder of the model that `train.warm_start` names, where every worker sees it; None for none."""
    source = config.train.warm_start
    if source is None:
        return None
    if source.startswith("models:/"):
        return str(tracking.fetch_model(source, uri, run_folder / WARM_START_FOLDER)[0])
    return source  # absolute, by find_warm_start


def train_in_run(
    config: ResolvedTrainJobConfig,
    dataset: Path,
    run_id: str,
    uri: str,
    home: Path,
    train: Callable[[RankInput], Fitted],
    board: Any = None,
) -> Fitted:
    """Train for a run that MLflow has, and log what it cost: what a run of its own and a search's trial share."""
    run_folder = home / "runs" / run_id
    spool = run_folder / SPOOL_FILE
    given = RankInput(
        config=config.model_dump_json(),
        dataset=str(dataset.absolute()),
        run_id=run_id,
        uri=uri,
        spool=str(spool),
        warm_start=fetch_warm_start(config, uri, run_folder),
        board=board,
    )
    tracker = tracking.Tracker(uri, run_id, spool)
    try:
        fitted = train(given)
        trained = fitted.trained
        figures = {"model/parameters": trained.parameters, "train/seconds": trained.train_s}
        if config.model.memory:
            figures |= {"memory/seconds": trained.memory_s} | _memory_figures(trained)
        tracker.log(figures, trained.steps)
        tracker.tag(MEMORY_TAG, "none" if trained.memory is None else trained.memory.label)
        if not config.train.include_valid:
            tracker.tag(VALID_USERS_TAG, f"{trained.valid_share.users:.6g}")
    finally:
        shutil.rmtree(run_folder / WARM_START_FOLDER, ignore_errors=True)
        tracker.replay()  # the workers' too
    return fitted


def _memory_figures(trained: RankResult) -> dict[str, float]:
    """Weight of each kind of memory, in units of the model's score; none where it does not help."""
    kinds = {} if trained.memory is None else trained.memory.kinds
    return {f"memory/{kind}_weight": fitted.weight for kind, fitted in kinds.items()}


def run_training(config: TrainJobConfig) -> dict[str, Any]:
    """The train job -> its result line. Raises InputError where the user's input is wrong."""
    return train_model(config).line()


def train_model(asked: TrainJobConfig, extra_tags: Mapping[str, str] | None = None) -> TrainResult:
    """Ingest, train, measure and publish. Raises InputError where the user's input is wrong.

    extra_tags: more tags of the MLflow run, such as the search that it belongs to.
    """
    out, timer = console(), Timer()
    home = cluster.job_home(asked)
    uri = tracking.open_tracking(asked.tracking, home)
    asked, start = find_warm_start(asked, uri)
    with timer.phase("ray_start"):
        cluster.connect()
    plan = cluster.plan_workers(asked.scale)
    dataset, reused = obtain_dataset(asked.data, home, out, timer)
    check_trainable(dataset, asked.train.include_valid)
    manifest = dataset.manifest
    # Before a run is made: the workers are too late to say what is missing, and MLflow shows what `auto` came to.
    config = resolve_for(dataset, asked, start)
    tags = tracking.run_tags(config.model.granularities, manifest.fingerprint, plan.label) | dict(extra_tags or {})
    with tracking.start_run(config.tracking, tracking.run_params(config, uri), tags, run_name(config)) as run:
        spool = home / "runs" / run.info.run_id / SPOOL_FILE
        tracker = tracking.Tracker(uri, run.info.run_id, spool)
        tracker.log({f"data/{name}_rows": count for name, count in manifest.rows.items()}, 0)
        tracker.log({"data/users": manifest.users, "data/items": manifest.items}, 0)
        try:
            with timer.phase("train"), training_progress(out) as board:

                def train(given: RankInput) -> Fitted:
                    return fit(given, config, plan, home / "runs")

                fitted = train_in_run(config, dataset.folder, run.info.run_id, uri, home, train, board)
            state = str(fitted.model_folder.parent / STATE_FOLDER)
            tracking.try_to_log("the checkpoint", lambda: mlflow.log_artifacts(state, "checkpoint"))
            run_id, trained = run.info.run_id, fitted.trained
            finished = FinishedRun(config, dataset, trained, fitted.model_folder, run_id, uri, plan, timer.seconds)
            with timer.phase("publish"):
                published = publish(finished, out)
            with timer.phase("baselines"):
                measured = measure_baselines(dataset, config, plan, _Trainer, home / "runs", run_id)
                _log_baselines(measured, tracker, trained.steps)
            with timer.phase("publish"):
                result = finish(finished._replace(baselines=measured), published, out)
        finally:
            unsent = tracker.replay()
            if unsent:
                out.print(f"[yellow]{unsent} metrics could not be sent to MLflow and are kept in {spool}[/]")
    drop_all_but((MODEL_FOLDER, STATE_FOLDER, REPORT_FILE), fitted.model_folder.parent)
    shutil.rmtree(home / "runs" / (run_id + STAGE_SUFFIX), ignore_errors=True)
    return result.more(
        dataset=DatasetLabel(path=str(dataset.folder), fingerprint=manifest.fingerprint, reused=reused),
        rows=manifest.result_rows(),
        seconds={**timer.seconds, "training": round(fitted.trained.train_s, 2)},
        unsent_metrics=unsent,
    )


def _log_baselines(measured: MeasuredBaselines, tracker: tracking.Tracker, step: int) -> None:
    for name, metrics in measured.metrics.items():
        tracker.log({f"baseline/{name}/{metric}": value for metric, value in metrics.items()}, step)


def run_name(config: TrainJobConfig) -> str:
    """The name in MLflow's runs table: the granularities, the width, how many members, the seed."""
    levels = "-".join(str(g).replace("decay:", "d") for g in config.model.granularities)
    members = "" if config.model.members == 1 else f"x{config.model.members}"
    return f"g{levels}-w{config.model.width}{members}-s{config.train.seed}"
