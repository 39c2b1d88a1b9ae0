"""Builds a version in its staging folder, pass by pass; each pass adds to what the tasks of the next ones know."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from mgray.config import DataConfig
from mgray.data import moments
from mgray.data.manifest import digest, short_key
from mgray.data.mapped import write_mapped
from mgray.data.newest import sample_step
from mgray.errors import InputError, NotTrainableError
from mgray.ingest.parse import temporal_cuts
from mgray.ingest.vocabulary import build_vocabulary, list_outside, order_event_types
from mgray.report.ingest_report import draw_ingest
from mgray.schema import ITEM_ID, NEWEST_COLUMNS, USER_ID, VOCABULARY_SCHEMA, OptionalColumn
from pipelines.ingest import id_notes
from pipelines.ingest.arrow_files import read_batch
from pipelines.ingest.context import IngestContext, Piece
from pipelines.ingest.facts import EventTypeFacts, IngestFacts, VocabularyFacts
from pipelines.ingest.id_notes import OddNumbers
from pipelines.ingest.plan import Plan, check_named_columns
from pipelines.ingest.quarantine import QUARANTINE_FILE, check_quarantine, write_quarantine
from pipelines.ingest.results import (
    RESULTS_FORM,
    CleanedBucket,
    CoreTurn,
    FinishedBucket,
    MergedItems,
    Nothing,
    StagedUnit,
    WrittenBucket,
)
from pipelines.ingest.runner import TaskRunner
from pipelines.ingest.staging import BAD_ROWS_FILE, check_event_types
from pipelines.ingest.summary import (
    MAPPED_VOCABULARY_FILE,
    OUTSIDE_ITEMS_FILE,
    VOCABULARY_FILE,
    event_type_counts,
    event_type_names,
    make_summary,
)
from pipelines.ingest.tasks.cleaning import clean_bucket
from pipelines.ingest.tasks.histories import core_bucket, finish_bucket
from pipelines.ingest.tasks.items import add_counts, item_ids, merge_items
from pipelines.ingest.tasks.newest import count_newest, newest_cuts
from pipelines.ingest.tasks.shards import ROW_GROUP_USERS, write_shard
from pipelines.ingest.tasks.units import read_unit, sort_times
from pipelines.runtime.parquet import write_parquet

NUM_TOP_ITEMS = 20  # of the report


class _Build(NamedTuple):
    """Handles that every pass of one build needs."""

    config: DataConfig
    plan: Plan
    staging: Path
    results_folder: Path  # task results, so that the run after a kill skips the tasks that ended
    runner: TaskRunner


class _RowCounts(NamedTuple):
    """Rows of the log, over all units."""

    good: int
    bad: int
    forgotten: int  # of the good ones


def build_version(config: DataConfig, plan: Plan, staging: Path, runner: TaskRunner) -> IngestFacts:
    """Reads, cleans and writes a version's files into the staging folder."""
    context = IngestContext(staging, plan.staged, plan.units, plan.layers, config.columns.timestamp_unit, plan.rules)
    # Results are stored under a key of the units: a newer mgray may cut the same log into other units, whose results
    # must not be reused.
    results_folder = context.work / short_key(digest([RESULTS_FORM, *(unit.key for unit in plan.units)]))
    results_folder.mkdir(exist_ok=True)
    build = _Build(config, plan, staging, results_folder, runner)
    read = _read(build, context)
    counts = _check_rows(build, read)
    log_types = event_type_names(read)
    context = _with_pieces(context, read, log_types)._replace(pieces_key=results_folder.name)
    if context.rules.split == "temporal" and context.pieces:
        context = _with_cuts(build, context)
    num_partitions = context.layers.num_partitions if context.pieces else 0
    items = runner.map("items", MergedItems, partial(merge_items, context), num_partitions, results_folder)
    odd = {role: id_notes.odd_numbers(read, role) for role in (USER_ID, ITEM_ID)}
    id_notes.tell_kept(config.privacy.forget, plan.layers.forgotten, odd[USER_ID])
    context = _with_items(context, items)._replace(odd_users=tuple(odd[USER_ID].plain))
    cleaned, finished, dropped = _clean(build, context, counts)
    part_events, times = _check_parts(build, context, finished, counts)
    with runner.timer.phase("vocabulary"):
        ids = item_ids(context)
        vocabulary, numbered = _number_items(build, context, ids)
        _tell_spellings(build, odd, cleaned, items, ids)
    event_types = _number_event_types(plan, log_types, finished)
    context = _with_columns(context, log_types, event_types, vocabulary, finished)
    context = context._replace(time_step=sample_step(part_events[0]))
    written = sum(bucket.written for bucket in finished)
    rows = {"read": counts.good + counts.bad, "quarantined": counts.bad, "written": written}
    rows |= {f"dropped_{rule}": count for rule, count in dropped.items()}
    summary = make_summary(context, finished, vocabulary, written)
    with ThreadPoolExecutor(1) as pool:
        # The driver is idle while the workers write, and the pictures take most of a second.
        pictures = pool.submit(draw_ingest, summary, rows)
        shards = runner.map(
            "write", WrittenBucket, partial(write_shard, context), _num_buckets(context), results_folder
        )
    vocabulary_sha256 = _write_vocabulary(build, context, numbered)
    unmatched = len(id_notes.unmatched(plan.layers.forgotten, read)) if plan.layers.forgotten else None
    return IngestFacts(
        context=context,
        read=read,
        rows=rows,
        users=sum(bucket.users for bucket in finished),
        short_users=sum(bucket.short_users for bucket in finished),
        part_events=part_events,
        times=times,
        vocabulary=vocabulary,
        vocabulary_sha256=vocabulary_sha256,
        event_types=event_types,
        shards=[bucket.shard for bucket in shards if bucket.shard],
        short_shards=[bucket.short_shard for bucket in shards if bucket.short_shard],
        quarantine_file=QUARANTINE_FILE if counts.bad else None,
        forget_unmatched=unmatched,
        summary=summary,
        pictures=pictures.result(),
    )


def _num_buckets(context: IngestContext) -> int:
    """How many buckets have a task: none where the log has no event."""
    return context.layers.num_buckets if context.pieces else 0


def _read(build: _Build, context: IngestContext) -> list[StagedUnit]:
    """Staged contents of every unit; in an append, the units that were read before come first."""
    before = build.plan.read_before
    skip = len(before)
    count = len(build.plan.units) - skip
    return [*before, *build.runner.map("read", StagedUnit, lambda index: read_unit(context, index + skip), count)]


def _check_rows(build: _Build, read: Sequence[StagedUnit]) -> _RowCounts:
    """Counts and checks rows, and writes the quarantine.

    Raises InputError for an empty log, too many bad rows, or a column that is missing.
    """
    plan = build.plan
    counts = _RowCounts(
        sum(unit.good for unit in read), sum(unit.bad for unit in read), sum(unit.forgotten for unit in read)
    )
    num_rows = counts.good + counts.bad
    if not num_rows:
        raise InputError(f"--data.source {plan.source}: the log is empty (no rows); give a log with events")
    if counts.bad:
        first = next(unit.first_bad for unit in read if unit.first_bad)
        check_quarantine(counts.bad, num_rows, first, build.config.max_quarantined_share)
        bad = [plan.staged / unit.key / BAD_ROWS_FILE for unit, one in zip(plan.units, read, strict=True) if one.bad]
        write_quarantine(bad, build.staging / QUARANTINE_FILE)
    check_named_columns(build.config, plan, read)
    return counts


def _with_pieces(context: IngestContext, read: Sequence[StagedUnit], log_types: list[str]) -> IngestContext:
    """Lists the pieces in the order of the log, each with a table from its own event types to codes of `log_types`."""
    check_event_types(len(log_types))
    code = {name: place for place, name in enumerate(log_types)}
    pieces: list[Piece] = []
    maps: list[tuple[int, ...]] = []
    for unit, staged in zip(context.units, read, strict=True):
        own = tuple(code[name] for name in staged.event_types)
        for number, rows in enumerate(staged.pieces):
            pieces.append(Piece(unit.key, number, rows))
            maps.append(own)
    times = [time for one in read for time in (one.first_time, one.last_time) if time is not None] or [0.0]
    return context._replace(pieces=tuple(pieces), event_types=tuple(maps), times=(min(times), max(times)))


def _with_cuts(build: _Build, context: IngestContext) -> IngestContext:
    """Each cut from the config, else a quantile over every readable event of the log, dropped ones too."""
    rules = context.rules
    both_given = rules.valid_from is not None and rules.test_from is not None
    if not both_given:
        build.runner.map("cuts", Nothing, partial(sort_times, context), len(context.pieces))
    pieces = () if both_given else range(len(context.pieces))
    times = [read_batch(context.work_file("times", piece), 0)["time"].to_numpy() for piece in pieces]
    valid_from, test_from = temporal_cuts(times, rules.valid_from, rules.test_from)
    if valid_from >= test_from:
        raise (InputError if both_given else NotTrainableError)(
            f"temporal split: valid_from ({valid_from}) is not before test_from ({test_from}); "
            "set both --data.valid_from and --data.test_from"
        )
    return context._replace(rules=rules._replace(valid_from=valid_from, test_from=test_from))


def _with_items(context: IngestContext, items: Sequence[MergedItems]) -> IngestContext:
    """The codes of items: those of one partition follow those of the partition before."""
    starts = np.concatenate([[0], np.cumsum([partition.items for partition in items])]).astype(int).tolist()
    return context._replace(partition_starts=tuple(starts[:-1]), num_items=starts[-1])


def _clean(
    build: _Build, context: IngestContext, counts: _RowCounts
) -> tuple[list[CleanedBucket], list[FinishedBucket], Counter[str]]:
    """Runs the rules, and the k-core where it is asked for: (buckets, their histories, events dropped by each rule)."""
    num_buckets = _num_buckets(context)
    cleaned = build.runner.map(
        "clean", CleanedBucket, partial(clean_bucket, context), num_buckets, build.results_folder
    )
    dropped: Counter[str] = Counter({"forgotten": counts.forgotten} if build.plan.layers.forgotten else {})
    for bucket in cleaned:
        dropped.update(bucket.dropped)
    reached = sum(bucket.read for bucket in cleaned)
    assert reached == counts.good - counts.forgotten, (
        "every readable event of a user who is not forgotten reaches one bucket"
    )
    if context.has_core and num_buckets:
        return cleaned, _core(build, context, dropped), dropped
    return cleaned, [bucket.finished for bucket in cleaned if bucket.finished is not None], dropped


def _core(build: _Build, context: IngestContext, dropped: Counter[str]) -> list[FinishedBucket]:
    """Repeats the k-core until no further item falls out, then splits.

    Each turn counts its drops from the cleaned events, so those of the last one are the total.
    """
    num_buckets, min_events = context.layers.num_buckets, context.rules.min_item_events
    alive = add_counts(context, "first") >= min_events
    turn = 0
    while True:
        np.save(context.alive_file(turn), alive)
        turns = build.runner.map("core", CoreTurn, partial(core_bucket, context, turn), num_buckets)
        left = add_counts(context, "core") >= min_events
        turn += 1
        if (left == alive).all():
            break
        alive = left
    for result in turns:
        dropped.update(result.dropped)
    return build.runner.map(
        "finish", FinishedBucket, partial(finish_bucket, context), num_buckets, build.results_folder
    )


def _check_parts(
    build: _Build, context: IngestContext, finished: Sequence[FinishedBucket], counts: _RowCounts
) -> tuple[list[int], tuple[float, float]]:
    """(events of each part; the first and the last time). Raises NotTrainableError where a needed part is empty."""
    source, rules = build.plan.source, context.rules
    if not sum(bucket.written for bucket in finished):
        raise NotTrainableError(
            f"--data.source {source}: no user has {rules.min_user_events} events or more "
            f"({counts.good} readable events); give a longer log or lower --data.min_user_events"
        )
    part_events = np.sum([bucket.part_events for bucket in finished], axis=0).tolist()
    first = min(bucket.first_timestamp for bucket in finished if bucket.first_timestamp is not None)
    last = max(bucket.last_timestamp for bucket in finished if bucket.last_timestamp is not None)
    for name, events in zip(("train", "valid", "test"), part_events, strict=True):
        if not events and (rules.split == "temporal" or name == "train"):
            raise NotTrainableError(
                f"--data.source {source}: the cuts valid_from={rules.valid_from} and "
                f"test_from={rules.test_from} leave the {name} part empty; the log runs from {first} to "
                f"{last}: set --data.valid_from and --data.test_from within it"
            )
    return part_events, (first, last)


def _number_items(build: _Build, context: IngestContext, ids: pa.Array) -> tuple[VocabularyFacts, pa.Table]:
    """Numbers the items, and writes the cold items and the outside items -> (facts, NUMBERED_SCHEMA). ids: by code."""
    plan, counts = build.plan, add_counts(context, "counts")
    built = build_vocabulary(ids, counts, plan.titles, build.config.min_item_count, plan.known_items)
    outside, outside_rows = list_outside(ids, built.numbers)
    if plan.titles is not None and built.warm["title"].null_count == built.warm.num_rows:
        id_notes.tell_titles(plan.settings["titles"], plan.titles[ITEM_ID], ids)
    np.save(context.numbers_file, built.numbers)
    np.save(context.outside_file, outside_rows)
    if built.cold.num_rows:
        _write_table(built.cold, build.staging / "cold_items.parquet")
    if outside.num_rows:
        _write_table(outside, build.staging / OUTSIDE_ITEMS_FILE)
    names = pl.DataFrame(pl.from_arrow(built.warm.sort_by([("num_train_events", "descending")])))
    facts = VocabularyFacts(
        items=built.warm.num_rows,
        cold_items=built.cold.num_rows,
        outside_items=outside.num_rows,
        by_count=names["num_train_events"].to_numpy(),
        top=names.head(NUM_TOP_ITEMS).select(pl.coalesce("title", ITEM_ID), "num_train_events").rows(),
    )
    return facts, built.warm


def _write_vocabulary(build: _Build, context: IngestContext, numbered: pa.Table) -> str:
    """Counts the newest events of each item, and writes the vocabulary; returns the sha256 of its Parquet file.

    numbered: NUMBERED_SCHEMA, from `_number_items`. Goes after the write tasks.
    """
    count = partial(count_newest, context, newest_cuts(context))
    build.runner.map("newest", Nothing, count, _num_buckets(context))
    with build.runner.timer.phase("vocabulary"):
        numbers, table = np.load(context.numbers_file), numbered
        for name in NEWEST_COLUMNS.values():
            counts = np.zeros(numbered.num_rows + 1, np.int64)
            counts[numbers] = add_counts(context, name)
            table = table.append_column(VOCABULARY_SCHEMA.field(name), pa.array(counts[1:]))
        write_mapped(table, build.staging / MAPPED_VOCABULARY_FILE)
        return _write_table(table, build.staging / VOCABULARY_FILE)


def _write_table(table: pa.Table, path: Path) -> str:
    """Writes a table of items; returns the file's sha256."""
    draft = write_parquet(table, path.parent, path.stem, ROW_GROUP_USERS)
    draft.path.replace(path)
    return draft.sha256


def _tell_spellings(
    build: _Build,
    odd: dict[str, OddNumbers],
    cleaned: Sequence[CleanedBucket],
    items: Sequence[MergedItems],
    ids: pa.Array,
) -> None:
    """Warns of ids that the log spells in two ways. ids: of the items."""
    plan = build.plan
    show_users = plan.layers.key is None and not plan.layers.forgotten
    users_met = [place for bucket in cleaned for place in bucket.met]
    two_ways = id_notes.sum_two_ways([bucket.two_ways for bucket in cleaned])
    id_notes.tell_spellings(plan.source, USER_ID, two_ways, odd[USER_ID], users_met, show_users)
    items_met = id_notes.places_of(odd[ITEM_ID].plain, ids)
    two_ways = id_notes.sum_two_ways([partition.two_ways for partition in items])
    id_notes.tell_spellings(plan.source, ITEM_ID, two_ways, odd[ITEM_ID], items_met, True)


def _number_event_types(plan: Plan, log_types: list[str], finished: Sequence[FinishedBucket]) -> EventTypeFacts:
    train_events = event_type_counts(log_types, [bucket.train_event_types for bucket in finished])
    numbered = order_event_types(train_events, plan.known_event_types)
    events = event_type_counts(log_types, [bucket.event_types for bucket in finished])
    return EventTypeFacts(numbered, sorted(set(log_types).difference(numbered)), events)


def _with_columns(
    context: IngestContext,
    log_types: list[str],
    event_types: EventTypeFacts,
    vocabulary: VocabularyFacts,
    finished: Sequence[FinishedBucket],
) -> IngestContext:
    """Which columns the shards have, and the numbers that encode them."""
    names = context.layers.features
    measured = moments.combine((bucket.moments for bucket in finished), len(names))
    for name, mean, std in zip(names, measured.mean, measured.std, strict=True):
        if not np.isfinite([mean, std]).all():
            raise InputError(f"data.columns.features: {name} has numbers too large to standardize; leave it out")
    number = {name: place for place, name in enumerate([*event_types.numbered, *event_types.outside])}
    return context._replace(
        number_columns=frozenset[OptionalColumn]().union(*(bucket.number_columns for bucket in finished)),
        event_type_numbers=tuple(number[name] for name in log_types),
        has_outside_items=vocabulary.outside_items > 0,
        features=tuple(zip(measured.mean.tolist(), measured.std.tolist(), strict=True)),
    )
