"""Drift: how far new events are from those that the champion was made from. Pure.

The measure is the population stability index, sum of (p - q) ln(p / q) over bins, with its customary thresholds:
below 0.1 stable, below 0.25 shifted, else drifted (Siddiqi, Credit Risk Scorecards, 2006; its statistics: Yurdakul,
Statistical properties of population stability index, 2018). An empty bin counts as a share of 0.0001.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mgray.data.dataset import Dataset
from mgray.data.item_numbers import number_map
from mgray.eval.slices import LENGTH_EDGES
from mgray.schema import PAD, UNKNOWN

SHIFTED_FROM, DRIFTED_FROM = 0.1, 0.25
MIN_SHARE = 1e-4  # of an empty bin
POPULARITY_BINS = 10

Counts = npt.NDArray[np.int64]


class LogSummary(NamedTuple):
    """Histograms of a dataset version, which drift compares."""

    item_ids: Sequence[str]  # of item i at index i - 1
    item_events: Counts  # [V + 1] events of each item in all parts; index 0 is unused
    unknown_events: int  # events of items outside the vocabulary, in all parts
    event_types: dict[str, int]  # type -> events; empty where the log has none
    lengths: Counts  # users with events in the newest part, by length of their history (LENGTH_EDGES)


class Drift(NamedTuple):
    num_new_events: int  # in the new dataset and not in the champion's
    event_types: float | None  # population stability index; None: the log has no event types, or nothing is new
    items: float | None  # over ten bins of items, equally popular in the champion's data
    history_length: float | None  # of users active in the newest part, over the report's length slices
    oov_share: float | None  # share of the new events on items outside the champion's vocabulary

    @property
    def verdict(self) -> str:
        """The worst of the indices, in a word; `unknown` where there is none."""
        known = [value for value in (self.event_types, self.items, self.history_length) if value is not None]
        return verdict(max(known)) if known else "unknown"

    def as_json(self) -> dict[str, float | str | None]:
        """The figures and the verdict, as a result line has them."""
        return {**self._asdict(), "verdict": self.verdict}


def verdict(index: float) -> str:
    return "stable" if index < SHIFTED_FROM else "shifted" if index < DRIFTED_FROM else "drifted"


def stability_index(reference: Sequence[float] | Counts, current: Sequence[float] | Counts) -> float | None:
    """Population stability index of two histograms over the same bins; None where one is empty."""
    before, after = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if not before.sum() or not after.sum():
        return None
    q = np.maximum(before / before.sum(), MIN_SHARE)
    p = np.maximum(after / after.sum(), MIN_SHARE)
    return float(np.sum((p - q) * np.log(p / q)))


def popularity_bins(counts: Counts, num_bins: int = POPULARITY_BINS) -> Counts:
    """Bin 0..num_bins-1 of each item [V]: the most popular first, each bin about an equal share of the events."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    bins = np.empty(len(counts), dtype=np.int64)
    bins[order] = np.minimum(before * num_bins // max(1, int(counts.sum())), num_bins - 1)
    return bins


def summarize(dataset: Dataset) -> LogSummary:
    """One pass over the shards; memory: the vocabulary and one shard."""
    events = np.zeros(dataset.num_items + 1, dtype=np.int64)
    lengths = np.zeros(len(LENGTH_EDGES) + 1, dtype=np.int64)
    unknown = 0
    types: dict[str, int] = {}
    for shard, record in enumerate(dataset.manifest.shards):
        histories = dataset.read(shard)
        items = histories.columns.items
        unknown += int((items == UNKNOWN).sum())
        events += np.bincount(items[items > PAD], minlength=len(events))
        length = np.diff(histories.offsets)
        active = length[histories.valid_end < length]
        lengths += np.bincount(np.searchsorted(LENGTH_EDGES, active, side="left"), minlength=len(lengths))
        if dataset.manifest.has_event_types:
            column = pq.read_table(dataset.folder / record.file, columns=["event_types"], partitioning=None)
            for row in pc.value_counts(pc.list_flatten(column["event_types"])).to_pylist():
                name = "" if row["values"] is None else dataset.all_event_types[row["values"]]
                types[name] = types.get(name, 0) + row["counts"]
    return LogSummary(dataset.item_ids, events, unknown, types, lengths)


def measure_drift(reference: LogSummary, current: LogSummary) -> Drift:
    """Drift from the champion's dataset to a newer one of the same log.

    New events are the difference of the two histograms, so files that come late or out of order count as well.
    """
    # 0 and UNKNOWN have no number in the other vocabulary: both read an appended zero
    numbers = number_map(reference.item_ids, current.item_ids)[1:-1]
    now = np.append(current.item_events, 0)[numbers]
    before = reference.item_events[1:]
    new_on_known = np.maximum(now - before, 0)
    num_new = max(0, _total(current) - _total(reference))
    bins = popularity_bins(before)
    names = sorted(reference.event_types.keys() | current.event_types.keys())
    old_types = [reference.event_types.get(name, 0) for name in names]
    new_types = [max(0, current.event_types.get(name, 0) - reference.event_types.get(name, 0)) for name in names]
    return Drift(
        num_new_events=num_new,
        event_types=stability_index(old_types, new_types) if len(names) > 1 else None,
        items=stability_index(
            np.bincount(bins, before, POPULARITY_BINS), np.bincount(bins, new_on_known, POPULARITY_BINS)
        ),
        history_length=stability_index(reference.lengths, current.lengths),
        oov_share=max(0.0, 1 - int(new_on_known.sum()) / num_new) if num_new else None,
    )


def known_share(item_ids: Sequence[str], current: LogSummary, past: LogSummary | None = None) -> float:
    """Share of a dataset's events on the given items: near zero where the log speaks of other ids. NaN: no events.

    past: an earlier dataset, whose events do not count.
    """

    def count(log: LogSummary) -> int:
        return int(log.item_events[1:][number_map(log.item_ids, item_ids)[1:-1] != UNKNOWN].sum())

    total = _total(current) - (_total(past) if past else 0)
    return (count(current) - (count(past) if past else 0)) / total if total > 0 else math.nan


def _total(log: LogSummary) -> int:
    return int(log.item_events.sum()) + log.unknown_events


def drift_line(drift: Drift | None) -> str:
    """One line for people."""
    if drift is None:
        return "drift: not known, for the champion's dataset is not at hand"
    figures: Mapping[str, float | None] = {
        "event types": drift.event_types,
        "items": drift.items,
        "history length": drift.history_length,
    }
    shown = ", ".join(f"{name} {value:.3f} ({verdict(value)})" for name, value in figures.items() if value is not None)
    oov = "" if drift.oov_share is None else f"; {drift.oov_share:.1%} of the new events on items new to the champion"
    return f"drift over {drift.num_new_events:,} new events: stability index of {shown or 'nothing'}{oov}"
