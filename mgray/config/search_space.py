"""The space that a search draws from: dotted config keys and the values each may take, from YAML. Knows no sampler.

A dimension is one of `choice: [values]` (a value may be a list, such as granularities), `uniform: [low, high]`,
`loguniform: [low, high]` and `int: [low, high]` or `int: [low, high, step]`; every end is included. A point is a
dictionary of dotted key -> what a sampler handles: a number, or the label of a choice.
"""

import difflib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mgray.config import TrainJobConfig
from mgray.config.command_line import flatten, validate
from mgray.config.keys import leaves, set_key
from mgray.config.settings_file import read_yaml
from mgray.errors import InputError

DEFAULT_SPACE = Path(__file__).parent.parent.parent / "jobs" / "configs" / "space.yaml"
SECTIONS = ("model.", "train.")
# What a search itself decides, or what would make its trials incomparable.
NOT_SEARCHED = (
    *("train.epochs", "train.max_time_s", "train.validate_every_epochs", "train.include_valid"),
    *("train.warm_start", "train.seed"),
)
DRAWS_THAT_MAY_FIT = 64

Point = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(label(value) for value in self.values)

    def draw(self, source: random.Random) -> str:
        return source.choice(self.labels)

    def decode(self, drawn: Any) -> Any:
        return self.values[self.labels.index(drawn)]

    def encode(self, value: Any) -> str | None:
        name = label(value)
        return name if name in self.labels else None

    def extremes(self) -> tuple[Any, ...]:
        return self.values

    @property
    def all_drawn(self) -> Sequence[str] | None:
        """Everything that may be drawn; None: too much to list."""
        return self.labels


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`: `log` draws by order of magnitude; with `step` they are whole."""

    low: float
    high: float
    log: bool = False
    step: int | None = None

    def draw(self, source: random.Random) -> float:
        if self.step is not None:
            return source.randrange(int(self.low), int(self.high) + 1, self.step)
        if self.log:
            return min(self.high, max(self.low, math.exp(source.uniform(math.log(self.low), math.log(self.high)))))
        return source.uniform(self.low, self.high)

    def decode(self, drawn: Any) -> Any:
        return drawn

    def encode(self, value: Any) -> float | None:
        inside = isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high
        return value if inside and (self.step is None or (value - self.low) % self.step == 0) else None

    def extremes(self) -> tuple[Any, ...]:
        return (self.low, self.high)

    @property
    def all_drawn(self) -> Sequence[int] | None:
        """Encode a value, as Choice does."""
        return None if self.step is None else range(int(self.low), int(self.high) + 1, self.step)


Dimension = Choice | Range
Space = dict[str, Dimension]


def all_points(space: Space) -> Iterator[Point] | None:
    """Every point of a space without numbers of any size in between; None of one with them."""
    drawn = [dimension.all_drawn for dimension in space.values()]
    if any(values is None for values in drawn):
        return None
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*(values or () for values in drawn)))


def label(value: Any) -> str:
    """How a choice is called: `attention`, `[1, 4, "decay:1..400"]`, `none`."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def read_space(path: str | None, base: TrainJobConfig) -> Space:
    """The space of a YAML file, checked against the config that its points will change; None: the default space.

    Raises InputError, in one line, where it is missing, empty, malformed, or names what no config can be.
    """
    file = Path(path) if path is not None else DEFAULT_SPACE
    where = f"search.space {file}"
    return parse_space(read_yaml(file, where), base, where)


def parse_space(values: Any, base: TrainJobConfig, where: str = "search.space") -> Space:
    """Dotted key -> {kind: arguments}, to a checked space. Raises InputError."""
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{where}: the space is empty; give dotted keys, such as model.width: {{choice: [32, 64]}}")
    known = [key for key in leaves(TrainJobConfig) if key.startswith(SECTIONS) and key not in NOT_SEARCHED]
    space: Space = {}
    for key, given in values.items():
        if key not in known:
            why = "is not searched: it belongs to the search itself" if key in NOT_SEARCHED else "is no key to search"
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {near[0]}?)" if near and key not in NOT_SEARCHED else ""
            raise InputError(f"{where}: {key} {why}{hint}; valid keys: {', '.join(known)}")
        space[key] = _dimension(given, f"{where}: {key}")
    _check(space, base, where)
    return space


def _dimension(given: Any, where: str) -> Dimension:
    kinds = "choice: [values], uniform: [low, high], loguniform: [low, high] or int: [low, high, step]"
    if not isinstance(given, Mapping) or len(given) != 1:
        raise InputError(f"{where}: give one of {kinds}, not {given!r}")
    kind, arguments = next(iter(given.items()))
    if kind not in ("choice", "uniform", "loguniform", "int"):
        raise InputError(f"{where}: {kind!r} is no kind of range; give one of {kinds}")
    if not isinstance(arguments, list) or not arguments:
        raise InputError(f"{where}: {kind} needs a list that is not empty, not {arguments!r}")
    if kind == "choice":
        choice = Choice(tuple(None if value == "none" else value for value in arguments))
        twice = {name for name in choice.labels if choice.labels.count(name) > 1}
        if twice:
            raise InputError(f"{where}: {', '.join(sorted(twice))} is listed twice")
        return choice
    numbers = [_number(value, f"{where}: {kind}") for value in arguments]
    if len(numbers) != 2 and not (kind == "int" and len(numbers) == 3):
        raise InputError(f"{where}: {kind} is [low, high]{' or [low, high, step]' if kind == 'int' else ''}")
    low, high = numbers[:2]
    if low > high:
        raise InputError(f"{where}: {kind} runs from {low:g} down to {high:g}; the lower end comes first")
    if kind == "loguniform" and low <= 0:
        raise InputError(f"{where}: loguniform needs a lower end above 0, not {low:g}")
    if kind != "int":
        return Range(low, high, log=kind == "loguniform")
    step = numbers[2] if len(numbers) == 3 else 1.0
    if any(number != int(number) for number in (*numbers, step)) or step < 1:
        raise InputError(f"{where}: int needs whole numbers and a step of at least 1, not {arguments!r}")
    return Range(int(low), int(high) - (int(high) - int(low)) % int(step), step=int(step))


def _number(value: Any, where: str) -> float:
    try:  # YAML 1.1 reads 1e-3 as text
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {value!r} is no number")
    return number


def _check(space: Space, base: TrainJobConfig, where: str) -> None:
    """Every end and every choice must be part of a valid config, alone or with others of the space."""
    source = random.Random(0)
    for key, dimension in space.items():
        for value in dimension.extremes():
            first: InputError | None = None
            for attempt in range(1 + DRAWS_THAT_MAY_FIT):
                others = decode(space, draw(space, source)) if attempt else {}
                try:
                    apply(base, others | {key: value}, where)
                except InputError as error:
                    first = first or error
                else:
                    break
            else:
                assert first is not None, "at least one attempt failed"
                raise first


def draw(space: Space, source: random.Random) -> Point:
    return {key: dimension.draw(source) for key, dimension in space.items()}


def decode(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point -> dotted key -> the config's value."""
    return {key: dimension.decode(point[key]) for key, dimension in space.items()}


def encode(space: Space, config: TrainJobConfig) -> Point:
    """Turn `config` into a point of the space; keys whose value the space does not hold are left out."""
    flat = flatten(config)
    values = {key: list(flat[key]) if isinstance(flat[key], tuple) else flat[key] for key in space}
    found = {key: dimension.encode(values[key]) for key, dimension in space.items()}
    return {key: value for key, value in found.items() if value is not None}


def apply(base: TrainJobConfig, values: Mapping[str, Any], where: str = "search") -> TrainJobConfig:
    """`base` with the values put in. Raises InputError where that is no valid config."""
    changed = base.model_dump(mode="json", include=set(TrainJobConfig.model_fields))  # of a search too
    for key, value in values.items():
        set_key(changed, key, value)
    return validate(TrainJobConfig, changed, where)


def space_text(space: Space) -> dict[str, str]:
    """Dotted key -> the values it may take, in words; what makes two searches the same search."""
    words = {}
    for key, dimension in space.items():
        if isinstance(dimension, Choice):
            words[key] = " | ".join(dimension.labels)
        else:
            step = f", step {dimension.step}" if dimension.step not in (None, 1) else ""
            words[key] = f"{dimension.low:g} to {dimension.high:g}{' (log)' if dimension.log else ''}{step}"
    return words


def best_yaml(config: TrainJobConfig, heading: list[str]) -> str:
    """A file that `jobs/train.py --config` takes, with its provenance on top."""
    values = config.model_dump(mode="json", exclude={"home"})
    return "".join(f"# {line}\n" for line in heading) + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
