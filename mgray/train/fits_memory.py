"""Whether the item tables of a training fit into memory: told before it begins, not by the kernel in the middle of it.

Counted is what grows with the catalogue and is there at one time; a batch, and the ranking by blocks, do not grow.
"""

import socket
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from mgray.config import ResolvedTrainJobConfig
from mgray.distributed import rank_and_world
from mgray.errors import InputError
from mgray.model.ensemble import make_model
from mgray.train.item_table import is_by_rows, item_weights

# Bytes an item beside the tables: its training events, popularity and last step, and the sums behind negatives.
COUNT_BYTES = 48
FLOAT_BYTES = 4


class TableBytes(NamedTuple):
    """Memory that a worker's item tables take."""

    table: int  # the weights of all of them
    copies: int  # of as many bytes: moments, the best weights, ...
    counts: int

    @property
    def total(self) -> int:
        return self.table * self.copies + self.counts


class Room(NamedTuple):
    """Memory that a worker finds."""

    place: str  # a host, or a GPU of one
    free: int | None  # bytes; None: the system does not say


def table_bytes(config: ResolvedTrainJobConfig, num_items: int, num_ranks: int) -> TableBytes:
    """Memory of a worker for a catalogue of `num_items`.

    Copies: weights, two moments, the best weights so far. Where the whole table is trained at once, its gradient too,
    and DDP's bucket of it; and the weights' average, where there is one.
    """
    width = sum(weight.shape[1] for _, weight in item_weights(make_model(config.model, 1)))
    ranks_items = config.model.outputs != "rating"
    copies = 4
    if not is_by_rows(config.train, num_items, ranks_items=ranks_items):
        copies += 1 + (num_ranks > 1)
    copies += config.train.ema_decay is not None
    return TableBytes((num_items + 1) * width * FLOAT_BYTES, copies, (num_items + 1) * COUNT_BYTES)


def free_bytes(device: torch.device) -> int | None:
    """Memory that this process may still take; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [_free_of_machine(), _free_of_group()]
    return min((limit for limit in limits if limit is not None), default=None)


def _free_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _free_of_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves (control groups, version 2); its file pages are given up when memory is asked."""
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used) + int(stat.get("inactive_file", 0))


def check_fits_memory(config: ResolvedTrainJobConfig, num_items: int, device: torch.device) -> None:
    """Raises InputError, on every rank alike, where the item tables of a host's workers do not fit into what is free.

    Collective: call it on every rank, before the model is made.
    """
    num_ranks = rank_and_world()[1]
    gpu = f", GPU {device.index or 0}" if device.type == "cuda" else ""
    rooms: list[Room] = [Room(socket.gethostname() + gpu, free_bytes(device))]
    if num_ranks > 1:
        own, rooms = rooms[0], [Room("", None)] * num_ranks
        dist.all_gather_object(rooms, own)
    needed = table_bytes(config, num_items, num_ranks)
    for place in dict.fromkeys(room.place for room in rooms):
        here = [room.free for room in rooms if room.place == place]
        known = [free for free in here if free is not None]
        if known and len(here) * needed.total > min(known):
            raise InputError(_too_large(config, num_items, needed, place, len(here), min(known)))


def _too_large(
    config: ResolvedTrainJobConfig, num_items: int, needed: TableBytes, place: str, workers: int, free: int
) -> str:
    missing = workers * needed.total - free
    members = "" if config.model.members == 1 else f", model.members ({config.model.members})"
    fewer = "" if workers == 1 else ", or give fewer workers a host (scale.num_workers)"
    return (
        f"model.width: {num_items:,} items want {_gb(needed.total)} a worker ({needed.copies} times "
        f"{_gb(needed.table)}: weights, moments, copies; and {_gb(needed.counts)} of counts), "
        f"{_gb(workers * needed.total)} for {workers} on {place}, where {_gb(free)} are free: {_gb(missing)} are "
        f"missing; lower model.width ({config.model.width}){members}, or the items by data.min_item_count{fewer}"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
