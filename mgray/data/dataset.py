"""Reads a committed dataset version: vocabulary and shards of histories, as flat numpy arrays."""

import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mgray.config import ResolvedModelConfig
from mgray.data import moments
from mgray.data.columns import Columns, parts_of
from mgray.data.inputs import InputSpec, named_inputs
from mgray.data.manifest import Manifest, read_manifest
from mgray.data.mapped import TextColumn, number_view, read_mapped
from mgray.data.newest import POPULAR_SHARE, first_of_newest, sample_step
from mgray.schema import (
    COLUMN_BY_NAME,
    ITEM_ID,
    NEWEST_COLUMNS,
    TEST,
    TRAIN,
    UNKNOWN,
    USER_ID,
    VALID,
    EventColumn,
    OptionalColumn,
)

IntArray = npt.NDArray[np.int64]
Part = Literal["train", "valid", "test"]

MAX_SCALE_VALUES = 101  # distinct ratings of a scale, such as 0 to 100; of more, there is no scale
PART_NUMBERS: dict[Part, int] = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True)
class Histories:
    """The histories of one shard, R rows. Row r is events offsets[r]..offsets[r + 1] of `columns`, oldest first."""

    user_ids: list[str]  # [R]; empty where they were not read
    offsets: IntArray  # [R + 1]
    columns: Columns  # of all events
    train_end: IntArray  # [R]
    valid_end: IntArray  # [R]
    parts: npt.NDArray[np.int8] | None = None  # [events] of a random split, whose parts are no ranges; else None

    def row(self, index: int) -> Columns:
        return self.columns.take(slice(self.offsets[index], self.offsets[index + 1]))

    @property
    def part_of(self) -> npt.NDArray[np.int8]:
        """TRAIN, VALID or TEST of each event, [events]."""
        return parts_of(self.offsets, self.train_end, self.valid_end) if self.parts is None else self.parts

    def of_rows(self, chosen: npt.NDArray[np.bool_]) -> "Histories":
        """The histories of some rows. chosen: [R]."""
        lengths = np.diff(self.offsets)
        keep = np.repeat(chosen, lengths)
        return Histories(
            list(compress(self.user_ids, chosen)),
            np.concatenate([[0], np.cumsum(lengths[chosen])]),
            self.columns.take(keep),
            self.train_end[chosen],
            self.valid_end[chosen],
            None if self.parts is None else self.parts[keep],
        )

    def training(self, include_valid: bool = False, held_out: npt.NDArray[np.bool_] | None = None) -> "Histories":
        """The events on known items of the training part; include_valid: of the validation part too.

        held_out: [R] histories whose validation part does not train all the same.
        """
        keep = (self.part_of <= (VALID if include_valid else TRAIN)) & (self.columns.items != UNKNOWN)
        if held_out is not None:
            keep &= (self.part_of == TRAIN) | ~np.repeat(held_out, np.diff(self.offsets))
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        lengths = np.diff(offsets)
        return Histories(self.user_ids, offsets, self.columns.take(keep), lengths, lengths)


@dataclass(frozen=True)
class Query:
    """One prediction to evaluate: the history so far, and the item that came next."""

    user_id: str
    history: Columns  # known items only, oldest first
    target: int  # 1..V, or UNKNOWN
    target_rating: float = np.nan  # NaN: none, or ratings were not read


class Turn(NamedTuple):
    """A rank's share of a shard's users: every `ranks`-th, from number `rank` on."""

    rank: int = 0
    ranks: int = 1


ALL_USERS = Turn()


def drawn_rows(seed: int | Sequence[int], num_rows: int, share: float) -> npt.NDArray[np.bool_]:
    """Sample of `share`, 0 to 1, of the rows of a shard: [R], the same in every run."""
    found: npt.NDArray[np.bool_] = np.random.default_rng(seed).random(num_rows) < share
    return found


def is_held_out(shard: int, num_rows: int, share: float) -> npt.NDArray[np.bool_]:
    """Which histories of a shard are held out, where a `share` of all is: [R]."""
    return drawn_rows([shard, 1], num_rows, share)


def is_drawn(user_id: str, share: float) -> bool:
    """Whether a hash of the id puts the user in a sample of `share`, 0 to 1: the same users in every run."""
    return share >= 1 or zlib.crc32(user_id.encode()) < share * 2**32


class Dataset:
    """A dataset version on disk. Raises InputError where the folder holds no manifest."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(folder)
        self.num_items = self.manifest.items
        self.num_shards = len(self.manifest.shards)

    @cached_property
    def _vocabulary(self) -> pa.Table:
        """The items by number; mapped, where the version has the file for it (one of an older mgray is read whole)."""
        record = self.manifest.vocabulary
        if record.mapped_file is not None:
            return read_mapped(self.folder / record.mapped_file)
        return pq.read_table(self.folder / record.file, partitioning=None).sort_by("item").combine_chunks()

    @cached_property
    def item_ids(self) -> TextColumn:
        """Raw id of item `i` at index `i - 1`."""
        return TextColumn(self._vocabulary[ITEM_ID])

    @cached_property
    def all_item_ids(self) -> TextColumn:
        """Raw id of item `i` at index `i - 1`, the items outside the vocabulary last: the numbers of a whole read.

        A version made by an older mgray has the items of the vocabulary alone.
        """
        if self.manifest.outside_items_file is None:
            return self.item_ids
        table = pq.read_table(self.folder / self.manifest.outside_items_file, partitioning=None)
        return TextColumn(self._vocabulary[ITEM_ID], table[ITEM_ID])

    @property
    def all_event_types(self) -> list[str]:
        """Name of event type `i` at index `i - 1`, types that never train last: the numbers of a whole read."""
        return [*(kind.name for kind in self.manifest.event_types), *self.manifest.outside_event_types]

    @cached_property
    def titles(self) -> TextColumn:
        """Title of item `i` at index `i - 1`; the raw id of an item without one."""
        return TextColumn(self._vocabulary["title"], instead=self.item_ids)

    @cached_property
    def item_counts(self) -> IntArray:
        """Training events of each item, [V + 1]; index 0 (padding) is 0."""
        return np.concatenate([np.zeros(1, np.int64), number_view(self._vocabulary, "num_train_events")])

    def newest_counts(self, share: float = POPULAR_SHARE, include_valid: bool = False) -> IntArray:
        """Event count per item within the newest `share` of training events, ties at the cut included: [V + 1].

        The default share's counts are read from the vocabulary; another share, or a version of an older mgray, reads
        the shards' times twice. The share is of events, not of the log's duration, so that a few wrong times change
        little. Of more than MAX_TIMES events the cut is the quantile of a sample. share: 0 to 1. Index 0
        (padding) is 0.
        """
        column = NEWEST_COLUMNS[include_valid]
        if share == POPULAR_SHARE and self.has_newest_counts:
            return np.concatenate([np.zeros(1, np.int64), number_view(self._vocabulary, column)])
        step = sample_step(self.manifest.train_events)
        cut = first_of_newest([_times(one)[::step] for one in self.train_events(["times"], include_valid)], share)
        counts = np.zeros(self.num_items + 1, dtype=np.int64)
        for histories in self.train_events(["times"], include_valid):
            counts += np.bincount(histories.columns.items[_times(histories) >= cut], minlength=len(counts))
        return counts

    @property
    def has_newest_counts(self) -> bool:
        """Whether the ingest counted the newest events; else `newest_counts` reads the log."""
        return set(NEWEST_COLUMNS.values()) <= set(self._vocabulary.column_names)

    def _trains_on_prefixes(self, include_valid: bool) -> bool:
        """Whether every history trains on its first events, without a gap for unknown items.

        The validation part may hold items that never train; no count in the manifest says so.
        """
        return self.manifest.split.kind != "random" and self.manifest.cold_items == 0 and not include_valid

    def train_lengths(self, include_valid: bool = False, held_out: float = 0.0) -> list[IntArray]:
        """Training events of each history, one array per shard; include_valid: of the validation part too.

        held_out: share of the histories whose validation part does not train all the same; see `is_held_out`.
        """
        if not self._trains_on_prefixes(include_valid):
            return [
                self.read_training(shard, (), include_valid, held_out).train_end for shard in range(self.num_shards)
            ]
        return [
            pq.read_table(self.folder / shard.file, columns=["train_end"], partitioning=None)["train_end"]
            .to_numpy()
            .astype(np.int64)
            for shard in self.manifest.shards
        ]

    def read(
        self, shard: int, columns: Collection[OptionalColumn] = (), with_users: bool = True, whole: bool = False
    ) -> Histories:
        """A shard's histories, of all parts. columns: the event columns to read, which the log must have.

        whole: read every item and event type of the log, for a model that was trained on another log (see
        `Translation`). Items and types that do not train have the numbers of `all_item_ids` and `all_event_types`; a
        missing feature is NaN.
        """
        names = ["train_end", "valid_end", *self.column_names(columns, whole)]
        if self.manifest.split.kind == "random":
            names.append("parts")
        if with_users:
            names.append(USER_ID)
        path = self.folder / self.manifest.shards[shard].file
        table = pq.read_table(path, columns=names, partitioning=None).combine_chunks()
        offsets, read = self.parse(table, columns, whole)
        return Histories(
            user_ids=table[USER_ID].to_pylist() if with_users else [],
            offsets=offsets,
            columns=read,
            train_end=table["train_end"].to_numpy().astype(np.int64),
            valid_end=table["valid_end"].to_numpy().astype(np.int64),
            parts=table["parts"].combine_chunks().values.to_numpy() if "parts" in names else None,
        )

    def column_names(self, columns: Collection[OptionalColumn], whole: bool) -> list[str]:
        """The columns of a shard's file that `parse` needs."""
        outside = ["outside_items"] if whole and self.manifest.outside_items_file is not None else []
        return ["items", *outside, *(COLUMN_BY_NAME[name].list_name for name in columns)]

    def parse(self, table: pa.Table, columns: Collection[OptionalColumn], whole: bool) -> tuple[IntArray, Columns]:
        """Rows of a shard, [R], to offsets [R + 1] and flat columns. columns, whole: see `read`."""
        lists = table["items"].combine_chunks()
        items = lists.values.to_numpy()
        if whole and "outside_items" in table.column_names:
            items = items.copy()
            items[items == UNKNOWN] = self.num_items + 1 + table["outside_items"].combine_chunks().values.to_numpy()
        read = {name: self._column(COLUMN_BY_NAME[name], table, whole) for name in columns}
        return lists.offsets.to_numpy().astype(np.int64), Columns(items, **read)

    def _column(self, column: EventColumn, table: pa.Table, whole: bool) -> npt.NDArray[Any]:
        """The values of an event column, [E] or [E, F]. table, whole: see `parse`."""
        values = table[column.list_name].combine_chunks().values
        match column.kind:
            case "time" | "number":
                given: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)  # null becomes NaN
                return given
            case "name":
                numbers: npt.NDArray[Any] = values.fill_null(-1).to_numpy() + column.dtype(1)
                if self.manifest.outside_event_types and not whole:
                    numbers = np.where(numbers > len(self.manifest.event_types), column.dtype(0), numbers)
                return numbers
            case "vector":
                features = self.manifest.features
                scaled = values.to_numpy().reshape(-1, len(features))
                return scaled if whole else moments.fill(scaled, *np.array([(one.mean, one.std) for one in features]).T)
            case _:
                assert_never(column.kind)

    def read_training(
        self,
        shard: int,
        columns: Collection[OptionalColumn] = (),
        include_valid: bool = False,
        held_out: float = 0.0,
    ) -> Histories:
        """A shard's histories without user ids; of each, the first events train, as many as `train_lengths` says."""
        histories = self.read(shard, columns, with_users=False)
        if self._trains_on_prefixes(include_valid):
            return histories
        left = is_held_out(shard, len(histories.train_end), held_out) if held_out else None
        return histories.training(include_valid, left)

    def train_events(
        self, columns: Collection[OptionalColumn] = (), include_valid: bool = False
    ) -> Iterator[Histories]:
        """The training events of each shard, without user ids."""
        for shard in range(self.num_shards):
            yield self.read(shard, columns, with_users=False).training(include_valid)

    def read_users(
        self,
        shard: int,
        columns: Collection[OptionalColumn] = (),
        share: float = 1.0,
        turn: Turn = ALL_USERS,
        whole: bool = False,
    ) -> Histories:
        """A shard's histories of the users that `turn` and `share` (see `is_drawn`) choose.

        columns, whole: see `read`.
        """
        histories = self.read(shard, columns, whole=whole)
        if share >= 1 and turn.ranks == 1:
            return histories
        mine = np.arange(len(histories.user_ids)) % turn.ranks == turn.rank
        if share < 1:
            mine &= np.asarray([is_drawn(user_id, share) for user_id in histories.user_ids], dtype=bool)
        return histories.of_rows(mine)

    def queries(
        self,
        part: Part,
        columns: Collection[OptionalColumn] = (),
        shards: Iterable[int] | None = None,
        share: float = 1.0,
        turn: Turn = ALL_USERS,
        whole: bool = False,
        held_out: float | None = None,
    ) -> Iterator[Query]:
        """One query for each event of `part`: the event is the target, the events on known items before it the history.

        In a random split, whose parts are mixed, the history holds events of the training part only. columns, share,
        turn: see `read_users`. whole: see `read`; histories and targets then hold items outside the vocabulary too.
        held_out: of the histories that `is_held_out` gives for this share alone; with neither share nor turn.
        """
        for shard in range(self.num_shards) if shards is None else shards:
            histories = self.read_users(shard, columns, share, turn, whole)
            if held_out is not None:
                histories = histories.of_rows(is_held_out(shard, len(histories.user_ids), held_out))
            parts, items = histories.part_of, histories.columns.items
            known = items != UNKNOWN
            if histories.parts is not None:
                known &= parts == TRAIN
            readable = histories.columns.take(known)
            before = np.concatenate([[0], np.cumsum(known)])  # readable events before each event
            ratings = histories.columns.ratings
            rows = np.repeat(np.arange(len(histories.user_ids)), np.diff(histories.offsets))
            for place in np.flatnonzero(parts == PART_NUMBERS[part]).tolist():
                row = rows[place]
                history = readable.take(slice(before[histories.offsets[row]], before[place]))
                rating = np.nan if ratings is None else float(ratings[place])
                yield Query(histories.user_ids[row], history, int(items[place]), rating)

    def input_spec(self, config: ResolvedModelConfig) -> InputSpec:
        """The meaning of the model's inputs; reads the training part's ratings where the model reads ratings."""
        spec = named_inputs(config, self.manifest)
        if "rating" not in config.inputs and config.outputs == "next_item":
            return spec
        measured = self.rating_moments()
        known: dict[str, Any] = {"rating_mean": float(measured.mean[0]), "rating_std": float(measured.std[0])}
        if config.outputs != "next_item":
            known["rating_scale"] = self.rating_scale()
        return spec.model_copy(update=known)

    def rating_scale(self) -> tuple[float, ...]:
        """Distinct ratings of the training part, ascending; empty where they are too many to be a scale."""
        values: set[float] = set()
        for histories in self.train_events(["ratings"]):
            assert histories.columns.ratings is not None
            values |= set(np.unique(histories.columns.ratings[~np.isnan(histories.columns.ratings)]).tolist())
            if len(values) > MAX_SCALE_VALUES:
                return ()
        return tuple(sorted(values))

    def rating_moments(self) -> moments.Moments:
        """Moments of the training part's ratings, one column."""
        parts = []
        for histories in self.train_events(["ratings"]):
            assert histories.columns.ratings is not None
            parts.append(moments.measure(histories.columns.ratings[:, None].astype(np.float64)))
        return moments.combine(parts, 1)


def _times(histories: Histories) -> npt.NDArray[np.float64]:
    assert histories.columns.times is not None, "times are among the columns that were asked for"
    return histories.columns.times
