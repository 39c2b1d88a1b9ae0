"""What a level of the model spans: a stride in events, a span of time, a session, or a learned decay."""

import re
from dataclasses import dataclass

DECAY_PATTERN = re.compile(r"^decay:(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)$")
TIME_PATTERN = re.compile(r"^(session:)?(\d+(?:\.\d+)?)([smhd])$")
# A level keeps as many events for each tap of its convolution as its stride, and in fp32 a longer decay's last event
# would weigh nothing.
LONGEST_STRIDE, LONGEST_DECAY = 65_536, 100_000.0
UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True)
class Stride:
    """The last so many events; its convolution is dilated to as many."""

    events: int


@dataclass(frozen=True)
class Decay:
    """All events so far, each less than the one after it: time scales from `shortest` to `longest` events."""

    shortest: float
    longest: float


@dataclass(frozen=True)
class Span:
    """The events so far of the current span of time. Spans are aligned to 1970-01-01 UTC and end at their border.

    Not a sliding span, which would need every event within it: this one is a sum that is reset, so that one event at
    a time needs a small fixed state.
    """

    seconds: float


@dataclass(frozen=True)
class Session:
    """The events so far of the current session, which ends where the gap to the next event is longer than `gap_s`."""

    gap_s: float


Kind = Stride | Decay | Span | Session


def parse(value: int | str) -> Kind:
    """`4` events; `12h` or `7d` of time; `session:30m`; `decay:1..400` events. Raises ValueError for anything else."""
    if isinstance(value, int):
        if not 1 <= value <= LONGEST_STRIDE:
            raise ValueError(f"a stride is at least 1 event and at most {LONGEST_STRIDE}, not {value}")
        return Stride(value)
    if match := DECAY_PATTERN.match(value):
        shortest, longest = float(match[1]), float(match[2])
        if not 1 <= shortest <= longest <= LONGEST_DECAY:
            raise ValueError(f"{value!r}: the range runs from at least 1 event up to {LONGEST_DECAY:.0f}")
        return Decay(shortest, longest)
    if match := TIME_PATTERN.match(value):
        seconds = float(match[2]) * UNIT_S[match[3]]
        if seconds < 1:
            raise ValueError(f"{value!r}: a span of time is at least 1 second")
        return Session(seconds) if match[1] else Span(seconds)
    raise ValueError(
        f"{value!r} is neither a stride in events (such as 4), a span of time (such as 12h or 7d), a session (such as "
        f"session:30m) nor a decay (such as decay:1..400)"
    )


def checked(value: int | str) -> int | str:
    """The value itself. Raises ValueError where it is no granularity."""
    parse(value)
    return value


def reads_times(value: int | str) -> bool:
    """Whether a level of this granularity needs the log's timestamps."""
    return isinstance(parse(value), Span | Session)
