"""Causal pooling: one vector per position from the level below's outputs over the span.

Legend: `B` sequences, `L` positions, `D` channels.

A pooling takes x [B, L, D], mask [B, L, 1] in {0, 1}, the clock where the span is one of time, and the states that it
returned for the events before. It returns the pooled [B, L, D] and its new states; without states it returns none.
"""

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from mgray.config import Pooling
from mgray.config.granularity import Kind
from mgray.model.scan import decayed_sum, gated_sum
from mgray.model.spans import Clock, EventSpan, Sliding, make_span

States = tuple[Tensor, ...]
SMALLEST_WEIGHT = 1e-12  # the divisor where there is no event yet


def _divide(total: Tensor, weight: Tensor) -> Tensor:
    return total / weight.clamp(min=SMALLEST_WEIGHT)


class MeanPool(nn.Module):
    """Mean over the span. learned: each event is weighted by a sigmoid of a learned projection of it."""

    def __init__(self, span: EventSpan, width: int, learned: bool) -> None:
        super().__init__()
        self.span, self.width = span, width
        self.weigh = nn.Linear(width, 1) if learned else None

    def initial_state(self, batch: int, device: torch.device) -> States:
        return tuple(self.span.initial(batch, width, 0.0, device) for width in (self.width, 1))

    def forward(
        self, x: Tensor, mask: Tensor, clock: Clock | None, state: States | None
    ) -> tuple[Tensor, States | None]:
        weight = mask if self.weigh is None else mask * torch.sigmoid(self.weigh(x).float())
        past, past_weight = (None, None) if state is None else state
        total, past = self.span.sum(x * weight, clock, past)
        total_weight, past_weight = self.span.sum(weight, clock, past_weight)
        pooled = _divide(total, total_weight)
        return pooled, None if past is None or past_weight is None else (past, past_weight)


class MaxPool(nn.Module):
    """Maximum over the span, per channel."""

    def __init__(self, span: EventSpan, width: int) -> None:
        super().__init__()
        self.span, self.width = span, width

    def initial_state(self, batch: int, device: torch.device) -> States:
        return (self.span.initial(batch, self.width, torch.finfo(torch.float32).min, device),)

    def forward(
        self, x: Tensor, mask: Tensor, clock: Clock | None, state: States | None
    ) -> tuple[Tensor, States | None]:
        is_padding = mask == 0
        candidates = x.float().masked_fill(is_padding, torch.finfo(torch.float32).min)
        largest, past = self.span.max(candidates, clock, None if state is None else state[0])
        return largest.masked_fill(is_padding, 0.0), None if past is None else (past,)


class DecayPool(nn.Module):
    """Mean in which an event's weight decays with its age. Each channel learns its time scale, from the span's length.

    Age is counted in events where the span is a stride, else in seconds.
    """

    def __init__(self, span: EventSpan, width: int) -> None:
        super().__init__()
        self.width, self.by_events = width, isinstance(span, Sliding)
        self.log_scale = nn.Parameter(torch.full((width,), math.log(span.scale)))

    def initial_state(self, batch: int, device: torch.device) -> States:
        return (torch.zeros(batch, 1, 2 * self.width, device=device),)

    def forward(
        self, x: Tensor, mask: Tensor, clock: Clock | None, state: States | None
    ) -> tuple[Tensor, States | None]:
        # The sum and the total weight are channels of one scan.
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


Pool = MeanPool | MaxPool | DecayPool


def make_pool(kind: Kind, pooling: Pooling, width: int) -> Pool | None:
    """The pooling of a level; None where the level has no span to pool (see `make_span`)."""
    span = make_span(kind)
    if span is None:
        return None
    match pooling:
        case "mean":
            return MeanPool(span, width, learned=False)
        case "learned":
            return MeanPool(span, width, learned=True)
        case "max":
            return MaxPool(span, width)
        case "decay":
            return DecayPool(span, width)
        case _:
            assert_never(pooling)
