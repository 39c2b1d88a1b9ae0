"""A training without a cluster, that a later sitting goes on with; the test part is read once.

fit(dataset, config, folder) trains until the config's time or epochs are spent and leaves result.json in `folder`; once
that is there it is what every later call gives. A call that was killed is gone on with from its last validation.
workers=2 trains by DDP in two processes, as jobs/train.py does: of a thread each, or with use_gpu of a GPU each.
"""

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from mgray.config import TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.data.padding import left_pad
from mgray.distributed import rank_and_world
from mgray.eval.ranking import part_queries
from mgray.serve.scorer import ModelScorer
from mgray.train.resolve import resolve_job
from pipelines.train.job import check_trained
from pipelines.train.worker import LocalSession, RankInput, RankRun

SECONDS_BETWEEN_LINES = 30.0
RESULT_FILE, STATE_FOLDER = "result.json", "state"
FLOPS_HISTORIES = 16

Measure = Callable[[ModelScorer, Dataset, TrainJobConfig], dict[str, Any]]


def run_folder(
    work: Path, name: str, dataset: Dataset, config: TrainJobConfig, workers: int = 1, use_gpu: bool = False
) -> Path:
    """Folder of one training, by configuration, seed, budget, dataset, number of workers and device."""
    settings = config.model_dump_json(include={"model", "train", "evaluate"})
    where = f"{workers}{'gpu' if use_gpu else ''}"
    digest = hashlib.sha256(f"{settings}{dataset.manifest.fingerprint}{where}".encode()).hexdigest()
    return work / "runs" / f"{name}-s{config.train.seed}-{digest[:10]}"


class Run(RankRun):
    """A rank's run as a job has it, that tells on stderr how far it is."""

    def __init__(self, dataset: Dataset, config: TrainJobConfig, folder: Path, use_gpu: bool = False) -> None:
        device = torch.device("cuda", rank_and_world()[0]) if use_gpu else torch.device("cpu")
        session = LocalSession(folder / STATE_FOLDER, self._show_validated, device)
        resolved = resolve_job(config, dataset.manifest)
        super().__init__(RankInput(resolved.model_dump_json(), str(dataset.folder)), session)
        self.shown = 0.0

    def _show_validated(self, figures: dict[str, float]) -> None:
        found = figures.get(self.valid.chief_metric)  # none of train.include_valid
        self._show(figures["epoch"], "saved" if found is None else f"validation {self.valid.chief_metric} {found:.4f}")

    def _show_progress(self) -> None:
        if self.session.rank == 0 and self.logged and time.monotonic() - self.shown > SECONDS_BETWEEN_LINES:
            self._show(self.logged.epoch, f"loss {self.logged.loss:.4f}, {self.logged.events_s:,.0f} positions/s")

    def _show(self, epoch: float, what: str) -> None:
        self.shown = time.monotonic()
        print(f"  {self.trainer.progress.elapsed_s:7.0f} s, epoch {epoch:6.1f}: {what}", file=sys.stderr)


def body_flops(scorer: ModelScorer, dataset: Dataset) -> float:
    """FLOPs a position of a forward pass, scores left out: products and convolutions, as PyTorch counts them."""
    histories = [query.history for query in part_queries(dataset, "valid", scorer.columns)[:FLOPS_HISTORIES]]
    inputs = left_pad(histories, scorer.max_length, scorer.columns).map(lambda column: column.to(scorer.device))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scorer.model.eval()(inputs)
    return counter.get_total_flops() / inputs.items.numel()


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
    trained = check_trained(run.run())
    # It has the best weights now, which were tested.
    scorer = ModelScorer(run.model, run.vocabulary.popularity, config.train.max_length, run.session.device, run.memory)
    settings = {
        "model": run.info.config.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "evaluate": config.evaluate.model_dump(mode="json"),
    }
    result = {
        "seed": config.train.seed,
        "workers": rank_and_world()[1],
        "threads": torch.get_num_threads(),  # of the last sitting
        "device": run.session.device.type,
        "test": trained.metrics,
        "valid": trained.best_valid,
        "best_epoch": trained.best_epoch,
        "epochs": trained.epochs,
        "steps": trained.steps,
        "parameters": trained.parameters,
        "slices": {kind: [row.as_json() for row in rows] for kind, rows in trained.slices.items()},
        "seconds": trained.train_s,
        "positions_s": trained.positions / trained.train_s,
        "body_flops_a_position": body_flops(scorer, dataset),
        "curve": [{"epoch": at.epoch, "seconds": at.seconds, **at.valid} for at in run.curve],
        "config": settings,
    }
    if measure is not None:
        result |= measure(scorer, dataset, config)
    if rank == 0:
        draft = (folder / RESULT_FILE).with_suffix(".draft")
        draft.write_text(json.dumps(result, indent=1))
        draft.rename(folder / RESULT_FILE)
