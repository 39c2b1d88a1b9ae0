"""One rank of a training run: trains, checkpoints at each validation, tests the best. Run by Ray Train, or in place.

What a rank needs of its surroundings is a `Session`: Ray Train's, or that of a process inside a Tune trial, where a
nested Train run would cost 13-20 s, or inside a benchmark.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mgray.config import ResolvedTrainJobConfig
from mgray.data.dataset import Dataset, Part
from mgray.distributed import rank_and_world
from mgray.errors import InputError
from mgray.eval.part_metrics import PartEvaluation
from mgray.eval.valid_share import valid_share
from mgray.model.ensemble import make_model, num_parameters
from mgray.model.memory import Memory
from mgray.serve.model_folder import WEIGHTS_FILE, Vocabulary, load_model, save_table, save_weights
from mgray.train import checkpoint
from mgray.train.checkpoint import recover_folder, replace_folder
from mgray.train.fits_memory import check_fits_memory
from mgray.train.item_init import start_items_on_rank_0_
from mgray.train.item_table import take_out_tables_
from mgray.train.memory_fit import fit_on_rank_0, held_out_share
from mgray.train.objective import Objective
from mgray.train.resolve import model_info
from mgray.train.run_result import CurvePoint, RankMistake, RankResult
from mgray.train.trainer import Logged, Trainer, Validated
from mgray.train.warm_start import warm_start_
from pipelines import tracking
from pipelines.runtime.console import TrainingState

logger = logging.getLogger(__name__)


class RankInput(NamedTuple):
    """Input of every rank, from the driver; plain values, so that it travels to any node."""

    config: str  # a ResolvedTrainJobConfig as JSON
    dataset: str  # folder of the dataset version
    run_id: str = ""
    uri: str | None = None  # of MLflow; None: nothing is tracked
    spool: str = ""  # file that keeps what MLflow did not take
    warm_start: str | None = None  # folder of the model to start from
    board: Any = None  # actor that shows progress, or None


class Session(Protocol):
    rank: int
    device: torch.device
    resumes: bool  # whether there is a checkpoint to go on from

    def prepare(self, objective: nn.Module) -> nn.Module: ...

    def report(self, metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        """Called on every rank at every validation; `save` fills a checkpoint folder, once, for rank 0.

        Without metrics it is no validation, but a checkpoint alone.
        """

    def restore(self, load: Callable[[Path], None]) -> None:
        """Calls `load` with the latest checkpoint's folder, if there is one."""


class RaySession:
    """Ray Train's: DDP over the worker group, checkpoints in the run's storage."""

    def __init__(self) -> None:
        self.rank = ray.train.get_context().get_world_rank()
        self.device = ray.train.torch.get_device()
        self.resumes = ray.train.get_checkpoint() is not None

    def prepare(self, objective: nn.Module) -> nn.Module:
        prepared: nn.Module = ray.train.torch.prepare_model(objective)
        return prepared

    def report(self, metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        # Every rank reports, for Ray Train's report is a barrier; rank 0's carries the checkpoint.
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def restore(self, load: Callable[[Path], None]) -> None:
        latest = ray.train.get_checkpoint()
        if latest is not None:
            with latest.as_directory() as folder:
                load(Path(folder))


class LocalSession:
    """A single process, or a rank of the process group that it is in: one checkpoint folder, replaced at each
    validation. `on_report`, called by rank 0, may raise to stop the run.
    """

    def __init__(
        self, folder: Path, on_report: Callable[[dict[str, float]], None], device: torch.device | None = None
    ) -> None:
        self.rank, self.world_size = rank_and_world()
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.folder = folder
        self.on_report = on_report
        if self.rank == 0:
            recover_folder(folder)
        if self.world_size > 1:
            dist.barrier()
        self.resumes = folder.exists()

    def prepare(self, objective: nn.Module) -> nn.Module:
        return DistributedDataParallel(objective) if self.world_size > 1 else objective

    def report(self, metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        if self.rank != 0:
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".draft-"))
        save(draft)
        replace_folder(draft, self.folder)
        if metrics:
            self.on_report(metrics)

    def restore(self, load: Callable[[Path], None]) -> None:
        if self.resumes:
            load(self.folder)


class RankRun:
    """A rank's whole run over a session."""

    def __init__(self, given: RankInput, session: Session) -> None:
        self.config = ResolvedTrainJobConfig.model_validate_json(given.config)
        self.dataset = Dataset(given.dataset)
        self.session, self.board = session, given.board
        self.tracker = None
        if session.rank == 0 and given.uri is not None:
            self.tracker = tracking.Tracker(given.uri, given.run_id, Path(given.spool))
        check_fits_memory(self.config, self.dataset.num_items, session.device)
        self.curve: list[CurvePoint] = []
        self.logged: Logged | None = None
        self.vocabulary = Vocabulary.of(self.dataset, self.config.train.include_valid)
        self.info = model_info(self.dataset, self.config)
        self.memory: Memory | None = None  # of a model that is trained
        self.memory_s = 0.0  # seconds that its fit took
        self.memory_failure = ""
        # Drawn alike on every rank, and the same by one process.
        torch.manual_seed(self.config.train.seed)
        self.model = make_model(self.info.config, self.info.num_items, self.info.inputs)
        if given.warm_start is None:
            if not session.resumes:
                start_items_on_rank_0_(self.model, self.dataset, self.config.train)
        else:
            source, _, vocabulary = load_model(given.warm_start, torch.device("cpu"))
            warm_start_(
                self.model, self.dataset.item_ids, source, vocabulary.item_ids, self.config.train.warm_start_keep
            )
        self.model.to(session.device)
        take_out_tables_(self.model, self.config.train)
        objective = session.prepare(
            Objective(self.model, self.config.train, session.device, exclude_seen=self.info.exclude_seen)
        )
        self.trainer = Trainer(objective, self.model, self.dataset, self.config.train, session.device)
        self.best = self.trainer.weights()
        self.valid_share = valid_share(self.config.evaluate, self.config.train, self.model, self.dataset)
        self.valid, self.valid_s = self._evaluation("valid"), 0.0
        session.restore(self._load)

    def _load(self, folder: Path) -> None:
        self.trainer.progress, self.curve = checkpoint.restore_state(
            folder, self.model, self.trainer.optimizer, self.trainer.average, self.trainer.tables
        )
        self.best = load_file(folder / checkpoint.BEST_FOLDER / WEIGHTS_FILE, str(self.session.device))

    def _save(self, folder: Path) -> None:
        checkpoint.save_state(
            folder,
            self.model,
            self.trainer.optimizer,
            self.trainer.progress,
            self.curve,
            self.trainer.average,
            self.trainer.tables,
        )
        save_weights(folder / checkpoint.BEST_FOLDER, self.best, self.info)
        if self.memory is not None and self.memory.table is not None:
            save_table(folder / checkpoint.BEST_FOLDER, self.memory.table)

    def _evaluation(self, part: Part) -> PartEvaluation:
        config, popularity = self.config, self.vocabulary.popularity
        return PartEvaluation(
            self.model,
            self.dataset,
            part,
            config.train.max_length,
            self.session.device,
            config.evaluate,
            popularity,
            self.valid_share.users,
            self.memory,
        )

    def run(self) -> RankResult | RankMistake:
        """Train to the end and test the best. Rank 0's result is the run's.

        A mistake that shows only in training is returned, not raised: Ray Train would take an exception for a failed
        worker, and train up to the same place again.
        """
        try:
            self._train()
        except InputError as error:
            return RankMistake(str(error))
        self._fit_memory()
        self.model.load_state_dict(self.best)
        return self._tested()

    def _train(self) -> None:

        def validate() -> dict[str, float]:
            started = time.perf_counter()
            metrics = self.valid.run().compute()
            self.valid_s += time.perf_counter() - started
            return metrics

        for event in self.trainer.run(validate, self.valid.chief_metric, self.config.tracking.log_every_steps):
            if isinstance(event, Logged):
                self._on_logged(event)
            else:
                self._on_validated(event)
            self._show_progress()

    def _on_logged(self, event: Logged) -> None:
        self.logged = event
        if self.tracker:
            figures = {
                "train/loss": event.loss,
                "train/learning_rate": event.learning_rate,
                "train/positions_s": event.events_s,
                "train/allreduce_bytes": event.allreduce_bytes,
                "epoch": event.epoch,
            }
            self.tracker.log(figures, event.step)

    def _on_validated(self, event: Validated) -> None:
        if event.is_best:
            self.best = {}  # so that there are never two: an item table may be most of the memory
            self.best = self.trainer.weights()
        self.curve.append(
            CurvePoint(
                step=event.step,
                epoch=event.epoch,
                train_loss=self.logged.loss if self.logged else None,
                learning_rate=self.logged.learning_rate if self.logged else None,
                valid=event.metrics,
                seconds=event.elapsed_s,
            )
        )
        if self.tracker:
            figures = {f"valid/{name}": value for name, value in event.metrics.items()}
            self.tracker.log(figures | {"epoch": event.epoch, "valid/total_seconds": self.valid_s}, event.step)
            self.tracker.flush()
        best = {f"best_{name}": value for name, value in self.trainer.progress.best_valid.items()}
        figures = {"step": event.step, "epoch": event.epoch, "seconds": event.elapsed_s, **event.metrics, **best}
        self.session.report(figures, self._save)

    def _show_progress(self) -> None:
        if self.session.rank != 0 or self.board is None or self.logged is None:
            return
        state = TrainingState(
            epoch=max(self.logged.epoch, self.curve[-1].epoch if self.curve else 0.0),
            epochs=self.trainer.progress.horizon_epochs,
            step=self.logged.step,
            loss=self.logged.loss,
            events_s=self.logged.events_s,
            remaining_s=self.logged.remaining_s,
            metric=self.valid.chief_metric,
            valid=self.curve[-1].valid.get(self.valid.chief_metric) if self.curve else None,
        )
        self.board.post.remote(state)

    def _fit_memory(self) -> None:
        """Fit to the best model what is looked up beside it, and checkpoint both."""
        model, train = self.info.config, self.config.train
        held_out = held_out_share(train, model, self.dataset)
        if not model.memory or (train.include_valid and not held_out):  # nothing to fit, or nothing to fit to
            return
        started = time.perf_counter()
        with self._best_weights():
            try:
                self.memory = fit_on_rank_0(self.valid.scorer, self.dataset, model, self.config.evaluate, held_out)
            except Exception as error:  # on every rank; hours of training come first
                logger.warning("memory was not fitted", exc_info=True)
                self.memory_failure = f"{type(error).__name__}: {error}"
        self.memory_s = time.perf_counter() - started
        if self.memory is not None:
            self.info = self.info.model_copy(update={"memory": self.memory.numbers})
            self.session.report({}, self._save)

    @contextmanager
    def _best_weights(self) -> Iterator[None]:
        """Give the model the best weights for the while; a checkpoint's state is of the last ones."""
        self._swap_weights()
        yield
        self._swap_weights()

    @torch.no_grad()
    def _swap_weights(self) -> None:
        for name, tensor in self.model.state_dict().items():  # one tensor is held twice at a time
            held = tensor.clone()
            tensor.copy_(self.best[name])
            self.best[name].copy_(held)

    def _tested(self) -> RankResult:
        test, progress = self._evaluation("test"), self.trainer.progress
        metrics = test.run()
        share = None if test.scorer is None else test.scorer.attention_share()
        if self.tracker:
            self.tracker.log({f"test/{name}": value for name, value in metrics.compute().items()}, progress.step)
            self.tracker.flush()
        return RankResult(
            metrics=metrics.compute(),
            num_targets=metrics.num_targets,
            slices=metrics.slices(),
            attention=share,
            curve=self.curve,
            best_valid=progress.best_valid,
            best_epoch=progress.best_epoch,
            epochs=progress.horizon_epochs,
            steps=progress.step,
            positions=progress.events,
            train_s=progress.elapsed_s,
            device=str(self.session.device),
            parameters=num_parameters(self.model),
            valid_share=self.valid_share,
            valid_s=self.valid_s,
            memory=self.info.memory,
            memory_s=self.memory_s,
            memory_failure=self.memory_failure,
        )


def train_worker(given: dict[str, Any]) -> RankResult | RankMistake:
    """Run one rank, as Ray Train calls it. given: RankInput's fields."""
    try:
        run = RankRun(RankInput(**given), RaySession())
    except InputError as error:  # the same on every rank, for all read the same; see RankRun.run
        return RankMistake(str(error))
    return run.run()
