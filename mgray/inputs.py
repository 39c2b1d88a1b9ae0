"""What a model reads of a history: item numbers and, where it is told to, the log's other columns.

Legend: `B` sequences, `L` positions, `D` width, `F` numeric features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mgray import granularity
from mgray.columns import OptionalColumn
from mgray.config import Input, ModelConfig
from mgray.errors import InputError
from mgray.manifest import Feature, Manifest
from mgray.schema import PAD

COLUMN_OF: dict[Input, OptionalColumn] = {
    "event_type": "event_types",
    "features": "features",
    "rating": "ratings",
    "time_gap": "times",
    "hour": "times",
    "weekday": "times",
}
AUTO_INPUTS: tuple[Input, ...] = ("event_type", "features", "rating", "time_gap")
BUCKETS_PER_DOUBLING = 2
NUM_GAP_BUCKETS = 64  # the last one holds gaps from 2**31 seconds on, 68 years
HOUR_S, DAY_S = 3600, 86_400


class Inputs(NamedTuple):
    """A batch of histories, oldest event first, padded on the left. A column that the model does not read is None."""

    items: Tensor  # [B, L] int64, 0 = pad
    times: Tensor | None = None  # [B, L] float64, seconds since 1970; 0 at padding
    event_types: Tensor | None = None  # [B, L] int64, 0 = none or pad, 1.. of the model's list
    ratings: Tensor | None = None  # [B, L] float32, NaN = none or pad
    features: Tensor | None = None  # [B, L, F] float32, standardized; 0 at padding

    def map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """`function` of every column that there is, such as a move to a device or a slice of rows."""
        return Inputs._make(None if column is None else function(column) for column in self)


class InputSpec(BaseModel):
    """What the numbers in a model's extra inputs stand for; all from the training part of its dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_types: tuple[str, ...] = ()  # name of type number i at index i - 1
    features: tuple[Feature, ...] = ()  # in the order of the columns
    rating_mean: float = 0.0
    rating_std: float = 1.0
    rating_scale: tuple[float, ...] = ()  # the values that ratings have, rising; empty: too many to be a scale


def read_columns(config: ModelConfig) -> frozenset[OptionalColumn]:
    """The columns beside items that a model of this config reads; `inputs` resolved."""
    assert config.inputs != "auto", "inputs are resolved against a dataset before a model is made"
    columns = {COLUMN_OF[name] for name in config.inputs}
    if config.outputs != "next_item":
        columns.add("ratings")
    kinds = [granularity.parse(level) for level in config.granularities]
    if any(isinstance(kind, granularity.Span | granularity.Session) for kind in kinds):
        columns.add("times")
    return frozenset(columns)


def resolve_inputs(config: ModelConfig, manifest: Manifest) -> ModelConfig:
    """The config with `inputs: auto` replaced by those that the dataset has.

    Raises InputError for an input that is asked for, or ratings to train on, that the dataset does not have.
    """
    there = available_inputs(manifest)
    if config.outputs != "next_item" and not manifest.has_ratings:
        raise InputError(
            f"model.outputs {config.outputs}: the dataset has no ratings; name their column by data.columns.rating, or "
            "set model.outputs next_item"
        )
    levels = [level for level in config.granularities if granularity.reads_times(level)]
    if levels and not manifest.has_times:
        raise InputError(
            f"model.granularities: {levels[0]} spans time, and the dataset has no times (its log was read with "
            "data.columns.timestamp none); give levels in events, such as 4 or decay:1..400"
        )
    if config.inputs == "auto":
        return config.model_copy(update={"inputs": there})
    for name in config.inputs:
        if COLUMN_OF[name] == "times" and not manifest.has_times:
            raise InputError(
                f"model.inputs: {name} needs times, and the dataset has none (its log was read with "
                "data.columns.timestamp none); leave it out"
            )
        if name in AUTO_INPUTS and name not in there:
            raise InputError(
                f"model.inputs: the dataset has no {name} (it has: {', '.join(there) or 'none'}); leave it out, or "
                "ingest a log that has it (see data.columns)"
            )
    return config


def available_inputs(manifest: Manifest) -> tuple[Input, ...]:
    """Those of AUTO_INPUTS that the dataset has."""
    has = {
        "event_type": manifest.has_event_types,
        "features": bool(manifest.features),
        "rating": manifest.has_ratings,
        "time_gap": manifest.has_times,
    }
    return tuple(name for name in AUTO_INPUTS if has[name])


def named_inputs(config: ModelConfig, manifest: Manifest) -> InputSpec:
    """The names that the model's inputs stand for; `inputs` resolved. `Dataset.input_spec` has the ratings' moments."""
    return InputSpec(
        event_types=tuple(kind.name for kind in manifest.event_types) if "event_type" in config.inputs else (),
        features=tuple(manifest.features) if "features" in config.inputs else (),
    )


def time_gaps(times: Tensor, is_real: Tensor, previous: Tensor | None = None) -> Tensor:
    """Seconds from the event before to each event; -1 where none is known. times, is_real: [B, L] -> [B, L] float64.

    previous: [B] float64, the time of the event before position 0, NaN = none; for histories read in parts.
    """
    if previous is None:
        previous = torch.full_like(times[:, 0], torch.nan)
    before = torch.cat([previous[:, None], torch.where(is_real, times, torch.nan)[:, :-1]], dim=1)
    gaps = (times - before).clamp(min=0)
    return torch.where(gaps.isnan() | ~is_real, -1.0, gaps)


def gap_buckets(gaps: Tensor) -> Tensor:
    """0 where no gap is known (-1), else 1 + floor(2 log2(1 + seconds)), at most NUM_GAP_BUCKETS - 1; int64.

    A bucket is a half octave: gaps of a minute and of a minute and a half differ, and so do those of a week and of ten
    days.
    """
    octaves = torch.log2(gaps.clamp(min=0) + 1)
    buckets = 1 + (octaves * BUCKETS_PER_DOUBLING).floor().long()
    return torch.where(gaps < 0, 0, buckets.clamp(max=NUM_GAP_BUCKETS - 1))


class RatingEncoder(nn.Module):
    """A direction that the standardized rating scales, and another where there is none."""

    def __init__(self, width: int, spec: InputSpec) -> None:
        super().__init__()
        self.mean, self.std = spec.rating_mean, spec.rating_std or 1.0
        self.direction = nn.Parameter(torch.zeros(width))
        self.missing = nn.Parameter(torch.zeros(width))

    def forward(self, ratings: Tensor) -> Tensor:
        """ratings: [B, L], NaN = none -> [B, L, D]."""
        has_none = ratings.isnan().unsqueeze(-1)
        standardized = (ratings.nan_to_num(self.mean) - self.mean) / self.std
        return torch.where(has_none, self.missing, standardized.unsqueeze(-1) * self.direction)


class InputEncoder(nn.Module):
    """The extra inputs of a position as one vector [B, L, D], to be added to its item's embedding.

    Position t holds what is known when event t has happened: the gap is the one before event t. The gap from the last
    event to the request is not an input, for in training it would give away when the next event comes.
    """

    def __init__(self, config: ModelConfig, spec: InputSpec) -> None:
        super().__init__()
        sizes = {
            "event_type": len(spec.event_types) + 1,
            "time_gap": NUM_GAP_BUCKETS,
            "hour": 24,
            "weekday": 7,
        }
        encoders: dict[str, nn.Module] = {}
        for name in config.inputs:
            if name == "features":
                encoders[name] = nn.Linear(len(spec.features), config.width, bias=False)
            elif name == "rating":
                encoders[name] = RatingEncoder(config.width, spec)
            else:
                encoders[name] = nn.Embedding(sizes[name], config.width)
        self.encoders = nn.ModuleDict(encoders)
        # So training begins as without inputs: random vectors beside an item's hide it, which costs epochs to undo.
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Inputs, previous: Tensor | None = None) -> Tensor:
        """inputs: [B, L] -> [B, L, D]. previous: as of `time_gaps`."""
        parts = [encoder(self._numbers(name, inputs, previous)) for name, encoder in self.encoders.items()]
        return sum(parts[1:], start=parts[0])

    @staticmethod
    def _numbers(name: str, inputs: Inputs, previous: Tensor | None) -> Tensor:
        """What the encoder of one input takes: [B, L], or [B, L, F] for features."""
        column: Tensor | None = getattr(inputs, COLUMN_OF[name])  # type: ignore[index]
        assert column is not None, f"the model reads {name}, and the batch has no {COLUMN_OF[name]}"  # type: ignore[index]
        if name == "time_gap":
            return gap_buckets(time_gaps(column, inputs.items != PAD, previous))
        if name == "hour":
            return (column % DAY_S).div(HOUR_S, rounding_mode="floor").long()
        if name == "weekday":
            return (column.div(DAY_S, rounding_mode="floor").long() + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
        return column
