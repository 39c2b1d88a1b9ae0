"""Causal poolings: what a level makes of the level below over its span.

Legend: `B` sequences, `L` positions, `D` channels.

A pooling takes x [B, L, D], mask [B, L, 1] in {0, 1}, the clock where the span is one of time, and the states that it
gave for the events before (None: none, and it gives none); it gives the pooled [B, L, D] and its states.
"""

import math

import torch
from torch import Tensor, nn

from mgray.config.granularity import Decay, Session, Span, Stride
from mgray.model.scan import decayed_sum, gated_sum
from mgray.model.spans import Clock, SinceBorder, Sliding

States = tuple[Tensor, ...]
SMALLEST_WEIGHT = 1e-12  # what is divided by where there is no event yet


def _divide(total: Tensor, weight: Tensor) -> Tensor:
    return total / weight.clamp(min=SMALLEST_WEIGHT)


class MeanPool(nn.Module):
    """The mean of the span's events, each weighted by a learned sigmoid of itself where `learned`."""

    def __init__(self, window: Sliding | SinceBorder, width: int, learned: bool) -> None:
        super().__init__()
        self.window, self.width = window, width
        self.weigh = nn.Linear(width, 1) if learned else None

    def initial_state(self, batch: int, device: torch.device) -> States:
        return tuple(self.window.initial(batch, width, 0.0, device) for width in (self.width, 1))

    def forward(
        self, x: Tensor, mask: Tensor, clock: Clock | None, state: States | None
    ) -> tuple[Tensor, States | None]:
        weight = mask if self.weigh is None else mask * torch.sigmoid(self.weigh(x).float())
        past, past_weight = (None, None) if state is None else state
        total, past = self.window.sum(x * weight, clock, past)
        total_weight, past_weight = self.window.sum(weight, clock, past_weight)
        pooled = _divide(total, total_weight)
        return pooled, None if past is None or past_weight is None else (past, past_weight)


class MaxPool(nn.Module):
    """The largest value of the span's events, channel by channel."""

    def __init__(self, window: Sliding | SinceBorder, width: int) -> None:
        super().__init__()
        self.window, self.width = window, width

    def initial_state(self, batch: int, device: torch.device) -> States:
        return (self.window.initial(batch, self.width, torch.finfo(torch.float32).min, device),)

    def forward(
        self, x: Tensor, mask: Tensor, clock: Clock | None, state: States | None
    ) -> tuple[Tensor, States | None]:
        is_padding = mask == 0
        candidates = x.float().masked_fill(is_padding, torch.finfo(torch.float32).min)
        largest, past = self.window.max(candidates, clock, None if state is None else state[0])
        return largest.masked_fill(is_padding, 0.0), None if past is None else (past,)


class DecayPool(nn.Module):
    """A mean in which an event's weight decays with age, one learned time scale a channel, the span at the start.

    The age counts events where the span is a stride, else seconds.
    """

    def __init__(self, kind: Stride | Span | Session, width: int) -> None:
        super().__init__()
        self.width, self.by_events = width, isinstance(kind, Stride)
        self.log_scale = nn.Parameter(torch.full((width,), math.log(_extent(kind))))

    def initial_state(self, batch: int, device: torch.device) -> States:
        return (torch.zeros(batch, 1, 2 * self.width, device=device),)

    def forward(
        self, x: Tensor, mask: Tensor, clock: Clock | None, state: States | None
    ) -> tuple[Tensor, States | None]:
        # Sum and weights as channels of one scan.
        terms = torch.cat([x.float() * mask, mask.expand_as(x).float()], dim=-1)
        steps = x.shape[1]
        if state is not None:
            terms = torch.cat([state[0], terms], dim=1)
        rate = torch.exp(-self.log_scale).repeat(2)
        if self.by_events:
            sums = decayed_sum(terms, torch.exp(-rate))
        else:
            assert clock is not None, "the model checks that there are times"
            keep = torch.exp(-clock.gaps() * rate)
            sums = gated_sum(terms, keep if state is None else nn.functional.pad(keep, (0, 0, 1, 0)))
        total, weight = sums[:, -steps:].chunk(2, dim=-1)
        return _divide(total, weight), None if state is None else (sums[:, -1:],)


def _extent(kind: Stride | Span | Session) -> float:
    match kind:
        case Stride():
            return kind.events
        case Span():
            return kind.seconds
        case Session():
            return kind.gap_s


Pool = MeanPool | MaxPool | DecayPool


def make_pool(kind: Stride | Decay | Span | Session, pooling: str, width: int) -> Pool | None:
    """pooling: `mean`, `max`, `learned` or `decay`. None where a level spans one event or decays by itself."""
    if isinstance(kind, Decay) or kind == Stride(1):
        return None
    if pooling == "decay":
        return DecayPool(kind, width)
    window = Sliding(kind.events) if isinstance(kind, Stride) else SinceBorder(kind)
    return MaxPool(window, width) if pooling == "max" else MeanPool(window, width, learned=pooling == "learned")
