"""Codes of items, one for each distinct item of the log, and how often each item occurs."""

import itertools
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mgray.ingest.hashing import Merged, merge_ids
from pipelines.ingest.arrow_files import read_batch, read_batch_again, write_batches
from pipelines.ingest.context import IngestContext
from pipelines.ingest.results import MergedItems, TwoWays
from pipelines.ingest.source.blocks import AS_IT_IS, BOTH_WAYS
from pipelines.runtime.versions import draft_path


def merge_items(context: IngestContext, partition: int) -> MergedItems:
    """Gives each distinct item of a partition a code, and stages for each piece the codes of the piece's own items."""
    batches = [read_batch(context.piece_file("items", piece), partition) for piece in context.pieces]
    merged = merge_batches(batches)
    schema = pa.schema([("id", pa.large_string())])
    write_batches(context.work_file("items", partition), schema, [pa.record_batch({"id": merged.ids})])
    codes = pa.record_batch({"code": merged.codes})
    starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in batches])]).tolist()
    slices = (codes.slice(low, high - low) for low, high in itertools.pairwise(starts))
    write_batches(context.work_file("codes", partition), codes.schema, slices)
    return MergedItems(len(merged.ids), count_two_ways(batches, merged.codes, merged.ids))


def merge_batches(batches: Sequence[pa.RecordBatch]) -> Merged:
    """The distinct ids of batches with the columns hash and id, and the code of each entry."""
    table = pa.Table.from_batches(batch.select(["hash", "id"]) for batch in batches)
    return merge_ids(table["hash"].to_numpy(), table["id"].cast(pa.large_string()).combine_chunks())


def count_two_ways(batches: Sequence[pa.RecordBatch], codes: npt.NDArray[np.int32], ids: pa.Array) -> TwoWays:
    """Counts the ids [D] that the pieces spell both as they are and in another way. codes: [E], of the batches' ids."""
    if not any("spelled" in batch.schema.names for batch in batches):
        return TwoWays(0, None)
    ways = np.zeros(len(ids), np.uint8)
    np.bitwise_or.at(ways, codes, np.concatenate([_ways(batch) for batch in batches]))
    found = np.flatnonzero(ways == BOTH_WAYS)
    return TwoWays(len(found), ids[int(found[0])].as_py() if len(found) else None)


def _ways(batch: pa.RecordBatch) -> npt.NDArray[np.uint8]:
    is_noted = "spelled" in batch.schema.names
    return batch["spelled"].to_numpy() if is_noted else np.full(batch.num_rows, AS_IT_IS, np.uint8)


def item_codes(context: IngestContext, index: int) -> npt.NDArray[np.int32]:
    """The log's code of each of a piece's own items: a map of a file that the first task to ask leaves for the others.

    Else every bucket would open every partition's file for every piece: the cube of the log's size.
    """
    path = context.work / f"codes-{context.pieces_key}-{index:05d}.bin"
    try:
        return np.memmap(path, np.int32, "r")
    except FileNotFoundError:
        of_partitions = [
            read_batch_again(context.work_file("codes", partition), index)["code"].to_numpy() + np.int32(start)
            for partition, start in enumerate(context.partition_starts)
        ]
        codes = np.concatenate(of_partitions)
        draft = draft_path(path)
        codes.tofile(draft)
        os.replace(draft, path)
        return codes


def item_ids(context: IngestContext) -> pa.Array:
    """The id of each item, by code."""
    partitions = range(context.layers.num_partitions)
    return pa.concat_arrays([read_batch(context.work_file("items", partition), 0)["id"] for partition in partitions])


def save_counts(context: IngestContext, kind: str, bucket: int, item: npt.NDArray[np.int32]) -> None:
    """Stages how often each item occurs among some events of a bucket, for `add_counts`. item: codes [E]."""
    counts = np.bincount(item, minlength=1)
    codes = np.flatnonzero(counts)
    batch = pa.record_batch({"code": pa.array(codes.astype(np.int32)), "count": pa.array(counts[codes])})
    write_batches(context.work_file(kind, bucket), batch.schema, [batch])


def add_counts(context: IngestContext, kind: str) -> npt.NDArray[np.int64]:
    """Events of each item over all buckets, [number of items]."""
    total = np.zeros(context.num_items, np.int64)
    for bucket in range(context.layers.num_buckets):
        batch = read_batch(context.work_file(kind, bucket), 0)
        total[batch["code"].to_numpy()] += batch["count"].to_numpy()
    return total
