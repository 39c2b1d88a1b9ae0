"""Reads a committed dataset version: vocabulary and shards of histories, as flat numpy arrays."""

import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mgray.config import ResolvedModelConfig
from mgray.data import moments
from mgray.data.columns import LIST_NAMES, Columns, OptionalColumn, parts_of
from mgray.data.inputs import InputSpec, named_inputs
from mgray.data.manifest import Manifest, read_manifest
from mgray.schema import ITEM_ID, TEST, TRAIN, UNKNOWN, USER_ID, VALID

IntArray = npt.NDArray[np.int64]
Part = Literal["train", "valid", "test"]

MAX_TIMES = 2**20  # that a quantile of the log's times is taken of
MAX_SCALE_VALUES = 101  # distinct ratings that are a scale, such as 0 to 100
PART_NUMBERS: dict[Part, int] = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True)
class Histories:
    """The histories of one shard. Row `r` owns the events offsets[r]..offsets[r + 1] of `columns`, oldest first."""

    user_ids: list[str]  # [R]; empty where they were not read
    offsets: IntArray  # [R + 1]
    columns: Columns  # of all events
    train_end: IntArray  # [R]
    valid_end: IntArray  # [R]
    parts: npt.NDArray[np.int8] | None = None  # [events], of a random split only, which has no ranges

    def row(self, index: int) -> Columns:
        return self.columns.take(slice(self.offsets[index], self.offsets[index + 1]))

    @property
    def part_of(self) -> npt.NDArray[np.int8]:
        """TRAIN, VALID or TEST of each event, [events]."""
        return parts_of(self.offsets, self.train_end, self.valid_end) if self.parts is None else self.parts

    def of_rows(self, chosen: npt.NDArray[np.bool_]) -> "Histories":
        """Those of some rows. chosen: [R]."""
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

    def training(self, include_valid: bool = False) -> "Histories":
        """The events that a model trains on: those of the training part, or up to the test part, on known items."""
        keep = (self.part_of <= (VALID if include_valid else TRAIN)) & (self.columns.items != UNKNOWN)
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        lengths = np.diff(offsets)
        return Histories(self.user_ids, offsets, self.columns.take(keep), lengths, lengths)


@dataclass(frozen=True)
class Query:
    """One prediction to evaluate: what was known, and what came next."""

    user_id: str
    history: Columns  # known items only, oldest first
    target: int  # 1..V, or UNKNOWN
    target_rating: float = np.nan  # NaN where there is none, or ratings were not read


class Turn(NamedTuple):
    """Every `ranks`-th user of a shard, from the `rank`-th on."""

    rank: int = 0
    ranks: int = 1


ALL_USERS = Turn()


def is_drawn(user_id: str, share: float) -> bool:
    """Whether a user is among the `share`, 0 to 1, that a hash of the ids draws: the same ones in every run."""
    return share >= 1 or zlib.crc32(user_id.encode()) < share * 2**32


class Dataset:
    """A dataset version on disk. Raises InputError where the folder holds no manifest."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(folder)
        self.num_items = self.manifest.items
        self.num_shards = len(self.manifest.shards)

    @cached_property
    def _vocabulary(self) -> dict[str, list]:
        table = pq.read_table(self.folder / self.manifest.vocabulary.file, partitioning=None)
        return table.sort_by("item").to_pydict()

    @property
    def item_ids(self) -> list[str]:
        """Raw id of item `i` at index `i - 1`."""
        return self._vocabulary[ITEM_ID]

    @cached_property
    def all_item_ids(self) -> list[str]:
        """Raw id of item `i` at index `i - 1`, then of the items outside the vocabulary: the numbers of a whole read.

        A version that an older mgray made has the former alone.
        """
        if self.manifest.outside_items_file is None:
            return self.item_ids
        table = pq.read_table(self.folder / self.manifest.outside_items_file, partitioning=None)
        return [*self.item_ids, *table[ITEM_ID].to_pylist()]

    @property
    def all_event_types(self) -> list[str]:
        """Name of event type `i` at index `i - 1`, then of those that never train: the numbers of a whole read."""
        return [*(kind.name for kind in self.manifest.event_types), *self.manifest.outside_event_types]

    @property
    def titles(self) -> list[str]:
        """Title of item `i` at index `i - 1`; its raw id where no title is known."""
        return [title or raw for title, raw in zip(self._vocabulary["title"], self.item_ids, strict=True)]

    @cached_property
    def item_counts(self) -> IntArray:
        """Training events of each item, [V + 1]; index 0 (padding) is 0."""
        return np.concatenate([[0], np.asarray(self._vocabulary["num_train_events"], dtype=np.int64)])

    def newest_counts(self, share: float, include_valid: bool = False) -> IntArray:
        """Of each item among the newest `share`, 0 to 1, of all events to train on, and those of the very time that
        this begins with, [V + 1]; index 0 (padding) is 0.

        By the events and not by the clock, so that a few with a wrong time are but a few. The cut is the quantile of a
        sample where there are more than MAX_TIMES.
        """
        step = 1 + self.manifest.train_events // MAX_TIMES
        sample = [_times(one)[::step] for one in self.train_events(["times"], include_valid)]
        times = np.concatenate([*sample, np.zeros(0)])
        cut = np.quantile(times, 1 - share, method="lower") if len(times) else 0.0
        counts = np.zeros(self.num_items + 1, dtype=np.int64)
        for histories in self.train_events(["times"], include_valid):
            counts += np.bincount(histories.columns.items[_times(histories) >= cut], minlength=len(counts))
        return counts

    def _trains_on_prefixes(self, include_valid: bool) -> bool:
        """Whether what a history trains on is its first events, all of them on known items.

        The validation part may hold items that never train, which no count in the manifest tells.
        """
        return self.manifest.split.kind != "random" and self.manifest.cold_items == 0 and not include_valid

    def train_lengths(self, include_valid: bool = False) -> list[IntArray]:
        """Events of each history to train on, an array a shard; include_valid: of the validation part too."""
        if not self._trains_on_prefixes(include_valid):
            return [
                self.read_training(shard, include_valid=include_valid).train_end for shard in range(self.num_shards)
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
        """A shard's histories, of all parts; `columns`: those to read beside items, which the log must have.

        whole: as the log has them, for a model that was trained on another log (see `Translation`). Items and event
        types that do not train have the numbers of `all_item_ids` and `all_event_types`; a missing feature is NaN.
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
        """What `parse` needs of a shard's file."""
        outside = ["outside_items"] if whole and self.manifest.outside_items_file is not None else []
        return ["items", *outside, *(LIST_NAMES[name] for name in columns)]

    def parse(self, table: pa.Table, columns: Collection[OptionalColumn], whole: bool) -> tuple[IntArray, Columns]:
        """Rows of a shard, [R], to offsets [R + 1] and flat columns. columns, whole: as of `read`."""
        lists = table["items"].combine_chunks()
        items = lists.values.to_numpy()
        if whole and "outside_items" in table.column_names:
            items = items.copy()
            items[items == UNKNOWN] = self.num_items + 1 + table["outside_items"].combine_chunks().values.to_numpy()
        read = {name: self._column(name, table[LIST_NAMES[name]].combine_chunks().values, whole) for name in columns}
        return lists.offsets.to_numpy().astype(np.int64), Columns(items, **read)

    def _column(self, name: OptionalColumn, values: pa.Array, whole: bool) -> npt.NDArray[Any]:
        if name == "event_types":
            numbers = values.fill_null(-1).to_numpy() + np.int16(1)
            if self.manifest.outside_event_types and not whole:
                numbers = np.where(numbers > len(self.manifest.event_types), np.int16(0), numbers)
            return numbers
        if name == "features":
            features = self.manifest.features
            scaled = values.to_numpy().reshape(-1, len(features))
            return scaled if whole else moments.fill(scaled, *np.array([(one.mean, one.std) for one in features]).T)
        return values.to_numpy(zero_copy_only=False)  # a null rating becomes NaN

    def read_training(
        self, shard: int, columns: Collection[OptionalColumn] = (), include_valid: bool = False
    ) -> Histories:
        """A shard's histories to train on, without user ids: the first train_lengths(include_valid) events of each."""
        histories = self.read(shard, columns, with_users=False)
        return histories if self._trains_on_prefixes(include_valid) else histories.training(include_valid)

    def train_events(
        self, columns: Collection[OptionalColumn] = (), include_valid: bool = False
    ) -> Iterator[Histories]:
        """Each shard's events to train on, without user ids and the other events."""
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
        """A shard's histories, of the users whose turn it is, and of the share of them that `is_drawn`.

        columns, whole: as of `read`.
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
    ) -> Iterator[Query]:
        """One query for each event of `part`: all known items before it, and itself as the target; of the users that
        `read_users` gives.

        whole: as of `read`, so that histories and targets hold the items outside the vocabulary too. Of a random split,
        whose parts lie among each other, the history holds the training part only.
        """
        for shard in range(self.num_shards) if shards is None else shards:
            histories = self.read_users(shard, columns, share, turn, whole)
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
        """What the model's extra inputs stand for; reads the training part's ratings where it takes them."""
        spec = named_inputs(config, self.manifest)
        if "rating" not in config.inputs and config.outputs == "next_item":
            return spec
        measured = self.rating_moments()
        known: dict[str, Any] = {"rating_mean": float(measured.mean[0]), "rating_std": float(measured.std[0])}
        if config.outputs != "next_item":
            known["rating_scale"] = self.rating_scale()
        return spec.model_copy(update=known)

    def rating_scale(self) -> tuple[float, ...]:
        """The values that the training part's ratings have, rising; none where they are too many to be a scale."""
        values: set[float] = set()
        for histories in self.train_events(["ratings"]):
            assert histories.columns.ratings is not None
            values |= set(np.unique(histories.columns.ratings[~np.isnan(histories.columns.ratings)]).tolist())
            if len(values) > MAX_SCALE_VALUES:
                return ()
        return tuple(sorted(values))

    def rating_moments(self) -> moments.Moments:
        """Of the training part's ratings, one column."""
        parts = []
        for histories in self.train_events(["ratings"]):
            assert histories.columns.ratings is not None
            parts.append(moments.measure(histories.columns.ratings[:, None].astype(np.float64)))
        return moments.combine(parts, 1)


def _times(histories: Histories) -> npt.NDArray[np.float64]:
    assert histories.columns.times is not None, "they are among the columns that were asked for"
    return histories.columns.times
