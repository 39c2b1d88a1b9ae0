"""Numbers the items and the event types of a log.

Every function takes whole columns and returns whole columns. Legend: `V` items of the vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mgray.schema import ITEM_ID, NUMBERED_SCHEMA, OUTSIDE_SCHEMA


class Vocabularies(NamedTuple):
    warm: pa.Table  # NUMBERED_SCHEMA [V]
    cold: pa.Table  # item_id, num_train_events: items that train, but in fewer than `min_count` events
    numbers: npt.NDArray[np.int32]  # number of each item given; 0: none


def build_vocabulary(
    item_ids: pa.Array,
    counts: npt.NDArray[np.int64],
    titles: pl.DataFrame | None = None,
    min_count: int = 1,
    known: Sequence[str] = (),
) -> Vocabularies:
    """Numbers items 1..V by falling count, ties by raw id, byte by byte.

    item_ids: distinct raw ids; counts: events of the training part of each. `known`: raw ids that have the numbers 1,
    2, ... already and keep them, whatever their counts; the others follow. `titles`: item_id, title; the first title of
    an id counts.
    """
    items = pl.DataFrame({ITEM_ID: pl.Series(pl.from_arrow(item_ids), dtype=pl.String), "num_train_events": counts})
    items = items.with_row_index("code")
    before = pl.DataFrame(
        {ITEM_ID: pl.Series(known, dtype=pl.String), "place": pl.Series(range(len(known)), dtype=pl.Int64)}
    )
    items = items.join(before, on=ITEM_ID, how="full" if known else "left", coalesce=True)
    items = items.with_columns(pl.col("num_train_events").fill_null(0))
    trained = items.filter((pl.col("num_train_events") > 0) | pl.col("place").is_not_null())
    trained = trained.sort(["place", "num_train_events", ITEM_ID], descending=[False, True, False], nulls_last=True)
    is_warm = pl.col("place").is_not_null() | (pl.col("num_train_events") >= min_count)
    cold = trained.filter(~is_warm).select(ITEM_ID, "num_train_events")
    warm = trained.filter(is_warm).with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("item"))
    numbers = np.zeros(len(counts), np.int32)
    found = warm.drop_nulls("code")
    numbers[found["code"].to_numpy()] = found["item"].to_numpy()
    if titles is None:
        titles = pl.DataFrame(schema={ITEM_ID: pl.String, "title": pl.String})
    titles = titles.unique(subset=ITEM_ID, keep="first", maintain_order=True)
    titled = warm.join(titles, on=ITEM_ID, how="left", maintain_order="left")
    schema = pa.schema([NUMBERED_SCHEMA.field(ITEM_ID), NUMBERED_SCHEMA.field("num_train_events")])
    return Vocabularies(_to_arrow(titled, NUMBERED_SCHEMA), _to_arrow(cold, schema), numbers)


def list_outside(item_ids: pa.Array, numbers: npt.NDArray[np.int32]) -> tuple[pa.Table, npt.NDArray[np.int32]]:
    """Lists the items without a number -> (OUTSIDE_SCHEMA by the ids' bytes, each item's row in it, -1: none).

    item_ids: distinct ids; numbers: each item's number, 0: none, from build_vocabulary.
    """
    left = np.flatnonzero(numbers == 0)
    ids = item_ids.cast(pa.large_string()).take(pa.array(left))
    order = pc.sort_indices(ids).to_numpy()
    rows = np.full(len(numbers), -1, np.int32)
    rows[left[order]] = np.arange(len(left), dtype=np.int32)
    return pa.table([ids.take(pa.array(order))], schema=OUTSIDE_SCHEMA), rows


def order_event_types(counts: Mapping[str, int], known: Sequence[str] = ()) -> list[str]:
    """Numbers event types by falling count, ties by name: the type with number i is at index i.

    counts: events of the training part of each type; a type that never trains has no number. `known`:
    types that have the numbers 0, 1, ... already and keep them, whatever their counts; the others follow.
    """
    new = {name for name, count in counts.items() if count}.difference(known)
    return [*known, *sorted(new, key=lambda name: (-counts[name], name))]


def _to_arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    table = frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    # rechunked: the bytes of the file written from it must not depend on how the work was split
    return table.cast(schema).combine_chunks()
