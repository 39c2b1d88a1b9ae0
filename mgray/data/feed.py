"""The training feed: an epoch's global batches, dealt to the ranks, as padded tensors.

The list of global batches depends on lengths, seed, epoch, batch size and max_length alone, not on the number of
ranks. So one worker and eight take the same steps on the same data, and a place in the data is (epoch, batch).
Histories of similar lengths go together, and a batch is filled by a budget of events, not of rows.
"""

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.data.columns import Columns
from mgray.data.dataset import Histories
from mgray.data.inputs import Inputs
from mgray.data.padding import blank_columns, fill_rows, flat_places, padded_length, to_inputs
from mgray.schema import OptionalColumn

SHARDS_IN_MEMORY = 8
LENGTH_JITTER = 0.1  # relative noise on a length before sorting, so that batches differ between epochs

# A window of a history. All offsets count events of the history: inputs are items[start : stop - 1], targets are
# items[first_target : stop], for the window before already has the earlier ones.
WINDOW = np.dtype([("shard", "i4"), ("row", "i8"), ("start", "i8"), ("stop", "i8"), ("first_target", "i8")])
Windows = npt.NDArray[np.void]


class Batch(NamedTuple):
    inputs: Inputs  # [B, L]
    targets: Tensor  # [B, L] int64, the item that follows each position; 0 = none
    target_ratings: Tensor | None = None  # [B, L] float32, the target's rating; NaN = none


def cut_windows(shard: int, lengths: npt.NDArray[np.int64], max_length: int) -> Windows:
    """Windows of at most `max_length` inputs over each history's first `lengths[row]` events.

    Longer histories are cut into windows that overlap by half. Each event but a history's first is a
    target exactly once, with at least max_length / 2 events of context, or all that there are.
    """
    rows = np.flatnonzero(lengths >= 2)
    stride = max(1, max_length // 2)
    inputs = lengths[rows] - 1
    extra = np.maximum(0, -(-(inputs - max_length) // stride))  # windows after the first
    window_row = np.repeat(rows, extra + 1)
    first = np.concatenate([[0], np.cumsum(extra + 1)])[:-1]
    number = np.arange(len(window_row)) - np.repeat(first, extra + 1)
    windows = np.zeros(len(window_row), dtype=WINDOW)
    windows["shard"] = shard
    windows["row"] = window_row
    windows["start"] = number * stride
    windows["stop"] = np.minimum(windows["start"] + max_length + 1, lengths[window_row])
    previous_stop = (number - 1) * stride + max_length + 1
    windows["first_target"] = np.where(number == 0, 1, previous_stop)
    return windows


def num_events(windows: Windows) -> npt.NDArray[np.int64]:
    """Number of input events of each window; padding is not counted."""
    found: npt.NDArray[np.int64] = windows["stop"] - windows["start"] - 1
    return found


def num_targets(windows: Windows) -> int:
    """Number of targets of all windows."""
    return int((windows["stop"] - windows["first_target"]).sum())


def plan_epoch(
    lengths: Sequence[npt.NDArray[np.int64]], seed: int, epoch: int, global_batch_events: int, max_length: int
) -> list[list[Windows]]:
    """An epoch's global batches: a list of groups, each the shuffled batches of SHARDS_IN_MEMORY shards at most.

    The shards of a group are in memory together. lengths: events to train on of each history, one array per shard. A
    batch holds at most `global_batch_events` input events, padding not counted, plus what its last window has beyond.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    groups: list[list[Windows]] = []
    for begin in range(0, len(order), SHARDS_IN_MEMORY):
        shards = order[begin : begin + SHARDS_IN_MEMORY]
        windows = np.concatenate([cut_windows(int(s), lengths[s], max_length) for s in shards])
        windows = windows[random.permutation(len(windows))]
        jitter = 1 + LENGTH_JITTER * random.random(len(windows))
        windows = windows[np.argsort(num_events(windows) * jitter, kind="stable")]
        events = num_events(windows)
        before = np.cumsum(events) - events
        starts = np.flatnonzero(np.diff(before // global_batch_events, prepend=-1))
        batches = np.split(windows, starts[1:]) if len(windows) else []
        groups.append([batches[i] for i in random.permutation(len(batches))])
    return groups


def deal(windows: Windows, world_size: int) -> list[Windows]:
    """Windows of a global batch for each rank, balanced by events: the longest first, each to the least loaded rank."""
    if world_size == 1:
        return [windows]
    load = [(0, rank) for rank in range(world_size)]
    shares: list[list[int]] = [[] for _ in range(world_size)]
    events = num_events(windows)
    for index in np.argsort(-events, kind="stable"):
        total, rank = heapq.heappop(load)
        shares[rank].append(int(index))
        heapq.heappush(load, (total + int(events[index]), rank))
    return [windows[np.asarray(share, dtype=np.int64)] for share in shares]


def collate(
    windows: Windows,
    histories: dict[int, Histories],
    columns: Collection[OptionalColumn] = (),
    target_ratings: bool = False,
) -> Batch:
    """Windows to left-padded tensors. Empty `windows` give one row of padding: a rank without work still steps.

    columns: the event columns that the model reads. `histories` must hold them, and ratings for `target_ratings`.
    """
    length = padded_length(int(num_events(windows).max(initial=0)))
    like = next((shard.columns for shard in histories.values()), Columns(np.zeros(0, np.int32)))
    shape = (max(1, len(windows)), length)
    inputs = blank_columns(("items", *columns), like, *shape)
    targets = blank_columns(("items", "ratings") if target_ratings else ("items",), like, *shape)
    for shard in np.unique(windows["shard"]).tolist():
        rows = np.flatnonzero(windows["shard"] == shard)
        mine, source = windows[rows], histories[shard]
        first = source.offsets[mine["row"]]
        stop = first + mine["stop"]
        fill_rows(inputs, rows, source.columns, first + mine["start"], stop - 1)
        fill_rows(targets, rows, source.columns, first + mine["first_target"], stop)
    ratings = torch.from_numpy(targets["ratings"]) if target_ratings else None
    return Batch(to_inputs(inputs), torch.from_numpy(targets["items"]), ratings)


def distinct_items(windows: Windows, histories: dict[int, Histories]) -> Tensor:
    """The items of all inputs and targets of a batch, [n] int64, rising: the rows of the item table that it reads."""
    found: list[npt.NDArray[np.integer]] = [np.zeros(0, dtype=np.int64)]
    for shard in np.unique(windows["shard"]).tolist():
        mine, source = windows[windows["shard"] == shard], histories[shard]
        first = source.offsets[mine["row"]]
        _, places = flat_places(first + mine["start"], first + mine["stop"])
        found.append(source.columns.items[places].astype(np.int64))
    return torch.from_numpy(np.unique(np.concatenate(found)))


class StepBatch(NamedTuple):
    epoch: int
    number: int  # of the global batch in its epoch
    num_batches: int  # in this epoch
    global_targets: int  # over all ranks: what the loss is divided by
    global_events: int
    batch: Batch  # this rank's windows
    items: Tensor | None = None  # [n] int64, those of the global batch; None: not asked for


def feed(
    read: Callable[[int], Histories],
    groups: list[list[Windows]],
    epoch: int,
    start: int,
    rank: int,
    world_size: int,
    columns: Collection[OptionalColumn] = (),
    target_ratings: bool = False,
    with_items: bool = False,
) -> Iterator[StepBatch]:
    """This rank's windows of each global batch, from index `start` on; one group of shards is in memory at a time.

    read: loads a shard. columns: the event columns that are read; `read` must load them, and ratings for
    `target_ratings`. with_items: list the items of each global batch.
    """
    num_batches = sum(len(group) for group in groups)
    index = 0
    for group in groups:
        if index + len(group) <= start or not group:
            index += len(group)
            continue
        shards = sorted({int(shard) for windows in group for shard in np.unique(windows["shard"])})
        histories: dict[int, Histories] = {}  # so that the group before is gone when this one is read
        histories.update((shard, read(shard)) for shard in shards)
        for windows in group:
            if index >= start:
                part = deal(windows, world_size)[rank]
                events = int(num_events(windows).sum())
                batch = collate(part, histories, columns, target_ratings)
                items = distinct_items(windows, histories) if with_items else None
                yield StepBatch(epoch, index, num_batches, num_targets(windows), events, batch, items)
            index += 1
