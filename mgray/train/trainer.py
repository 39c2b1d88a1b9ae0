"""Training over any dataset, on one process or as one rank of a process group. Knows no Ray, no MLflow.

`Trainer.run` is a generator of events: the caller logs, checkpoints and draws its progress bar between two of them.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mgray.config import ResolvedTrainConfig
from mgray.data.dataset import Dataset
from mgray.data.feed import Batch, StepBatch, feed, plan_epoch
from mgray.data.inputs import read_columns
from mgray.distributed import rank_and_world, sum_over_ranks
from mgray.errors import InputError
from mgray.eval.metrics import is_better
from mgray.model.ensemble import Model
from mgray.schema import PAD
from mgray.train.augment import augment, is_augmented
from mgray.train.item_table import ItemTables
from mgray.train.memory_fit import held_out_share
from mgray.train.negatives import StepNegatives
from mgray.train.objective import autocast, resolve_precision
from mgray.train.optim import WeightAverage, learning_rate, make_optimizer

# How often the ranks agree on the time left. The schedule is never longer than asked, so a run whose time was never
# short is a pure function of its seed.
STEPS_BETWEEN_TIME_CHECKS = 20


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device. To a GPU through pinned memory: only from there does the copy overlap with the last step."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass
class Progress:
    """Position of a run. With weights and optimizer state, all that a resume needs."""

    epoch: int = 0
    batch: int = 0  # global batches of this epoch already trained on
    step: int = 0
    events: int = 0  # trained on, over all ranks
    elapsed_s: float = 0.0
    horizon_epochs: float = 0.0  # epochs at which the schedule ends; shortened to fit max_time_s
    best_valid: dict[str, float] = field(default_factory=dict)
    best_epoch: float = 0.0


@dataclass(frozen=True)
class Logged:
    """Training loss since the last one, over all ranks."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    events_s: float
    remaining_s: float
    allreduce_bytes: float  # gradients that a rank all-reduces, a step; 0 without other ranks


@dataclass(frozen=True)
class Validated:
    step: int
    epoch: float
    metrics: dict[str, float]
    is_best: bool
    is_last: bool
    elapsed_s: float


class Trainer:
    """One rank's part of a training run."""

    def __init__(
        self, objective: nn.Module, model: Model, dataset: Dataset, config: ResolvedTrainConfig, device: torch.device
    ) -> None:
        """objective: an Objective over `model`, wrapped in DDP where there is more than one rank. Where item tables are
        taken out of the model (`take_out_tables_`), they are trained by rows.
        """
        self.objective, self.model, self.dataset, self.device = objective, model, dataset, device
        self.config = config
        self.dtype = resolve_precision(config.precision, device)
        self.optimizer = make_optimizer(model, config)
        self.tables = ItemTables(objective, model, config)
        self.average = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)
        self.negatives = StepNegatives(config, dataset.item_counts)
        self.progress = Progress(horizon_epochs=float(config.epochs))
        self._started = time.perf_counter()
        self.rank, self.world_size = rank_and_world()
        self.columns = read_columns(model.config)
        held_out = held_out_share(config, model.config, dataset)
        self._read = partial(
            dataset.read_training, columns=self.columns, include_valid=config.include_valid, held_out=held_out
        )
        self._lengths = dataset.train_lengths(config.include_valid, held_out)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._dense_bytes = self.gradient_bytes = sum(
            parameter.numel() * parameter.element_size() for parameter in trained
        )

    def run(
        self, validate: Callable[[], dict[str, float]], metric: str, log_every: int
    ) -> Iterator[Logged | Validated]:
        """Train to the horizon. `validate` is called on every rank; the best is by `metric`, ties to the earlier.

        With train.include_valid it is not called, for its part is trained on: the last weights are the best.

        Raises InputError, on every rank at the same step, where the loss is no number any more.
        """
        progress = self.progress
        self._started = time.perf_counter() - progress.elapsed_s
        interval = _LogInterval(self.device)
        while progress.epoch < progress.horizon_epochs:
            yield from self._train_epoch(interval, log_every)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            is_last = progress.epoch >= progress.horizon_epochs
            if is_last or progress.epoch % self.config.validate_every_epochs == 0:
                self.tables.catch_up()  # on every rank here, so that all go on with the same weights
                # Else the ruin would be validated, saved and registered.
                self._check_loss(interval.mean_loss(), interval.rate)
                self._check_weights(interval.rate)
                yield self._validate(validate, metric, interval, is_last)

    def _train_epoch(self, interval: "_LogInterval", log_every: int) -> Iterator[Logged]:
        """Train on what is left of the epoch, up to the horizon. Yields every `log_every` steps."""
        config, progress = self.config, self.progress
        self.model.train()
        for item in self._feed_epoch():
            position = progress.epoch + item.number / item.num_batches
            interval.rate = learning_rate(config, min(1.0, position / progress.horizon_epochs))
            batch = self._augmented(item.batch)
            loss = self.step(batch, item.items, item.global_targets, interval.rate)
            shared = self.gradient_bytes if self.world_size > 1 else 0
            interval.add(loss, int((batch.targets != PAD).sum()), item.global_events, shared)
            progress.batch, progress.step = item.number + 1, progress.step + 1
            progress.events += item.global_events
            progress.elapsed_s = time.perf_counter() - self._started
            position = progress.epoch + progress.batch / item.num_batches
            if progress.step % STEPS_BETWEEN_TIME_CHECKS == 0:
                self._fit_horizon(position)
            if progress.step % log_every == 0:
                mean_loss = interval.mean_loss()
                self._check_loss(mean_loss, interval.rate)
                remaining = progress.elapsed_s * (progress.horizon_epochs / position - 1)
                yield interval.close(progress.step, position, mean_loss, max(0.0, remaining))
            if position >= progress.horizon_epochs:
                break

    def _feed_epoch(self) -> Iterator[StepBatch]:
        """This rank's share of the epoch's batches, from the first that was not trained on yet."""
        config, progress = self.config, self.progress
        groups = plan_epoch(self._lengths, config.seed, progress.epoch, config.global_batch_events, config.max_length)
        return feed(
            self._read,
            groups,
            progress.epoch,
            progress.batch,
            self.rank,
            self.world_size,
            self.columns,
            target_ratings=self.model.rating_head is not None,
            with_items=bool(self.tables),
        )

    def _validate(
        self, validate: Callable[[], dict[str, float]], metric: str, interval: "_LogInterval", is_last: bool
    ) -> Validated:
        """Validate the weights, or their average, and note the best so far."""
        progress = self.progress
        paused = time.perf_counter()
        with self._averaged():
            metrics = {} if self.config.include_valid else validate()
        interval.skip(time.perf_counter() - paused)
        progress.elapsed_s = time.perf_counter() - self._started
        epoch = min(float(progress.epoch), progress.horizon_epochs)
        is_best = not metrics or is_better(metric, metrics[metric], progress.best_valid.get(metric))
        if is_best:
            progress.best_valid, progress.best_epoch = metrics, epoch
        return Validated(progress.step, epoch, metrics, is_best, is_last, progress.elapsed_s)

    def _check_loss(self, loss: float, rate: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"its loss is {loss}", rate)

    def _check_weights(self, rate: float) -> None:
        """Check the weights after the last step, which no loss has seen. They are the same on every rank."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._diverged("some weights are no numbers", rate)

    def _diverged(self, sign: str, rate: float) -> InputError:
        return InputError(
            f"train.learning_rate: training has diverged, {sign} by step {self.progress.step} at a rate of {rate:g}; "
            "lower train.learning_rate, or clip gradients by train.max_grad_norm"
        )

    def _augmented(self, batch: Batch) -> Batch:
        if not is_augmented(self.config):
            return batch
        return augment(batch, self.config, np.random.default_rng([self.config.seed, self.progress.step, self.rank]))

    def step(self, batch: Batch, items: Tensor | None, global_targets: int, rate: float) -> Tensor:
        """One step of the optimizer -> the rank's loss, []. items: those of the global batch, before augmentation;
        read where tables are trained by rows.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Drawn from (seed, step), not from a running generator: a resumed run goes on with the same numbers. The
        # negatives are the same on all ranks; the dropout is not.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.progress.step)
        torch.manual_seed((self.config.seed * 1_000_003 + self.progress.step) * 4099 + self.rank)
        rates_alone = self.model.config.outputs == "rating"
        negatives = None if rates_alone else self.negatives.draw(batch.targets, generator)
        rows = self.tables.gather(items, negatives)
        batch, negatives = rows.renumber(batch, negatives)
        if negatives is not None:
            negatives = negatives.to(self.device)
        inputs = batch.inputs.map(lambda tensor: to_device(tensor, self.device))
        targets = to_device(batch.targets, self.device)
        ratings = None if batch.target_ratings is None else to_device(batch.target_ratings, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.dtype):
            loss = rows.run(self.objective, inputs, targets, negatives, ratings)
        # DDP averages gradients over the ranks; the loss is a sum over the global batch divided by its count (before
        # augmentation, so that a target weighs the same whatever was taken out of the others).
        (loss * (self.world_size / global_targets)).backward()
        rows.average_gradients()
        if self.config.max_grad_norm is not None:
            members = self.model.members
            for member in members:  # each as if it were alone, whose part of a mean loss is one of so many
                nn.utils.clip_grad_norm_(rows.parameters(member), self.config.max_grad_norm / len(members))
        self.optimizer.step()
        self.tables.update(rows, rate)
        self.gradient_bytes = self._dense_bytes + rows.num_bytes
        if self.average is not None:
            self.average.update(self.model, self.progress.step + 1)
        return loss.detach()

    def weights(self) -> dict[str, Tensor]:
        """Copy the weights to evaluate and save: the model's, or their average."""
        self.tables.catch_up()
        state = self.model.state_dict() if self.average is None else self.average.state
        return {name: tensor.clone() for name, tensor in state.items()}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the model its average's weights for the while, where there is an average."""
        if self.average is None:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.state)
        yield
        self.model.load_state_dict(own)

    def _fit_horizon(self, position: float) -> None:
        """Fit the schedule's end to the time left; rank 0's clock decides.

        While the rate is constant the end may move both ways, for the first steps are slow and say little; once it
        falls, only nearer.
        """
        limit, progress, config = self.config.max_time_s, self.progress, self.config
        if limit is None:
            return
        affordable = position * limit / progress.elapsed_s
        longest = float(config.epochs)
        if position >= (1 - config.decay_share) * progress.horizon_epochs:
            longest = progress.horizon_epochs
        horizon = torch.tensor(min(longest, max(position, affordable)), dtype=torch.float64)
        if self.world_size > 1:
            horizon = horizon.to(self.device)
            dist.broadcast(horizon, src=0)
        progress.horizon_epochs = float(horizon)


class _LogInterval:
    """Loss and throughput since the last log line. One all-reduce a line, not one a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rate = 0.0  # of the latest step
        self._reset()

    def _reset(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.targets = self.events = 0  # of this rank; of all
        self.allreduce_bytes = self.steps = 0
        self.started = time.perf_counter()

    def add(self, loss: Tensor, targets: int, events: int, allreduce_bytes: int) -> None:
        self.loss += loss
        self.targets += targets
        self.events += events
        self.allreduce_bytes += allreduce_bytes
        self.steps += 1

    def skip(self, seconds: float) -> None:
        """Take time that was not training out of the throughput."""
        self.started += seconds

    def mean_loss(self) -> float:
        """Mean over all ranks; 0 where there was no step. Collective: call it on every rank."""
        summed = sum_over_ranks(torch.stack([self.loss, torch.full_like(self.loss, self.targets)]))
        return float(summed[0]) / max(1.0, float(summed[1]))

    def close(self, step: int, epoch: float, loss: float, remaining_s: float) -> Logged:
        seconds = time.perf_counter() - self.started
        logged = Logged(
            step, epoch, loss, self.rate, self.events / seconds, remaining_s, self.allreduce_bytes / self.steps
        )
        self._reset()
        return logged
