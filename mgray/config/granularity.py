"""Granularities: how much of the past a level reads as one. What may be asked for, and what each kind says of itself.

The model's side of each kind is in mgray/model: which events it pools in spans.py, how it mixes them in level.py.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

DECAY_PATTERN = re.compile(r"^decay:(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)$")
TIME_PATTERN = re.compile(r"^(session:)?(\d+(?:\.\d+)?)([smhd])$")
# A level keeps as many events for each tap of its convolution as its stride, and in fp32 a longer decay's last event
# would weigh nothing.
LONGEST_STRIDE, LONGEST_DECAY = 65_536, 100_000.0
UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

# How a search report groups levels.
Family = Literal["strides", "decays", "with time"]


@dataclass(frozen=True)
class Stride:
    """The last `events` events; the level's convolution is dilated by as many."""

    reads_times: ClassVar[bool] = False
    family: ClassVar[Family] = "strides"
    events: int

    def label(self, spelled: str) -> str:
        return "every event" if self.events == 1 else f"stride of {spelled} events"


@dataclass(frozen=True)
class Decay:
    """All events so far, an older one weighing less: learned time scales from `shortest` to `longest` events."""

    reads_times: ClassVar[bool] = False
    family: ClassVar[Family] = "decays"
    shortest: float
    longest: float

    def label(self, spelled: str) -> str:
        return f"decay, {spelled.removeprefix('decay:').replace('..', ' to ')} events"


@dataclass(frozen=True)
class Span:
    """The events so far of the current span of time. Spans are aligned to 1970-01-01 UTC and end at their border.

    Not a sliding span, which would need every event within it: this one is a sum that is reset, so that one event at
    a time needs a small fixed state.
    """

    reads_times: ClassVar[bool] = True
    family: ClassVar[Family] = "with time"
    seconds: float

    def label(self, spelled: str) -> str:
        return spelled


@dataclass(frozen=True)
class Session:
    """The events so far of the current session, which ends where the gap to the next event is longer than `gap_s`."""

    reads_times: ClassVar[bool] = True
    family: ClassVar[Family] = "with time"
    gap_s: float

    def label(self, spelled: str) -> str:
        return spelled


# Each says whether it needs the log's times (`reads_times`), how a search report groups it (`family`), and what other
# reports call it (`label`, of how the config spells it). `match` on a Kind ends in assert_never: mypy then names every
# place that a new kind must be added to.
Kind = Stride | Decay | Span | Session

# The spellings that `parse` reads, for the option `model.granularities`.
OPTION_TEXT = (
    "a stride in events (4); a span of time aligned to 1970-01-01 UTC (7d) or a session that a longer gap ends "
    "(session:30m), both of the log's timestamps; or decay:A..B, a learned decay of A to B events"
)


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


def read_spelled(spelled: str) -> Kind | None:
    """The kind of a granularity as a report spells it, where a stride is text too. None: it is no granularity."""
    try:
        return parse(int(spelled) if spelled.isdecimal() else spelled)
    except ValueError:
        return None
