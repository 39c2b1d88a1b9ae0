"""Reads a committed dataset version: vocabulary and shards of histories, as flat numpy arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mgray.manifest import Manifest, read_manifest
from mgray.schema import ITEM_ID, UNKNOWN, USER_ID

IntArray = npt.NDArray[np.int64]
Part = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Histories:
    """The histories of one shard. Row `r` owns `items[offsets[r]:offsets[r + 1]]`, oldest first."""

    user_ids: list[str]
    offsets: IntArray  # [R + 1]
    items: npt.NDArray[np.int32]  # [events], 1..V or UNKNOWN
    timestamps: npt.NDArray[np.float64]  # [events], seconds since 1970
    train_end: IntArray  # [R]
    valid_end: IntArray  # [R]

    def row(self, index: int) -> npt.NDArray[np.int32]:
        return self.items[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Query:
    """One prediction to evaluate: what was known, and what came next."""

    user_id: str
    history: npt.NDArray[np.int32]  # known items only, oldest first
    target: int  # 1..V, or UNKNOWN


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

    @property
    def titles(self) -> list[str]:
        """Title of item `i` at index `i - 1`; its raw id where no title is known."""
        return [title or raw for title, raw in zip(self._vocabulary["title"], self.item_ids, strict=True)]

    @cached_property
    def item_counts(self) -> IntArray:
        """Training events of each item, [V + 1]; index 0 (padding) is 0."""
        return np.concatenate([[0], np.asarray(self._vocabulary["num_train_events"], dtype=np.int64)])

    def train_lengths(self) -> list[IntArray]:
        """Length of each history's training part, an array a shard."""
        return [
            pq.read_table(self.folder / shard.file, columns=["train_end"], partitioning=None)["train_end"]
            .to_numpy()
            .astype(np.int64)
            for shard in self.manifest.shards
        ]

    def read(self, shard: int) -> Histories:
        path = self.folder / self.manifest.shards[shard].file
        table = pq.read_table(path, partitioning=None).combine_chunks()
        items = table["items"].combine_chunks()
        timestamps = table["timestamps"].combine_chunks()
        return Histories(
            user_ids=table[USER_ID].to_pylist(),
            offsets=items.offsets.to_numpy().astype(np.int64),
            items=items.values.to_numpy(),
            timestamps=timestamps.values.to_numpy(),
            train_end=table["train_end"].to_numpy().astype(np.int64),
            valid_end=table["valid_end"].to_numpy().astype(np.int64),
        )

    def train_events(self) -> Iterator[tuple[Histories, npt.NDArray[np.bool_]]]:
        """Each shard with a mask over its events that is true in the training part."""
        for shard in range(self.num_shards):
            histories = self.read(shard)
            lengths = np.diff(histories.offsets)
            position = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], lengths)
            yield histories, position < np.repeat(histories.train_end, lengths)

    def queries(self, part: Part, shards: range | None = None) -> Iterator[Query]:
        """One query for each event of `part`: all known items before it, and itself as the target."""
        for shard in shards or range(self.num_shards):
            histories = self.read(shard)
            for row, user_id in enumerate(histories.user_ids):
                items = histories.row(row)
                train_end, valid_end = int(histories.train_end[row]), int(histories.valid_end[row])
                span = {"train": (0, train_end), "valid": (train_end, valid_end), "test": (valid_end, len(items))}
                for position in range(*span[part]):
                    before = items[:position]
                    yield Query(user_id, before[before != UNKNOWN], int(items[position]))
