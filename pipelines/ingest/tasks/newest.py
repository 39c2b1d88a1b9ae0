"""Counts of the newest events by item, of the training part alone and with the validation part.

The write tasks leave a sample of their times, from which the driver has the time that the newest begin at; a task for
each bucket then counts. So the counts are those of `Dataset.newest_counts`, and no process holds more than a bucket.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mgray.data.newest import POPULAR_SHARE, first_of_newest
from mgray.ingest.clean import Mask
from mgray.schema import NEWEST_COLUMNS, TRAIN, VALID
from pipelines.ingest.arrow_files import read_batch, write_batches
from pipelines.ingest.context import IngestContext
from pipelines.ingest.results import Nothing
from pipelines.ingest.tasks.histories import Histories, Split, read_measured, split_histories
from pipelines.ingest.tasks.items import save_counts

SAMPLE_SCHEMA = pa.schema([("time", pa.float64())])


def _trained(context: IngestContext, users: Histories, split: Split) -> Iterator[Mask]:
    """Which events [E] train, on items of the vocabulary: without the validation part, and with it."""
    is_known = np.load(context.numbers_file, mmap_mode="r")[users.column("item")] > 0
    for with_valid in NEWEST_COLUMNS:
        yield is_known & (split.part <= (VALID if with_valid else TRAIN))


def stage_times(context: IngestContext, bucket: int, users: Histories, split: Split) -> None:
    """Write a sample of the times of the events that train, for `newest_cuts`."""
    time = users.column("time")
    batches = [
        pa.record_batch({"time": time[chosen][:: context.time_step]}, schema=SAMPLE_SCHEMA)
        for chosen in _trained(context, users, split)
    ]
    write_batches(context.work_file("sampled", bucket), SAMPLE_SCHEMA, batches)


def newest_cuts(context: IngestContext) -> tuple[float, ...]:
    """The time that the newest events begin at, for each of NEWEST_COLUMNS."""
    files = [context.work_file("sampled", bucket) for bucket in range(context.layers.num_buckets)]
    return tuple(
        first_of_newest([read_batch(file, place)["time"].to_numpy() for file in files], POPULAR_SHARE)
        for place in range(len(NEWEST_COLUMNS))
    )


def count_newest(context: IngestContext, cuts: tuple[float, ...], bucket: int) -> Nothing:
    """Leave the counts of a bucket's newest events by item, for `add_counts`. cuts: from `newest_cuts`."""
    users = read_measured(context, bucket)
    item, time = users.column("item"), users.column("time")
    trained = _trained(context, users, split_histories(context, users))
    for name, chosen, cut in zip(NEWEST_COLUMNS.values(), trained, cuts, strict=True):
        save_counts(context, name, bucket, item[chosen & (time >= cut)])
    return Nothing()
