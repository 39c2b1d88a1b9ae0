"""Records of what the tasks of an ingest return.

A result travels through Ray, and lies in files for the run after a kill, as JSON: `to_json`, and `from_json` back.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np

from mgray.data.manifest import Shard
from mgray.data.moments import Moments
from mgray.schema import NUMBER_COLUMNS, EventColumn, OptionalColumn
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.ranges import Range

RESULTS_FORM = 6  # changes with a record's fields: a run after a kill does not read what an older mgray left


class Failure(NamedTuple):
    """A task's error that the user can mend. As a traceback through Ray nobody would find its one line."""

    message: str


@dataclass(frozen=True)
class TaskResult:
    """Result of a task. Fields hold JSON values; a record with others says how they are read back."""

    @property
    def num_rows(self) -> int:
        """Rows that the task worked on, for the speed that the progress shows; 0: none is shown."""
        return 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record of a JSON text. Raises ValueError for a text that is cut off, KeyError for a missing field."""
        return cls(**cls.read_fields(json.loads(text)))

    @classmethod
    def read_fields(cls, found: dict[str, Any]) -> dict[str, Any]:
        """Field -> its value, from the JSON object of `to_json`."""
        return {field.name: found[field.name] for field in fields(cls)}


@dataclass(frozen=True)
class Nothing(TaskResult):
    """A task whose whole result is a file."""


@dataclass(frozen=True)
class InspectedFile:
    """A file of the log."""

    bytes: int
    sha256: str
    layout: Layout | None = None  # None: not looked into, as the version to append to has its rows
    ranges: Sequence[Range] = ()


@dataclass(frozen=True)
class InspectedFiles(TaskResult):
    """A batch of files of the log, in their order."""

    files: list[InspectedFile]

    @classmethod
    def read_fields(cls, found: dict[str, Any]) -> dict[str, Any]:
        return {"files": [_inspected(**file) for file in found["files"]]}


def _inspected(bytes: int, sha256: str, layout: list[Any], ranges: list[list[Any]]) -> InspectedFile:
    """layout, ranges: values in the order of the records' fields."""
    of_file = Layout(*layout)
    return InspectedFile(bytes, sha256, of_file._replace(notes=tuple(of_file.notes)), [Range(*one) for one in ranges])


@dataclass(frozen=True)
class BadRow:
    """A row of the log that cannot be read."""

    line: int
    reason: str
    raw: str
    file: str


@dataclass(frozen=True)
class StagedUnit(TaskResult):
    """Contents of a staged unit. It lies beside the unit's files as done.json, for ingests to come: the form stays."""

    good: int  # rows with an event, those of the forgotten too
    bad: int  # rows that cannot be read
    forgotten: int  # rows of users of the forget list
    pieces: list[int]  # rows of each
    event_types: list[str]  # numbered by their place
    number_columns: list[OptionalColumn]  # of NUMBER_COLUMNS, those that some row has
    first_time: float | None
    last_time: float | None
    first_bad: BadRow | None
    found_forgotten: str  # which ids of the forget list have rows: see `pack_bits`
    odd_ids: dict[str, list[str]]  # user_id, item_id -> some ids that are numbers in an unusual spelling

    @property
    def num_rows(self) -> int:
        return self.good

    def has(self, column: EventColumn) -> bool:
        """Whether some row has a value in this column, of OPTION_COLUMNS."""
        return bool(self.event_types) if column.kind == "name" else column.name in self.number_columns

    def to_json(self) -> str:
        has = {_has_key(column): column.name in self.number_columns for column in NUMBER_COLUMNS}
        values: dict[str, Any] = {}
        for name, value in asdict(self).items():
            values |= has if name == "number_columns" else {name: value}
        return json.dumps(values)

    @classmethod
    def read_fields(cls, found: dict[str, Any]) -> dict[str, Any]:
        # a unit that was staged before there was such a column has no value in it
        numbers = [column.name for column in NUMBER_COLUMNS if found.get(_has_key(column), False)]
        bad = found["first_bad"]
        read = super().read_fields(found | {"number_columns": numbers})
        return read | {"first_bad": None if bad is None else BadRow(**bad)}


def _has_key(column: EventColumn) -> str:
    """Key in done.json that says whether some row has a value: `has_ratings`, ..."""
    return f"has_{column.name}"


@dataclass(frozen=True)
class TwoWays:
    """Ids that the log spells in two ways which are one by the rule of ids."""

    num_ids: int
    example: str | None


@dataclass(frozen=True)
class MergedItems(TaskResult):
    """A partition of the items."""

    items: int  # distinct ones
    two_ways: TwoWays

    @classmethod
    def read_fields(cls, found: dict[str, Any]) -> dict[str, Any]:
        return super().read_fields(found) | {"two_ways": TwoWays(**found["two_ways"])}


@dataclass(frozen=True)
class FinishedBucket(TaskResult):
    """The histories of a bucket's users: those who train and are measured, but for `short_users`."""

    written: int  # events
    users: int
    short_users: int  # users with too few events
    part_events: list[int]  # of training, validation, test
    first_timestamp: float | None  # None: no event
    last_timestamp: float | None
    number_columns: list[OptionalColumn]  # of NUMBER_COLUMNS, those that some event has
    lengths: list[int]  # of histories, distinct and rising
    length_users: list[int]  # users of each of `lengths`
    by_time: list[int]  # events of each of TIME_BINS equal spans of the log's time
    event_types: list[int]  # events by the log's code of their type
    train_event_types: list[int]  # the same of the training part
    feature_moments: list[list[float]]  # of the training part, the fields of Moments

    @property
    def moments(self) -> Moments:
        return Moments(*map(np.asarray, self.feature_moments))


@dataclass(frozen=True)
class CleanedBucket(TaskResult):
    """A bucket's events under the rules."""

    read: int  # events before
    dropped: dict[str, int]  # events, by rule
    kept: int  # events after
    two_ways: TwoWays  # of the users
    met: list[int]  # places in IngestContext.odd_users whose usual spelling is a user here
    finished: FinishedBucket | None  # None: a k-core comes first

    @property
    def num_rows(self) -> int:
        return self.read

    @classmethod
    def read_fields(cls, found: dict[str, Any]) -> dict[str, Any]:
        finished = found["finished"]
        return super().read_fields(found) | {
            "two_ways": TwoWays(**found["two_ways"]),
            "finished": None if finished is None else FinishedBucket(**finished),
        }


@dataclass(frozen=True)
class CoreTurn(TaskResult):
    """A bucket after one turn of the k-core."""

    rows: int  # events before any turn
    kept: int
    dropped: dict[str, int]  # events, by rule

    @property
    def num_rows(self) -> int:
        return self.rows


@dataclass(frozen=True)
class WrittenBucket(TaskResult):
    """The shards of a bucket; None where it has no such user."""

    shard: Shard | None  # of users who train and are measured
    short_shard: Shard | None  # of users with too few events
    rows: int  # events of users who train and are measured

    @property
    def num_rows(self) -> int:
        return self.rows

    def to_json(self) -> str:
        shards = {"shard": self.shard, "short_shard": self.short_shard}
        return json.dumps({name: one and one.model_dump() for name, one in shards.items()} | {"rows": self.rows})

    @classmethod
    def read_fields(cls, found: dict[str, Any]) -> dict[str, Any]:
        shards = {name: found[name] and Shard(**found[name]) for name in ("shard", "short_shard")}
        return super().read_fields(found) | shards
