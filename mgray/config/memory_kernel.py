"""Kernels of memory: how much a past event weighs, by its age. What may be asked for, and what each kind reads."""

from dataclasses import dataclass
from typing import ClassVar

from mgray.config.granularity import TIME_PATTERN, UNIT_S

LONGEST_AGE = 100_000.0  # events


@dataclass(frozen=True)
class Age:
    """exp(-age / events): the last event has age 0, the one before it 1."""

    reads_times: ClassVar[bool] = False
    events: float


@dataclass(frozen=True)
class Elapsed:
    """exp(-t / seconds), t the time from the event to the user's last one."""

    reads_times: ClassVar[bool] = True
    seconds: float


Kernel = Age | Elapsed

# The spellings that `parse` reads, for the option `model.memory_kernels`.
OPTION_TEXT = (
    "an age after which an event weighs 1 / e: events (10), or a time (6h, 15d), for which requests need timestamps"
)


def parse(value: int | str) -> Kernel:
    """`10` events; `6h` or `15d` of time. Raises ValueError for anything else."""
    if isinstance(value, int):
        if not 1 <= value <= LONGEST_AGE:
            raise ValueError(f"an age is at least 1 event and at most {LONGEST_AGE:.0f}, not {value}")
        return Age(value)
    match = TIME_PATTERN.match(value)
    if match is None or match[1] or float(match[2]) == 0:
        raise ValueError(f"{value!r} is neither an age in events (such as 10) nor a time (such as 6h or 15d)")
    return Elapsed(float(match[2]) * UNIT_S[match[3]])


def checked(value: int | str) -> int | str:
    """The value itself. Raises ValueError where it is no kernel."""
    parse(value)
    return value
