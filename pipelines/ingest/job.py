"""Ingest on Ray Data: a raw log becomes a committed dataset version (Parquet shards, vocabulary, manifest).

Passes, each a Ray Data map with one task a row: scan (files: digest, ranges), read (a unit: parse, stage by bucket of
user), items (a partition of the items: their codes), clean (a bucket: the rules, order, splits, counts), where a k-core
is asked for core (a bucket, again until nothing changes) and finish, write (a bucket: encode, shard).
The shuffle between read and clean goes through files of the staged units, so no pass holds the log in memory.
The driver holds: the list of ranges, and the items with their counts.

A version is committed by a rename. After a kill at any moment the same command goes on: staged units, and what the
tasks of every pass left behind in the version's staging folder, are found by name and not made again.
"""

import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from rich.console import Console

from mgray.config import DataConfig, IngestJobConfig, resolve_out
from mgray.data import moments
from mgray.data.dataset import Dataset
from mgray.data.manifest import Manifest, commit, digest, read_manifest
from mgray.errors import InputError, NoTrainingEventsError
from mgray.ingest import parse
from mgray.ingest.vocabulary import build_vocabulary, list_outside, order_event_types
from mgray.report.ingest_report import IngestReport, draw_ingest, ingest_table
from mgray.schema import ITEM_ID, QUARANTINE_SCHEMA, USER_ID
from pipelines.ingest import id_notes, tasks
from pipelines.ingest.plan import LOCK_TIMEOUT_S, Plan, check_named_columns, make_plan
from pipelines.ingest.source.digests import Log
from pipelines.ingest.source.resolve import check_apart
from pipelines.ingest.staging import check_event_types
from pipelines.ingest.summary import (
    OUTSIDE_ITEMS_FILE,
    REPORT_FILE,
    event_type_counts,
    event_type_names,
    make_report,
    make_summary,
    seal_version,
    write_report,
)
from pipelines.runtime.cluster import check_writable, connect, job_home
from pipelines.runtime.console import PhaseProgress, Timer, console, say
from pipelines.runtime.lock import HeldError, hold
from pipelines.runtime.malloc import keep_freed_memory
from pipelines.runtime.versions import committed, put_in_place, resumable_folder

RANGE_BYTES = 32 << 20
QUARANTINE_FILE = "quarantine/part-0.parquet"
SECONDS_BETWEEN_LOOKS = 1.0

Progress = Callable[..., None]  # phase, tasks done, tasks in all, detail


class IngestResult(NamedTuple):
    path: Path  # the version's folder
    manifest: Manifest
    reused: bool  # the version was there already
    seconds: dict[str, float]  # by phase
    report: IngestReport | None = None  # of a version that was made now


def ingest(
    config: DataConfig,
    home: Path,
    progress: Progress | None = None,
    range_bytes: int = RANGE_BYTES,
    append: bool | Path = False,
    log: Log | None = None,
) -> IngestResult:
    """The dataset version of a log: committed now, or the one that the same log and settings made before.

    append: of the log, read only files that the newest version of the output place (or the version in the folder given)
    was not made from, and keep that version's numbers of items and event types; without such a version, all are read.
    A file is known by its bytes, so a copy under another name is not read. The result is a full ingest's but for the
    numbers of new items, and for the order between equal times of one user where a new file's name sorts before an
    old one's: what is appended comes later.
    log: data.source, where the caller found and digested it.
    Ray must be initialized. Raises InputError for anything wrong in the log, the settings or the output place; then
    nothing is committed, and versions committed before are as they were.
    """
    if config.dataset is not None:
        return IngestResult(Path(config.dataset), read_manifest(config.dataset), True, {})
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    run = _Run(Timer(), progress or (lambda *_: None))
    out = resolve_out(config, home)
    check_apart(config, out)
    check_writable(out, "--data.out")
    plan = make_plan(config, home, out, run, range_bytes, append, log)
    folder = out / plan.key[:16]
    found = _reusable(folder, plan, config)
    if found is not None:
        return _again(found, folder, plan, config, run)
    lock = plan.staged / f"{plan.key[:16]}.lock"
    with _alone(lock, run.progress):
        found = _reusable(folder, plan, config)
        if found is not None:  # the one that was waited for made it
            return _again(found, folder, plan, config, run)
        with resumable_folder(out, plan.key) as staging, plan.clean_up():
            facts = _build(config, plan, staging, run)
            manifest = seal_version(plan, facts)
            # Renamed first: no `done` file may outlive what it speaks of, should this be the moment of a kill.
            (staging / "work").rename(staging / f".gone-{uuid.uuid4().hex}")
            for left in staging.glob(".*"):  # drafts of killed tasks too
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            num_bytes = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
            report = make_report(plan, facts, manifest, folder, num_bytes, run.timer.seconds)
            write_report(staging / REPORT_FILE, report, facts["pictures"])
            commit(manifest, staging)
            manifest = put_in_place(staging, folder, manifest, read_manifest)
        plan.forget_others()
        id_notes.tell_unmatched(config.privacy.forget, plan.layers.forgotten, manifest, plan.staged)
        if not config.keep_staged and not plan.others_run():
            for unit in plan.units:
                shutil.rmtree(plan.staged / unit.key, ignore_errors=True)
    return IngestResult(folder, manifest, False, run.timer.seconds, report)


def _again(found: Manifest, folder: Path, plan: Plan, config: DataConfig, run: "_Run") -> IngestResult:
    """A version that is there already."""
    plan.forget_others()
    id_notes.tell_unmatched(config.privacy.forget, plan.layers.forgotten, found, plan.staged)
    return IngestResult(folder, found, True, run.timer.seconds)


def _reusable(folder: Path, plan: Plan, config: DataConfig) -> Manifest | None:
    manifest = committed(folder, plan.key, read_manifest)
    if manifest is not None and manifest.quarantine_file is not None:
        with pq.ParquetFile(folder / manifest.quarantine_file) as file:
            first = next(file.iter_batches(batch_size=1)).to_pylist()[0]
        _check_quarantine(manifest.rows["quarantined"], manifest.rows["read"], first, config.max_quarantined_share)
    return manifest


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Of two ingests of one log into one place, one works and the other says so and waits."""
    total = 0  # said at once the first time, as what is complete is; then now and then
    while True:
        try:
            with hold(path, "another ingest of this log", LOCK_TIMEOUT_S):
                yield
                return
        except HeldError as error:
            progress("waiting", 0, total, str(error))
            total = 1
            time.sleep(SECONDS_BETWEEN_LOOKS)


class _Run(NamedTuple):
    timer: Timer
    progress: Progress

    def map(
        self, name: str, task: Callable[[int], tasks.Result], count: int, done: Path | None = None
    ) -> list[tasks.Result]:
        """Runs task(0..count-1), one Ray Data task each; results in order. Raises the first InputError met.

        done: a folder in which each result is left as a file, so that the next run after a kill finds it.
        """

        def run_one(row: dict[str, Any]) -> dict[str, Any]:
            keep_freed_memory()
            index = int(row["id"])
            if done is None:
                result = tasks.guarded(task, index)
            else:
                result = tasks.once(done / f"{name}-{index:06d}.json", task, index)
            return {"index": index, "result": json.dumps(result)}

        results: dict[int, tasks.Result] = {}
        with self.timer.phase(name):
            started, rows = time.perf_counter(), 0
            self.progress(name, 0, count)
            if not count:
                return []
            for row in _rows(ray.data.range(count, override_num_blocks=count).map(run_one)):
                result = json.loads(row["result"])
                if "error" in result:
                    raise InputError(result["error"])
                results[row["index"]] = result
                rows += result.get("rows", result.get("good", 0))
                seconds = time.perf_counter() - started
                left = seconds * (count - len(results)) / len(results)
                speed = f"{rows / seconds:,.0f} rows/s  " if rows else ""
                self.progress(name, len(results), count, f"{speed}{left:.0f} s left" if len(results) < count else speed)
        return [results[index] for index in range(count)]


def _rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a dataset of one operator.

    Reserving a share of the cluster for every operator, as Ray Data does by default, leaves the one that works half of
    a small cluster: on 2 CPUs its tasks run one at a time.
    """
    dataset.context.op_resource_reservation_enabled = False
    yield from dataset.iter_rows()


def _build(config: DataConfig, plan: Plan, staging: Path, run: _Run) -> dict[str, Any]:
    """Reads, cleans and writes into the staging folder; returns the manifest's facts of the data."""
    # What other pieces led to is no result of these: an upgrade may cut the log into others.
    done = staging / "work" / digest([tasks.RESULTS_FORM, *(unit.key for unit in plan.units)])[:16]
    done.mkdir(exist_ok=True)
    job = tasks.IngestJob(staging, plan.staged, plan.units, plan.layers, config.columns.timestamp_unit, plan.rules)
    read = _read(job, plan, run)
    num_good, num_bad = sum(r["good"] for r in read), sum(r["bad"] for r in read)
    forgotten = sum(r["forgotten"] for r in read)
    if num_good + num_bad == 0:
        raise InputError(f"--data.source {plan.source}: the log is empty (no rows); give a log with events")
    if num_bad:
        first = next(r["first_bad"] for r in read if r["bad"])
        _check_quarantine(num_bad, num_good + num_bad, first, config.max_quarantined_share)
        bad = [plan.staged / unit.key / "bad.arrow" for unit, r in zip(plan.units, read, strict=True) if r["bad"]]
        _write_quarantine(bad, staging / QUARANTINE_FILE)
    check_named_columns(config, plan, read)
    log_types = event_type_names(read)
    job = _with_pieces(job, read, log_types)._replace(pieces_key=done.name)
    if job.rules.split == "temporal" and job.pieces:
        job = _with_cuts(job, run)
    items = run.map("items", partial(tasks.merge_items, job), job.layers.num_partitions if job.pieces else 0, done)
    starts = np.concatenate([[0], np.cumsum([part["items"] for part in items])]).astype(int).tolist()
    job = job._replace(partition_starts=tuple(starts[:-1]), num_items=starts[-1])
    odd = {role: id_notes.odd_numbers(read, role) for role in (USER_ID, ITEM_ID)}
    id_notes.tell_kept(config.privacy.forget, plan.layers.forgotten, odd[USER_ID])
    job = job._replace(odd_users=tuple(odd[USER_ID].plain))
    buckets = job.layers.num_buckets if job.pieces else 0
    clean = run.map("clean", partial(tasks.clean_bucket, job), buckets, done)
    dropped: Counter[str] = Counter({"forgotten": forgotten} if plan.layers.forgotten else {})
    for result in clean:
        dropped.update(result["dropped"])
    assert sum(result["read"] for result in clean) == num_good - forgotten, "every readable event reaches one bucket"
    finish = _core(job, dropped, run, done) if job.has_core and buckets else clean
    written = sum(result["written"] for result in finish)
    if not written:
        raise NoTrainingEventsError(
            f"--data.source {plan.source}: no user has {job.rules.min_user_events} events or more "
            f"({num_good} readable events); give a longer log or lower --data.min_user_events"
        )
    parts = np.sum([result["parts"] for result in finish], axis=0).tolist()
    first_time = min(r["first_timestamp"] for r in finish if r["written"])
    last_time = max(r["last_timestamp"] for r in finish if r["written"])
    for name, events in zip(("train", "valid", "test"), parts, strict=True):
        if not events and (job.rules.split == "temporal" or name == "train"):
            raise NoTrainingEventsError(
                f"--data.source {plan.source}: the cuts valid_from={job.rules.valid_from} and "
                f"test_from={job.rules.test_from} leave the {name} part empty; the log runs from {first_time} to "
                f"{last_time}: set --data.valid_from and --data.test_from within it"
            )
    with run.timer.phase("vocabulary"):
        item_ids = pa.concat_arrays(_item_ids(job))
        vocabulary = _vocabulary(config, job, plan, staging, item_ids)
        for role, results, met in (
            (USER_ID, clean, [place for result in clean for place in result["met"]]),
            (ITEM_ID, items, id_notes.places_of(odd[ITEM_ID].plain, item_ids)),
        ):
            show = role == ITEM_ID or (plan.layers.key is None and not plan.layers.forgotten)
            id_notes.tell_spellings(plan.source, role, id_notes.two_ways(results), odd[role], met, show)
    measured = moments.combine(
        (moments.Moments(*map(np.asarray, r["moments"])) for r in finish), len(job.layers.features)
    )
    for name, mean, std in zip(job.layers.features, measured.mean, measured.std, strict=True):
        if not np.isfinite([mean, std]).all():
            raise InputError(f"data.columns.features: {name} has numbers too large to standardize; leave it out")
    event_types = order_event_types(event_type_counts(log_types, finish, "train_event_types"), plan.known_event_types)
    outside_types = sorted(set(log_types).difference(event_types))
    type_number = {name: number for number, name in enumerate([*event_types, *outside_types])}
    job = job._replace(
        has_ratings=any(r["has_ratings"] for r in finish),
        event_type_numbers=tuple(type_number[name] for name in log_types),
        has_outside_items=vocabulary["outside_items"] > 0,
        features=tuple(zip(measured.mean.tolist(), measured.std.tolist(), strict=True)),
    )
    rows = {"read": num_good + num_bad, "quarantined": num_bad, "written": written}
    rows |= {f"dropped_{rule}": count for rule, count in dropped.items()}
    summary = make_summary(job, finish, vocabulary, written)
    with ThreadPoolExecutor(1) as pool:
        # Most of a second, which the driver has to spare while the workers write.
        pictures = pool.submit(draw_ingest, summary, rows)
        shards = run.map("write", partial(tasks.write_shard, job), buckets, done)
    return {
        "rows": rows,
        "summary": summary,
        "pictures": pictures.result(),
        "job": job,
        "finish": finish,
        "read": read,
        "users": sum(r["users"] for r in finish),
        "events": parts,
        "times": (first_time, last_time),
        "vocabulary": vocabulary,
        "event_types": event_types,
        "outside_event_types": outside_types,
        "events_of_types": event_type_counts(log_types, finish, "event_types"),
        "shards": [result["shard"] for result in shards if result["shard"]],
        "short_users": sum(r["short_users"] for r in finish),
        "short_shards": [result["short_shard"] for result in shards if result["short_shard"]],
        "quarantine_file": QUARANTINE_FILE if num_bad else None,
        "forget_unmatched": len(id_notes.unmatched(plan.layers.forgotten, read)) if plan.layers.forgotten else None,
    }


def _read(job: tasks.IngestJob, plan: Plan, run: _Run) -> list[tasks.Result]:
    """What every unit holds. Of an ingest that appends, those of the files that were read before come first."""
    skip = len(plan.read_before)
    fresh = run.map("read", lambda index: tasks.read_unit(job, index + skip), len(plan.units) - skip)
    return [*plan.read_before, *fresh]


def _with_pieces(job: tasks.IngestJob, read: list[tasks.Result], log_types: list[str]) -> tasks.IngestJob:
    """Pieces in the order of the log; each piece's own numbers of event types mapped to their codes in `log_types`."""
    check_event_types(len(log_types))
    code = {name: place for place, name in enumerate(log_types)}
    pieces: list[tuple[str, int, int]] = []
    maps: list[tuple[int, ...]] = []
    for unit, result in zip(job.units, read, strict=True):
        own = tuple(code[name] for name in result["event_types"])
        for place, rows in enumerate(result["pieces"]):
            pieces.append((unit.key, place, rows))
            maps.append(own)
    times = [r[key] for r in read if r["pieces"] for key in ("first_time", "last_time")] or [0.0]
    return job._replace(pieces=tuple(pieces), event_types=tuple(maps), times=(min(times), max(times)))


def _with_cuts(job: tasks.IngestJob, run: _Run) -> tasks.IngestJob:
    """The cuts that the config gives, else quantiles over every readable event of the log, dropped ones too."""
    rules = job.rules
    given = rules.valid_from is not None and rules.test_from is not None
    if not given:
        run.map("cuts", partial(tasks.sort_times, job), len(job.pieces))
    pieces = () if given else range(len(job.pieces))
    times = [tasks.read_batch(job.work("times", piece), 0)["time"].to_numpy() for piece in pieces]
    valid_from, test_from = parse.temporal_cuts(times, rules.valid_from, rules.test_from)
    if valid_from >= test_from:
        raise (InputError if given else NoTrainingEventsError)(
            f"temporal split: valid_from ({valid_from}) is not before test_from ({test_from}); "
            "set both --data.valid_from and --data.test_from"
        )
    return job._replace(rules=rules._replace(valid_from=valid_from, test_from=test_from))


def _core(job: tasks.IngestJob, dropped: Counter[str], run: _Run, done: Path) -> list[tasks.Result]:
    """Turns of the k-core until the items stay; then the splits. Adds what the last turn dropped."""
    buckets = job.layers.num_buckets
    alive = tasks.add_counts(job, "first") >= job.rules.min_item_events
    turn = 0
    while True:
        np.save(job.folder / "work" / f"alive-{turn}.npy", alive)
        turns = run.map("core", partial(tasks.core_bucket, job, turn), buckets)
        left = tasks.add_counts(job, "core") >= job.rules.min_item_events
        turn += 1
        if (left == alive).all():
            break
        alive = left
    for result in turns:
        dropped.update(result["dropped"])
    return run.map("finish", partial(tasks.finish_bucket, job), buckets, done)


def _item_ids(job: tasks.IngestJob) -> list[pa.Array]:
    """Of each partition, by code."""
    return [tasks.read_batch(job.work("items", p), 0)["id"] for p in range(job.layers.num_partitions)]


def _vocabulary(config: DataConfig, job: tasks.IngestJob, plan: Plan, staging: Path, ids: pa.Array) -> dict[str, Any]:
    counts = tasks.add_counts(job, "counts")
    built = build_vocabulary(ids, counts, plan.titles, config.min_item_count, plan.known_items)
    outside, outside_rows = list_outside(ids, built.numbers)
    if plan.titles is not None and built.warm["title"].null_count == built.warm.num_rows:
        id_notes.tell_titles(plan.settings["titles"], plan.titles[ITEM_ID], ids)
    np.save(job.folder / "work" / "numbers.npy", built.numbers)
    np.save(job.folder / "work" / "outside.npy", outside_rows)
    _, sha256, draft = tasks.write_parquet(built.warm, staging, "vocabulary")
    draft.replace(staging / "vocabulary.parquet")
    if built.cold.num_rows:
        _, _, draft = tasks.write_parquet(built.cold, staging, "cold")
        draft.replace(staging / "cold_items.parquet")
    if outside.num_rows:
        _, _, draft = tasks.write_parquet(outside, staging, "outside")
        draft.replace(staging / OUTSIDE_ITEMS_FILE)
    names = pl.DataFrame(pl.from_arrow(built.warm.sort_by([("num_train_events", "descending")])))
    return {
        "items": built.warm.num_rows,
        "cold_items": built.cold.num_rows,
        "outside_items": outside.num_rows,
        "sha256": sha256,
        "by_count": names["num_train_events"].to_numpy(),
        "top": names.head(20).select(pl.coalesce("title", ITEM_ID), "num_train_events").rows(),
    }


def _check_quarantine(num_bad: int, num_read: int, first: dict[str, Any], max_share: float) -> None:
    if num_bad > max_share * num_read:
        encoding = "name the log's encoding, such as --data.columns.encoding latin-1, or " * (
            "UTF-8" in first["reason"]
        )
        raise InputError(
            f"{num_bad} of {num_read} rows cannot be read, more than data.max_quarantined_share allows ({max_share}); "
            f"the first: {first['file']}, line {first['line']}: {first['reason']}; {encoding}mend the row, "
            "or set them aside with --data.max_quarantined_share SHARE"
        )


def _write_quarantine(pieces: list[Path], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with pq.ParquetWriter(path, QUARANTINE_SCHEMA, compression="zstd") as writer:
        for piece in pieces:
            with pa.memory_map(str(piece)) as source:
                for batch in pa.ipc.open_file(source).read_all().to_batches():
                    writer.write_batch(batch)


def describe(found: IngestResult) -> str:
    verb = "reusing the dataset already ingested at" if found.reused else "dataset committed at"
    manifest = found.manifest
    return (
        f"{verb} {found.path} ({manifest.users:,} users, {manifest.items:,} items, "
        f"{manifest.rows['written']:,} events, fingerprint {manifest.fingerprint[:16]})"
    )


def obtain_dataset(
    data: DataConfig, home: Path, out: Console, timer: Timer, append: bool | Path = False, log: Log | None = None
) -> tuple[Dataset, bool]:
    """The dataset version that a job works on, and whether it was there already; says so on stderr."""
    if data.split == "random" and data.dataset is None:
        raise InputError(
            "data.split: random has no order in time, which predicting the next item needs; choose another"
        )
    with timer.phase("ingest"), PhaseProgress(out) as progress:
        found = ingest(data, home, progress.update, append=append, log=log)
    say(out, describe(found))
    return Dataset(found.path), found.reused


def run_ingest(config: IngestJobConfig) -> dict[str, Any]:
    """The ingest job; gives the result line's fields. Raises InputError where the user's input is wrong."""
    out = console()
    home = job_home(config)
    connect()
    with PhaseProgress(out) as progress:
        found = ingest(config.data, home, progress.update, append=config.append)
    manifest = found.manifest
    if found.report is not None:
        out.print(ingest_table(found.report))
    say(out, describe(found))
    return {
        "dataset": {"path": str(found.path), "fingerprint": manifest.fingerprint, "reused": found.reused},
        "rows": manifest.result_rows(),
        "users": manifest.users,
        "items": manifest.items,
        "events": {"train": manifest.train_events, "valid": manifest.valid_events, "test": manifest.test_events},
        "report": str(found.path / manifest.report_file) if manifest.report_file else None,
        "seconds": {name: round(value, 2) for name, value in found.seconds.items()},
    }
