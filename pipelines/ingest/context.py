"""Context that every task of one ingest knows: the units of the log, the rules, and what earlier passes found."""

from pathlib import Path
from typing import NamedTuple

from mgray.ingest.clean import SplitKind
from mgray.schema import OptionalColumn
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.ranges import Range
from pipelines.ingest.staging import Layers

WORK_FOLDER = "work"  # in the version's staging folder: what tasks leave for other tasks


class FileRange(NamedTuple):
    """A range of a file of the log."""

    file: LogFile
    layout: Layout
    extent: Range


class Unit(NamedTuple):
    """Ranges that one read task reads, in the order of the log."""

    key: str  # digest of the bytes and of the settings that shape its staged rows
    ranges: tuple[FileRange, ...]  # empty: staged before, by the ingest that this one appends to


class Piece(NamedTuple):
    """One staged file of a unit."""

    unit_key: str
    number: int  # in the unit
    rows: int


class Rules(NamedTuple):
    """Settings of mgray.config that a clean task needs: CleanConfig's fields, and the split's."""

    min_timestamp: float | None
    max_timestamp: float | None
    min_rating: float | None
    max_rating: float | None
    duplicates: bool
    max_user_events_per_day: int | None
    repeat_window_s: float | None
    min_item_events: int
    min_user_events: int
    split: SplitKind
    valid_from: float | None = None
    test_from: float | None = None


class IngestContext(NamedTuple):
    """Context that every task of one ingest knows."""

    folder: Path  # the version's staging folder, on storage that every node sees
    staged: Path  # the folder of staged units
    units: tuple[Unit, ...]
    layers: Layers
    time_unit: str  # of timestamps that are numbers
    rules: Rules
    pieces: tuple[Piece, ...] = ()  # in the order of the log
    pieces_key: str = ""  # digest of what the pieces are made from: another run's codes are not these
    partition_starts: tuple[int, ...] = ()  # code of each item partition's first item
    num_items: int = 0
    time_step: int = 1  # between the times of a bucket that are sampled to find the newest events
    event_types: tuple[tuple[int, ...], ...] = ()  # a piece's own number of an event type -> the log's code
    event_type_numbers: tuple[int, ...] = ()  # the log's code of an event type -> the version's number
    times: tuple[float, float] = (0.0, 0.0)  # first and last of the log
    odd_users: tuple[str, ...] = ()  # the usual spellings of users that are numbers in another one
    number_columns: frozenset[OptionalColumn] = frozenset()  # of NUMBER_COLUMNS, those that the log has
    has_outside_items: bool = False
    features: tuple[tuple[float, float], ...] = ()  # mean, standard deviation

    @property
    def work(self) -> Path:
        return self.folder / WORK_FOLDER

    def work_file(self, kind: str, index: int, suffix: str = "arrow") -> Path:
        return self.work / f"{kind}-{index:05d}.{suffix}"

    def piece_file(self, kind: str, piece: Piece) -> Path:
        """A file of a staged piece; kind: rows, users, items."""
        return self.staged / piece.unit_key / f"{kind}-{piece.number}.arrow"

    def alive_file(self, turn: int) -> Path:
        """Which items a turn of the k-core begins with, bool [number of items]."""
        return self.work / f"alive-{turn}.npy"

    @property
    def numbers_file(self) -> Path:
        """The version's number of each item, int32 [number of items]; 0: none."""
        return self.work / "numbers.npy"

    @property
    def outside_file(self) -> Path:
        """The row of each item in the file of outside items, int32 [number of items]; -1: none."""
        return self.work / "outside.npy"

    @property
    def has_core(self) -> bool:
        return self.rules.min_item_events > 1
