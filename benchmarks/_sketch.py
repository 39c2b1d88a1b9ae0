"""The first sketch of the idea, as a baseline: a history as a picture, read by two dense 2-D convolutions.

Legend: `B` windows, `L` positions of a window, `D` width, `V` items (1..V; 0 is padding), `Q` queries, `T` targets.

The last L events are a matrix of D channels by L events; two layers of 3x3 convolution (64 filters), ReLU and 2x2 max
pooling, then two linear layers, 512 wide between them. As it was published the first layer's output is dropped and the
layers do not fit their input; here each layer reads the one before it, and the sizes follow from D and L.

A window gives one interest, not one a position: pooling over positions is not causal. So it is trained on prefixes:
each event of the training part is a target once an epoch, in random order, with the L events before it as the window.
Heads, losses, negatives, optimizer and schedule are MG-DSC's.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgray.config import TrainConfig
from mgray.data.columns import concatenate
from mgray.data.dataset import Dataset
from mgray.data.inputs import Inputs, InputSpec
from mgray.data.padding import left_pad, pad_spans
from mgray.eval.metrics import is_better
from mgray.model.rating_head import RaterState, RatingHead
from mgray.schema import PAD, OptionalColumn
from mgray.serve.rater import RatingQuery, flat_targets
from mgray.serve.scorer import HistoryList, popularity_row
from mgray.train.negatives import Negatives, StepNegatives, seen_items
from mgray.train.objective import autocast, next_item_loss, resolve_loss_precision, resolve_precision
from mgray.train.optim import learning_rate, make_optimizer

NUM_FILTERS, HIDDEN = 64, 512
POOLING = 4  # 2x2, twice
SCORE_ROWS = 128  # windows scored at once: half a MiB of activations each
CPU = torch.device("cpu")


class Sketch(nn.Module):
    """The last L events to one interest, scored against the item embedding itself."""

    def __init__(self, num_items: int, width: int = 64, length: int = 32, spec: InputSpec | None = None) -> None:
        """spec: what the ratings stand for, of a model that rates too. Raises ValueError where sizes do not pool."""
        super().__init__()
        if width % POOLING or length % POOLING:
            raise ValueError(f"width ({width}) and length ({length}) must be multiples of {POOLING}")
        self.num_items, self.length = num_items, length
        self.embedding = nn.Embedding(num_items + 1, width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        self.first = nn.Conv2d(1, NUM_FILTERS, kernel_size=3, padding=1)
        self.second = nn.Conv2d(NUM_FILTERS, NUM_FILTERS, kernel_size=3, padding=1)
        self.hidden = nn.Linear(NUM_FILTERS * (width // POOLING) * (length // POOLING), HIDDEN)
        self.interest = nn.Linear(HIDDEN, width)
        self.rating_head = None if spec is None else RatingHead(num_items, width, dropout=0.0, spec=spec)

    @property
    def columns(self) -> tuple[OptionalColumn, ...]:
        """Read beside items."""
        return () if self.rating_head is None else ("ratings",)

    def forward(self, inputs: Inputs) -> Tensor:
        """inputs: [B, any length]; more than L positions are cut, fewer are padded -> interest [B, D]."""
        items = inputs.items[:, -self.length :]
        picture = self.embedding(F.pad(items, (self.length - items.shape[1], 0), value=PAD)).movedim(-1, 1)
        x = F.max_pool2d(F.relu(self.first(picture.unsqueeze(1))), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.interest(F.relu(self.hidden(x.flatten(1))))

    @torch.no_grad()
    def interests(self, inputs: Inputs) -> Tensor:
        """Forward pass for evaluation: SCORE_ROWS windows at a time."""
        self.eval()
        starts = range(0, len(inputs.items), SCORE_ROWS)
        parts = [self(inputs.map(lambda column: column[start : start + SCORE_ROWS])) for start in starts]  # noqa: B023
        return torch.cat([part.float() for part in parts])


class SketchScorer:
    """Ranks the catalogue for histories, as scorer.ModelScorer does; an empty history is ranked by popularity."""

    def __init__(self, sketch: Sketch, item_counts: npt.NDArray[np.int64]) -> None:
        self.sketch = sketch
        self.popularity = popularity_row(item_counts)

    @torch.no_grad()
    def __call__(self, histories: HistoryList) -> Tensor:
        """T histories -> scores [T, V + 1]; padding scores minus infinity."""
        inputs = left_pad(histories, self.sketch.length)
        scores = self.sketch.interests(inputs) @ self.sketch.embedding.weight.T
        scores[:, PAD] = -torch.inf
        scores[inputs.items[:, -1] == PAD] = self.popularity
        return scores


class SketchRater:
    """Ratings by a sketch with a rating head, as rater.ModelRater; it knows of a user what the window holds."""

    def __init__(self, sketch: Sketch) -> None:
        assert sketch.rating_head is not None, "the sketch was made without ratings"
        self.sketch, self.head = sketch, sketch.rating_head

    @torch.no_grad()
    def __call__(self, queries: Sequence[RatingQuery]) -> Tensor:
        """Q queries -> predicted ratings [T], query after query."""
        inputs = left_pad([query.history for query in queries], self.sketch.length, self.sketch.columns)
        state = self.head.describe(_at_every_position(self.sketch.interests(inputs), inputs), inputs)
        targets, owner = flat_targets(queries)
        return self.head.rate(RaterState(*(part[owner, -1] for part in state)), targets)


def _at_every_position(interest: Tensor, inputs: Inputs) -> Tensor:
    """[B, D] -> [B, L, D]: the rating head reads an interest a position, and is asked at the last one only."""
    return interest.unsqueeze(1).expand(-1, inputs.items.shape[1], -1)


class Examples(NamedTuple):
    inputs: Inputs  # [B, L]
    targets: Tensor  # [B] int64 in 1..V, the item that follows the window
    ratings: Tensor | None  # [B] float32, the target's, NaN = none


class Prefixes:
    """Every event of the training part that has one before it, with the window before it. All events in memory."""

    def __init__(self, dataset: Dataset, length: int, columns: tuple[OptionalColumn, ...]) -> None:
        shards = list(dataset.train_events(columns))
        self.names, self.columns = columns, concatenate([histories.columns for histories in shards])
        lengths = np.concatenate([np.diff(histories.offsets) for histories in shards])
        place = np.arange(len(self.columns))
        start = np.repeat(np.cumsum(lengths) - lengths, lengths)  # of the history that each event is in
        self.targets = np.flatnonzero(place > start)
        self.begins = np.maximum(start, place - length)[self.targets]

    def __len__(self) -> int:
        return len(self.targets)

    def epoch(self, seed: int, epoch: int, batch: int) -> Iterator[Examples]:
        """Every target once, in a random order, `batch` at a time."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        for begin in range(0, len(order), batch):
            yield self._examples(order[begin : begin + batch])

    def _examples(self, chosen: npt.NDArray[np.int64]) -> Examples:
        ends, items, ratings = self.targets[chosen], self.columns.items, self.columns.ratings
        return Examples(
            pad_spans(self.columns, self.begins[chosen], ends, self.names),
            torch.from_numpy(items[ends].astype(np.int64)),
            None if ratings is None else torch.from_numpy(ratings[ends]),
        )


class SketchObjective(nn.Module):
    def __init__(self, sketch: Sketch, config: TrainConfig, *, exclude_seen: bool) -> None:
        """exclude_seen: items of the window are no negatives; what came before it is not known here."""
        super().__init__()
        self.sketch, self.config = sketch, config
        self.loss_dtype = resolve_loss_precision(config, CPU)
        self.exclude_seen = exclude_seen

    def forward(self, examples: Examples, negatives: Negatives | None) -> Tensor:
        """Sum of the loss over the targets, []: as objective.Objective's, of both heads where there are two."""
        interest, head = self.sketch(examples.inputs), self.sketch.rating_head
        table = self.sketch.embedding.weight
        items, seen = examples.inputs.items, None
        if self.exclude_seen:
            is_last = (torch.arange(items.shape[1]) == items.shape[1] - 1).expand_as(items)
            seen = seen_items(items, is_last)
        loss = next_item_loss(interest, table, examples.targets, negatives, self.config, self.loss_dtype, seen)
        if head is None:
            return loss
        assert examples.ratings is not None, "prefixes give ratings to a sketch that rates"
        before = (examples.inputs.items.shape[1] - 1, 0)
        targets = F.pad(examples.targets[:, None], before, value=PAD)
        ratings = F.pad(examples.ratings[:, None], before, value=math.nan)
        everywhere = _at_every_position(interest, examples.inputs)
        rating = head.loss(everywhere, examples.inputs, targets, ratings, self.config.rating_l2)
        return loss + self.config.rating_weight * rating


@dataclass
class Fitted:
    """Result of a training."""

    epochs: float = 0.0
    steps: int = 0
    seconds: float = 0.0  # validations among them
    best_valid: dict[str, float] = field(default_factory=dict)


def train_sketch(
    sketch: Sketch,
    dataset: Dataset,
    config: TrainConfig,
    validate: Callable[[], dict[str, float]],
    metric: str,
    batch_targets: int = 256,
    *,
    exclude_seen: bool,
) -> Fitted:
    """Train in this process until config.epochs or config.max_time_s; `sketch` ends with its best weights.

    The best is by `metric` of `validate`, asked after each epoch and at the end; ties to the earlier. Of the config,
    the seed, the limits, and what it says of optimizer, schedule, loss and negatives are read; exclude_seen is what
    data_rules.resolve_exclude_seen makes of it. Without a time limit the result is a pure function of the seed; with
    one, the schedule runs on the clock.
    """
    prefixes = Prefixes(dataset, sketch.length, sketch.columns)
    objective, optimizer = SketchObjective(sketch, config, exclude_seen=exclude_seen), make_optimizer(sketch, config)
    draws, generator = StepNegatives(config, dataset.item_counts), torch.Generator().manual_seed(config.seed)
    fitted, best = Fitted(), sketch.state_dict()
    started, limit_s = time.perf_counter(), config.max_time_s or math.inf
    for epoch in range(config.epochs):
        sketch.train()
        for examples in prefixes.epoch(config.seed, epoch, batch_targets):
            spent = (time.perf_counter() - started) / limit_s
            if spent >= 1:
                break
            rate = learning_rate(config, max(spent, fitted.epochs / config.epochs))
            _step(objective, optimizer, examples, draws.draw(examples.targets, generator), rate)
            fitted.steps += 1
            fitted.epochs += len(examples.targets) / len(prefixes)
        valid = validate()
        if is_better(metric, valid[metric], fitted.best_valid.get(metric)):
            fitted.best_valid = valid
            best = {name: tensor.clone() for name, tensor in sketch.state_dict().items()}
        if time.perf_counter() - started >= limit_s:
            break
    sketch.load_state_dict(best)
    fitted.seconds = time.perf_counter() - started
    return fitted


def _step(
    objective: SketchObjective,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    negatives: Negatives | None,
    rate: float,
) -> None:
    config = objective.config
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with autocast(CPU, resolve_precision(config.precision, CPU)):
        loss = objective(examples, negatives)
    (loss / len(examples.targets)).backward()
    if config.max_grad_norm is not None:
        nn.utils.clip_grad_norm_(objective.parameters(), config.max_grad_norm)
    optimizer.step()
