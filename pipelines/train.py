"""The main job: log -> dataset -> DDP training on Ray Train -> test figures beside baselines -> MLflow's registry."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from rich.console import Console

from mgray import checkpoint
from mgray.checkpoint import ModelInfo, Vocabulary
from mgray.config import TrainJobConfig, flatten
from mgray.dataset import Dataset
from mgray.engine import Logged, ModelScorer, Objective, Trainer, Validated, evaluate, part_queries
from mgray.errors import InputError
from mgray.model import MGDSC
from pipelines import cluster, tracking
from pipelines.evaluate import evaluate_baselines, publish
from pipelines.ingest import describe, ingest
from pipelines.progress import PhaseProgress, console, training_progress


@dataclass
class Timer:
    """Seconds by phase, for the result line."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 2)


def dataset_vocabulary(dataset: Dataset) -> Vocabulary:
    return Vocabulary(dataset.item_ids, dataset.titles, dataset.item_counts[1:].tolist())


def train_worker(args: dict[str, Any]) -> dict[str, Any]:
    """One DDP rank, run by Ray Train: trains, checkpoints at each validation, tests the best; rank 0's return counts.

    args: `config` (a TrainJobConfig as JSON), `dataset` (folder), `run_id`, `uri`, `spool`, `board` (actor or None).
    """
    config = TrainJobConfig.model_validate_json(args["config"])
    dataset = Dataset(args["dataset"])
    device = ray.train.torch.get_device()
    is_first = ray.train.get_context().get_world_rank() == 0
    tracker = tracking.Tracker(args["uri"], args["run_id"], Path(args["spool"])) if is_first else None

    # Drawn alike on every rank, so DDP's first broadcast changes nothing and one process gives the same weights.
    torch.manual_seed(config.train.seed)
    model = MGDSC(config.model, dataset.num_items).to(device)
    objective = ray.train.torch.prepare_model(Objective(model, config.train, device))
    trainer = Trainer(objective, model, dataset, config.train, device)
    info = ModelInfo(
        config=config.model,
        num_items=dataset.num_items,
        max_length=config.train.max_length,
        dataset_fingerprint=dataset.manifest.fingerprint,
    )
    vocabulary = dataset_vocabulary(dataset)
    metric = f"ndcg@{config.evaluate.k}"
    curve: list[dict[str, Any]] = []
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    latest = ray.train.get_checkpoint()
    if latest is not None:
        with latest.as_directory() as folder:
            trainer.progress, curve = checkpoint.restore_state(Path(folder), model, trainer.optimizer)
            best_model, _, _ = checkpoint.load_model(Path(folder) / checkpoint.BEST_FOLDER, device)
            best = best_model.state_dict()

    scorer = ModelScorer(model, dataset.item_counts, config.train.max_length, device)
    valid = part_queries(dataset, "valid")

    def validate() -> dict[str, float]:
        return evaluate(scorer, valid, dataset.item_counts, config.evaluate).compute()

    last_loss: Logged | None = None
    for event in trainer.run(validate, metric, config.tracking.log_every_steps):
        if isinstance(event, Logged):
            last_loss = event
            if tracker:
                tracker.log(
                    {
                        "train/loss": event.loss,
                        "train/learning_rate": event.learning_rate,
                        "train/positions_s": event.events_s,
                        "epoch": event.epoch,
                    },
                    event.step,
                )
        else:
            if event.is_best:
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            curve.append(_curve_point(event, last_loss))
            if tracker:
                tracker.log({f"valid/{name}": value for name, value in event.metrics.items()}, event.step)
                tracker.log({"epoch": event.epoch}, event.step)
                tracker.flush()
            _report_checkpoint(event, trainer, best, info, vocabulary, curve, is_first)
        if is_first and args["board"] is not None and last_loss is not None:
            args["board"].post.remote(_board_state(trainer, last_loss, metric, curve))

    model.load_state_dict(best)
    scorer = ModelScorer(model, dataset.item_counts, config.train.max_length, device)
    metrics = evaluate(scorer, part_queries(dataset, "test"), dataset.item_counts, config.evaluate)
    share = scorer.attention_share()
    if tracker:
        tracker.log({f"test/{name}": value for name, value in metrics.compute().items()}, trainer.progress.step)
        tracker.flush()
    return {
        "metrics": metrics.compute(),
        "num_targets": metrics.num_targets,
        "slices": metrics.slices(),
        "attention": share,
        "curve": curve,
        "best_valid": trainer.progress.best_valid,
        "best_epoch": trainer.progress.best_epoch,
        "epochs": trainer.progress.horizon_epochs,
        "steps": trainer.progress.step,
        "positions": trainer.progress.events,
        "train_s": trainer.progress.elapsed_s,
        "device": str(device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tracking_lost": tracker.num_lost if tracker else 0,
    }


def _curve_point(event: Validated, logged: Logged | None) -> dict[str, Any]:
    return {
        "step": event.step,
        "epoch": event.epoch,
        "train_loss": logged.loss if logged else None,
        "learning_rate": logged.learning_rate if logged else None,
        "valid": event.metrics,
        "seconds": event.elapsed_s,
    }


def _board_state(trainer: Trainer, logged: Logged, metric: str, curve: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "epoch": logged.epoch,
        "epochs": trainer.progress.horizon_epochs,
        "step": logged.step,
        "loss": logged.loss,
        "events_s": logged.events_s,
        "remaining_s": logged.remaining_s,
        "metric": metric,
        "valid": curve[-1]["valid"][metric] if curve else None,
    }


def _report_checkpoint(
    event: Validated,
    trainer: Trainer,
    best: dict[str, torch.Tensor],
    info: ModelInfo,
    vocabulary: Vocabulary,
    curve: list[dict[str, Any]],
    is_first: bool,
) -> None:
    """Every rank reports, for Ray Train's report is a barrier; rank 0's carries the checkpoint."""
    with tempfile.TemporaryDirectory() if is_first else nullcontext() as folder:
        saved = None
        if folder is not None:
            checkpoint.save_state(Path(folder), trainer.model, trainer.optimizer, trainer.progress, curve)
            checkpoint.save_model(Path(folder) / checkpoint.BEST_FOLDER, best, info, vocabulary)
            saved = Checkpoint.from_directory(folder)
        ray.train.report({"step": event.step, "epoch": event.epoch, **event.metrics}, checkpoint=saved)


def obtain_dataset(config: TrainJobConfig, home: Path, out: Console, timer: Timer) -> tuple[Dataset, bool]:
    """The dataset version to train on, ingested now or reused; says which on stderr."""
    with timer.phase("ingest"), PhaseProgress(out) as progress:
        found = ingest(config.data, home, progress.update)
    out.print(describe(found), highlight=False, markup=False, soft_wrap=True)
    return Dataset(found.path), found.reused


def fit(
    config: TrainJobConfig, dataset: Dataset, plan: cluster.WorkerPlan, home: Path, run_id: str, uri: str, board: Any
) -> tuple[dict[str, Any], Path]:
    """Train on the cluster -> (rank 0's result, the folder of the best model)."""
    run_folder = home / "runs" / run_id
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump_json(),
            "dataset": str(dataset.folder.absolute()),
            "run_id": run_id,
            "uri": uri,
            "spool": str(run_folder / "unsent_metrics.jsonl"),
            "board": board,
        },
        torch_config=TorchConfig(
            backend="nccl" if plan.use_gpu else "gloo", timeout_s=config.scale.collective_timeout_s
        ),
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers, use_gpu=plan.use_gpu, resources_per_worker=plan.resources_per_worker
        ),
        run_config=RunConfig(
            name=run_id,
            storage_path=str(home / "runs"),
            # Without a limit a worker group that cannot be placed is tried again forever.
            failure_config=FailureConfig(max_failures=config.scale.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    result = trainer.fit()
    assert result.checkpoint is not None, "the last epoch always validates, and so checkpoints"
    model_folder = run_folder / "model"
    with result.checkpoint.as_directory() as folder:
        shutil.copytree(Path(folder) / checkpoint.BEST_FOLDER, model_folder, dirs_exist_ok=True)
    return result.return_value, model_folder


def run_training(config: TrainJobConfig) -> dict[str, Any]:
    """The whole road; gives the result line's fields. Raises InputError where the user's input is wrong."""
    out, timer = console(), Timer()
    home = cluster.job_home(config)
    uri = tracking.open_tracking(config.tracking, home)
    with timer.phase("ray_start"):
        cluster.connect()
    plan = cluster.plan_workers(config.scale)
    dataset, reused = obtain_dataset(config, home, out, timer)
    if dataset.manifest.train_events < 2:
        raise InputError(f"{dataset.folder}: the training part has no two events; give a longer log")
    manifest = dataset.manifest
    params = flatten(config) | {"tracking.uri": uri}
    tags = tracking.run_tags(config.model.granularities, manifest.fingerprint, plan.label)
    with tracking.start_run(config.tracking, params, tags, run_name(config)) as run:
        run_id = run.info.run_id
        spool = home / "runs" / run_id / "unsent_metrics.jsonl"
        tracker = tracking.Tracker(uri, run_id, spool)
        tracker.log({f"data/{name}_rows": count for name, count in manifest.rows.items()}, 0)
        tracker.log({"data/users": manifest.users, "data/items": manifest.items}, 0)
        with timer.phase("train"), training_progress(out) as board:
            trained, model_folder = fit(config, dataset, plan, home, run_id, uri, board)
        with timer.phase("baselines"):
            baselines = evaluate_baselines(dataset, "test", config.evaluate)
        for name, baseline in baselines.items():
            values = {f"baseline/{name}/{metric}": value for metric, value in baseline.compute().items()}
            tracker.log(values, trained["steps"])
        tracker.log({"model/parameters": trained["parameters"], "train/seconds": trained["train_s"]}, trained["steps"])
        with timer.phase("publish"):
            result = publish(config, dataset, trained, baselines, model_folder, run_id, uri, plan, timer.seconds, out)
        unsent = tracker.replay()
    if unsent:
        out.print(f"[yellow]{unsent} metrics could not be sent to MLflow and are kept in {spool}[/]")
    return {
        **result,
        "dataset": {"path": str(dataset.folder), "fingerprint": manifest.fingerprint, "reused": reused},
        "rows": manifest.rows,
        "seconds": {**timer.seconds, "training": round(trained["train_s"], 2)},
        "unsent_metrics": unsent,
    }


def run_name(config: TrainJobConfig) -> str:
    """What a row of MLflow's runs table says: the granularities, then the width."""
    levels = "-".join(str(g).replace("decay:", "d") for g in config.model.granularities)
    return f"g{levels}-w{config.model.width}-s{config.train.seed}"
