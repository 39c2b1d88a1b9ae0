"""Encodes what a model reads of an event beside its item (`model.inputs`) as one vector.

Legend: `B` sequences, `L` positions, `D` width, `F` numeric features.
"""

from typing import assert_never

import torch
from torch import Tensor, nn

from mgray.config import ModelConfig
from mgray.data.inputs import COLUMN_OF, Inputs, InputSpec
from mgray.schema import PAD, Input

BUCKETS_PER_DOUBLING = 2
NUM_GAP_BUCKETS = 64  # the last one holds gaps of 2**31 seconds, 68 years, and more
HOUR_S, DAY_S = 3600, 86_400


def time_gaps(times: Tensor, is_real: Tensor, previous: Tensor | None = None) -> Tensor:
    """Seconds since the event before; -1 where there is none. times, is_real: [B, L] -> [B, L] float64.

    previous: [B] float64, the time of the event before position 0, NaN = none; for histories read in pieces.
    """
    if previous is None:
        previous = torch.full_like(times[:, 0], torch.nan)
    before = torch.cat([previous[:, None], torch.where(is_real, times, torch.nan)[:, :-1]], dim=1)
    gaps = (times - before).clamp(min=0)
    return torch.where(gaps.isnan() | ~is_real, -1.0, gaps)


def gap_buckets(gaps: Tensor) -> Tensor:
    """Bucket of a gap: 0 where there is none (-1), else 1 + floor(2 log2(1 + seconds)), below NUM_GAP_BUCKETS; int64.

    A bucket is half an octave, so that a minute and a minute and a half differ, and so do a week and ten days.
    """
    octaves = torch.log2(gaps.clamp(min=0) + 1)
    buckets = 1 + (octaves * BUCKETS_PER_DOUBLING).floor().long()
    return torch.where(gaps < 0, 0, buckets.clamp(max=NUM_GAP_BUCKETS - 1))


class RatingEncoder(nn.Module):
    """A learned direction times the standardized rating; another learned direction where there is no rating."""

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
    """The sum of the inputs' encodings, [B, L, D], to be added to the item embeddings.

    Position t holds what is known when event t has happened: the gap is the one before event t. The gap from the last
    event to the request is not an input, for in training it would give away when the next event comes.
    """

    def __init__(self, config: ModelConfig, spec: InputSpec) -> None:
        super().__init__()
        assert config.inputs != "auto", "inputs are resolved against a dataset before a model is made"
        self.inputs = config.inputs
        self.encoders = nn.ModuleDict({name: _make_encoder(name, config.width, spec) for name in self.inputs})
        # Training begins as without inputs: random vectors would hide the item, which costs epochs to undo.
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Inputs, previous: Tensor | None = None) -> Tensor:
        """inputs: [B, L] -> [B, L, D]. previous: see `time_gaps`."""
        encoded = [self.encoders[name](_values(name, inputs, previous)) for name in self.inputs]
        found: Tensor = sum(encoded[1:], start=encoded[0])
        return found


def _make_encoder(name: Input, width: int, spec: InputSpec) -> nn.Module:
    """The module that makes the values of one input ([B, L], or [B, L, F]; see `_values`) a vector [B, L, D]."""
    match name:
        case "event_type":
            return nn.Embedding(len(spec.event_types) + 1, width)
        case "features":
            return nn.Linear(len(spec.features), width, bias=False)
        case "rating":
            return RatingEncoder(width, spec)
        case "time_gap":
            return nn.Embedding(NUM_GAP_BUCKETS, width)
        case "hour":
            return nn.Embedding(24, width)
        case "weekday":
            return nn.Embedding(7, width)
        case _:
            assert_never(name)


def _values(name: Input, inputs: Inputs, previous: Tensor | None) -> Tensor:
    """The values that the encoder of one input takes: [B, L], or [B, L, F] of a vector column."""
    column: Tensor | None = getattr(inputs, COLUMN_OF[name])
    assert column is not None, f"the model reads {name}, and the batch has no {COLUMN_OF[name]}"
    match name:
        case "event_type" | "features" | "rating":
            return column
        case "time_gap":
            return gap_buckets(time_gaps(column, inputs.items != PAD, previous))
        case "hour":
            return (column % DAY_S).div(HOUR_S, rounding_mode="floor").long()
        case "weekday":
            return (column.div(DAY_S, rounding_mode="floor").long() + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
        case _:
            assert_never(name)
