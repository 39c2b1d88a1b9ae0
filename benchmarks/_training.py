"""A training by the library alone, that a later sitting goes on with; the test part is read once.

fit(dataset, config, folder) trains until the config's time or epochs are spent and leaves result.json in `folder`; once
that is there it is what every later call gives. A call that was killed is gone on with from its last validation.
workers=2 trains by DDP in two processes, as jobs/train.py does: of a thread each, or with use_gpu of a GPU each.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from mgray.batch import left_pad
from mgray.checkpoint import (
    BEST_FOLDER,
    ModelInfo,
    Vocabulary,
    load_model,
    recover_folder,
    replace_folder,
    restore_state,
    save_model,
    save_state,
)
from mgray.config import TrainJobConfig
from mgray.dataset import Dataset
from mgray.engine import Logged, ModelScorer, Trainer, Validated, evaluate, part_queries, rank_and_world
from mgray.ensemble import make_model
from mgray.item_vectors import start_items_
from mgray.objective import Objective

SECONDS_BETWEEN_LINES = 30.0
RESULT_FILE, STATE_FOLDER = "result.json", "state"
FLOPS_HISTORIES = 16

Measure = Callable[[ModelScorer, Dataset, TrainJobConfig], dict[str, Any]]


def run_folder(
    work: Path, name: str, dataset: Dataset, config: TrainJobConfig, workers: int = 1, use_gpu: bool = False
) -> Path:
    """Of one training: another configuration, seed, budget, dataset, number of workers or device is another folder."""
    settings = config.model_dump_json(include={"model", "train", "evaluate"})
    where = f"{workers}{'gpu' if use_gpu else ''}"
    digest = hashlib.sha256(f"{settings}{dataset.manifest.fingerprint}{where}".encode()).hexdigest()
    return work / "runs" / f"{name}-s{config.train.seed}-{digest[:10]}"


class Run:
    def __init__(self, dataset: Dataset, config: TrainJobConfig, folder: Path, use_gpu: bool = False) -> None:
        self.dataset, self.config, self.state = dataset, config, folder / STATE_FOLDER
        self.rank, world_size = rank_and_world()
        self.device = torch.device("cuda", self.rank) if use_gpu else torch.device("cpu")
        self.metric = f"ndcg@{config.evaluate.k}"
        self.info = ModelInfo.of(dataset, config)
        self.vocabulary = Vocabulary.of(dataset, config.train.include_valid)
        torch.manual_seed(config.train.seed)
        self.model = make_model(self.info.config, self.info.num_items, self.info.inputs)
        if self.rank == 0 and not self.state.is_dir():  # DDP gives them to the others
            start_items_(self.model, dataset, config.train)
        self.model.to(self.device)
        objective: nn.Module = Objective(self.model, config.train, self.device, exclude_seen=self.info.exclude_seen)
        if world_size > 1:
            objective = DistributedDataParallel(objective)
        self.trainer = Trainer(objective, self.model, dataset, config.train, self.device)
        self.scorer = ModelScorer(self.model, self.vocabulary.popularity, config.train.max_length, self.device)
        self.best, self.curve = self.trainer.weights(), []
        if self.state.is_dir():
            restored = restore_state(self.state, self.model, self.trainer.optimizer, self.trainer.average)
            self.trainer.progress, self.curve = restored
            self.best = load_model(self.state / BEST_FOLDER, self.device)[0].state_dict()

    def save(self) -> None:
        """A kill leaves the earlier state or this one."""
        draft = self.state.with_name("draft")
        shutil.rmtree(draft, ignore_errors=True)
        trainer = self.trainer
        save_state(draft, self.model, trainer.optimizer, trainer.progress, self.curve, trainer.average)
        save_model(draft / BEST_FOLDER, self.best, self.info, self.vocabulary)
        replace_folder(draft, self.state)

    def train(self) -> None:
        queries, shown = part_queries(self.dataset, "valid", self.scorer.columns), 0.0

        def validate() -> dict[str, float]:
            return evaluate(self.scorer, queries, self.dataset.item_counts, self.config.evaluate).compute()

        for event in self.trainer.run(validate, self.metric, 20):
            if isinstance(event, Validated):
                if event.is_best:
                    self.best = self.trainer.weights()
                self.curve.append({"epoch": event.epoch, "seconds": event.elapsed_s, **event.metrics})
                if self.rank == 0:
                    self.save()
            if self.rank == 0 and (isinstance(event, Validated) or time.monotonic() - shown > SECONDS_BETWEEN_LINES):
                shown = time.monotonic()
                print(self._line(event), file=sys.stderr)

    def _line(self, event: Logged | Validated) -> str:
        place = f"  {self.trainer.progress.elapsed_s:7.0f} s, epoch {event.epoch:6.1f}"
        if isinstance(event, Validated):
            measured = f"validation {self.metric} {event.metrics[self.metric]:.4f}" if event.metrics else "saved"
            return f"{place}: {measured}"
        return f"{place}: loss {event.loss:.4f}, {event.events_s:,.0f} positions/s"

    def _body_flops(self) -> float:
        """Of a forward pass, without the scores: what PyTorch's counter knows, products and convolutions."""
        columns = self.scorer.columns
        histories = [query.history for query in part_queries(self.dataset, "valid", columns)[:FLOPS_HISTORIES]]
        inputs = left_pad(histories, self.config.train.max_length, columns).map(lambda column: column.to(self.device))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.model.eval()(inputs)
        return counter.get_total_flops() / inputs.items.numel()

    def test(self) -> dict[str, Any]:
        progress = self.trainer.progress
        self.model.load_state_dict(self.best)
        queries = part_queries(self.dataset, "test", self.scorer.columns)
        metrics = evaluate(self.scorer, queries, self.dataset.item_counts, self.config.evaluate)
        return {
            "test": metrics.compute(),
            "valid": progress.best_valid,
            "best_epoch": progress.best_epoch,
            "epochs": progress.horizon_epochs,
            "steps": progress.step,
            "seconds": progress.elapsed_s,
            "positions_s": progress.events / progress.elapsed_s,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "body_flops_a_position": self._body_flops(),
            "slices": metrics.slices(),
            "curve": self.curve,
        }


def recall(
    earlier: Iterable[dict[str, Any]], folder: Callable[[int], Path], without: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Those of earlier results of `fit` that it would give again: of the training that `folder` names for their seed.

    without: seeds that are not wanted.
    """
    return [run for run in earlier if run["seed"] not in without and run.get("training") == folder(run["seed"]).name]


def fit(
    dataset: Dataset,
    config: TrainJobConfig,
    folder: Path,
    measure: Measure | None = None,
    workers: int = 1,
    use_gpu: bool = False,
) -> dict[str, Any]:
    """Train, choose by validation (with train.include_valid, keep the last weights), test once.

    folder: by `run_folder`; its name is the result's `training`. measure: more to be told of the best model, beside
    the test.
    """
    done = folder / RESULT_FILE
    if done.is_file():
        print(f"  as measured before: {done}", file=sys.stderr)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        recover_folder(folder / STATE_FOLDER)
        if workers == 1:
            _train_rank(0, dataset, config, folder, measure, use_gpu)
        else:
            with tempfile.TemporaryDirectory() as temporary:
                shared = (dataset.folder, config, folder, measure, workers, use_gpu, Path(temporary) / "rendezvous")
                torch.multiprocessing.spawn(_train_worker, shared, nprocs=workers)
    result: dict[str, Any] = json.loads(done.read_text())
    return result | {"training": folder.name}


def _train_worker(
    rank: int,
    dataset: Path,
    config: TrainJobConfig,
    folder: Path,
    measure: Measure | None,
    workers: int,
    use_gpu: bool,
    rendezvous: Path,
) -> None:
    torch.set_num_threads(1)
    if use_gpu:
        torch.cuda.set_device(rank)
    backend = "nccl" if use_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=workers)
    _train_rank(rank, Dataset(dataset), config, folder, measure, use_gpu)
    dist.destroy_process_group()


def _train_rank(
    rank: int, dataset: Dataset, config: TrainJobConfig, folder: Path, measure: Measure | None, use_gpu: bool
) -> None:
    """Leaves the result file, written by rank 0."""
    run = Run(dataset, config, folder, use_gpu)
    run.train()
    settings = {
        "model": run.info.config.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "evaluate": config.evaluate.model_dump(mode="json"),
    }
    workers = rank_and_world()[1]
    result = {
        "seed": config.train.seed,
        "workers": workers,
        "threads": torch.get_num_threads(),  # of the last sitting
        "device": run.device.type,
        **run.test(),
        "config": settings,
    }
    if measure is not None:
        result |= measure(run.scorer, dataset, config)
    if rank == 0:
        draft = (folder / RESULT_FILE).with_suffix(".draft")
        draft.write_text(json.dumps(result, indent=1))
        draft.rename(folder / RESULT_FILE)
