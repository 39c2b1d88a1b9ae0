"""The extra inputs of an event (kind, time, rating, numbers) as a vector.

Legend: `B` sequences, `L` positions, `D` width, `F` numeric features.
"""

import torch
from torch import Tensor, nn

from mgray.config import ModelConfig
from mgray.data.inputs import COLUMN_OF, Inputs, InputSpec
from mgray.schema import PAD

BUCKETS_PER_DOUBLING = 2
NUM_GAP_BUCKETS = 64  # the last one holds gaps from 2**31 seconds on, 68 years
HOUR_S, DAY_S = 3600, 86_400


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
