"""Spans: which events so far a level pools, and their running sum and maximum, from the start or from a state.

Legend: `B` sequences, `L` positions, `D` channels.

A running sum or maximum takes `past`, the state before the first position, and returns the state after the last one.
Without a past it returns no state.
"""

from typing import NamedTuple, assert_never

import torch
from torch import Tensor
from torch.nn import functional as F

from mgray.config.granularity import Decay, Kind, Session, Span, Stride
from mgray.model.convolution import last, with_past
from mgray.model.scan import causal_max, causal_sum, gated_sum, running_max


class Clock(NamedTuple):
    """The time of each event and of the event before it; a history's first event has its own time for both."""

    times: Tensor  # [B, L] float64, seconds since 1970
    previous: Tensor  # [B, L] float64

    def gaps(self) -> Tensor:
        """Seconds since the event before, [B, L, 1] float32."""
        return (self.times - self.previous).clamp(min=0).unsqueeze(-1).float()


def make_clock(times: Tensor, last_time: Tensor | None = None) -> Clock:
    """times: [B, L] float64; last_time: [B] float64, the time of the event before position 0, NaN = none."""
    first = times[:, 0] if last_time is None else torch.where(last_time.isnan(), times[:, 0], last_time)
    return Clock(times, torch.cat([first.unsqueeze(1), times[:, :-1]], dim=1))


class Sliding:
    """The last `events` events. State: [B, events - 1, D], the inputs still within reach."""

    def __init__(self, events: int) -> None:
        self.events = events

    @property
    def scale(self) -> float:
        """The length of the span, events."""
        return self.events

    def initial(self, batch: int, width: int, fill: float, device: torch.device) -> Tensor:
        return torch.full((batch, self.events - 1, width), fill, device=device)

    def sum(self, x: Tensor, clock: Clock | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x: [B, L, D] -> sum [B, L, D]."""
        if past is None:
            return causal_sum(x, self.events), None
        extended = with_past(x, past, self.events - 1)
        return last(causal_sum(extended, self.events), x.shape[1]), last(extended, self.events - 1)

    def max(self, x: Tensor, clock: Clock | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x: [B, L, D] -> maximum [B, L, D]."""
        if past is None:
            return causal_max(x, self.events), None
        extended = with_past(x, past, self.events - 1)
        return last(causal_max(extended, self.events), x.shape[1]), last(extended, self.events - 1)


class SinceBorder:
    """The events since the span of time or the session began. State: [B, 1, D], the sum or maximum of them so far."""

    def __init__(self, kind: Span | Session) -> None:
        self.kind = kind

    @property
    def scale(self) -> float:
        """The length of the span, seconds; of a session, of the gap that ends it."""
        match self.kind:
            case Span(seconds):
                return seconds
            case Session(gap_s):
                return gap_s
            case _:
                assert_never(self.kind)

    def initial(self, batch: int, width: int, fill: float, device: torch.device) -> Tensor:
        return torch.full((batch, 1, width), fill, device=device)

    def goes_on(self, clock: Clock) -> Tensor:
        """Whether the event before belongs to the same span. -> [B, L, 1] bool."""
        match self.kind:
            case Session(gap_s):
                same = clock.times - clock.previous <= gap_s
            case Span(seconds):
                same = (clock.times / seconds).floor() == (clock.previous / seconds).floor()
            case _:
                assert_never(self.kind)
        return same.unsqueeze(-1)

    def sum(self, x: Tensor, clock: Clock | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x: [B, L, D] -> sum [B, L, D]."""
        assert clock is not None, "the model checks that there are times"
        keep = self.goes_on(clock).to(x.dtype)
        if past is None:
            return gated_sum(x, keep), None
        total = gated_sum(torch.cat([past, x], dim=1), F.pad(keep, (0, 0, 1, 0)))
        return total[:, 1:], total[:, -1:]

    def max(self, x: Tensor, clock: Clock | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x: [B, L, D] -> maximum [B, L, D]."""
        assert clock is not None, "the model checks that there are times"
        goes_on = self.goes_on(clock)
        if past is None:
            return running_max(x, goes_on), None
        found = running_max(torch.cat([past, x], dim=1), F.pad(goes_on, (0, 0, 1, 0)))
        return found[:, 1:], found[:, -1:]


EventSpan = Sliding | SinceBorder


def make_span(kind: Kind) -> EventSpan | None:
    """The span that a level of this kind pools. None: it pools nothing, for it reads one event or decays by itself."""
    match kind:
        case Stride(events):
            return Sliding(events) if events > 1 else None
        case Span() | Session():
            return SinceBorder(kind)
        case Decay():
            return None
        case _:
            assert_never(kind)
