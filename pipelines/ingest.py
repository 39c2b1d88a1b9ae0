"""Ingest on Ray Data: a raw log becomes a committed dataset version (Parquet shards, vocabulary, manifest).

Four passes, each a Ray Data map with one task a row: scan (a file: digest, ranges), read (a range: parse, stage by
bucket of user), clean (a bucket: duplicates, order, short users, splits, counts), write (a bucket: encode, shard).
The shuffle between read and clean goes through files of the staging folder, so no pass holds the log in memory.
The driver holds: the list of ranges, the vocabulary's counts, and for a temporal split without given cuts one row a
distinct timestamp of the log.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow.parquet as pq
import ray.data
from rich.console import Console

from mgray import __version__, features
from mgray.config import DataConfig, IngestJobConfig
from mgray.dataset import Dataset
from mgray.errors import InputError
from mgray.manifest import Manifest, commit, digest, file_sha256, read_manifest, seal
from mgray.schema import QUARANTINE_SCHEMA, SCHEMA_VERSION
from pipelines import ingest_tasks as tasks
from pipelines.cluster import check_writable, connect, job_home
from pipelines.progress import PhaseProgress, Timer, console
from pipelines.readers import Range
from pipelines.sources import Source, read_titles, resolve
from pipelines.versions import committed, publish, staging_folder

RANGE_BYTES = 32 << 20
SHARD_BYTES = 64 << 20
MIN_SHARDS = 4
QUARANTINE_FILE = "quarantine/part-0.parquet"

Progress = Callable[[str, int, int], None]  # phase, tasks done, tasks in all


class IngestResult(NamedTuple):
    path: Path  # the version's folder
    manifest: Manifest
    reused: bool  # the version was there already
    seconds: dict[str, float]  # by phase


def ingest(
    config: DataConfig, home: Path, progress: Progress | None = None, range_bytes: int = RANGE_BYTES
) -> IngestResult:
    """The dataset version of a log: committed now, or the one that the same log and settings made before.

    Ray must be initialized. Raises InputError for anything wrong in the log, the settings or the output place; then
    nothing is committed, what was written is removed, and versions committed before are as they were.
    """
    if config.dataset is not None:
        return IngestResult(Path(config.dataset), read_manifest(config.dataset), True, {})
    ray.data.DataContext.get_current().enable_progress_bars = False
    # it warns that progress bars are off, which is what was asked for
    run = _Run({}, progress or (lambda phase, done, total: None))

    out = Path(config.out).expanduser() if config.out else home / "datasets"
    check_writable(out, "--data.out")
    with run.phase("resolve"):
        source = resolve(config.source, config.items, config.columns, home)
        titles = read_titles(source.titles_file) if source.titles_file else None
    scans = run.map("scan", partial(_scan, source, range_bytes), len(source.files))
    sources = _source_records(source, scans)
    settings = config.model_dump(
        include={"columns", "min_user_events", "split", "valid_from", "test_from"}, mode="json"
    )
    log_bytes = sum(scan["bytes"] for scan in scans)
    settings["num_shards"] = config.num_shards or max(MIN_SHARDS, -(-log_bytes // SHARD_BYTES))
    named = [[record["path"], record["sha256"]] for record in sources]
    key = digest({"sources": named, "settings": settings, "schema_version": SCHEMA_VERSION})
    folder = out / key[:16]
    manifest = committed(folder, key, read_manifest)
    if manifest is not None:
        if manifest.quarantine_file is not None:
            first = pq.read_table(folder / manifest.quarantine_file, partitioning=None).slice(0, 1).to_pylist()[0]
            _check_quarantine(manifest.rows["quarantined"], manifest.rows["read"], first, config.max_quarantined_share)
        return IngestResult(folder, manifest, True, run.seconds)

    ranges = tuple((index, Range(*part)) for index, scan in enumerate(scans) for part in scan["ranges"])
    with staging_folder(out, key) as staging:
        job = tasks.IngestJob(
            source.files,
            ranges,
            staging,
            settings["num_shards"],
            config.min_user_events,
            config.split,
            config.valid_from,
            config.test_from,
        )
        facts = _build(config, job, titles, run)
        facts |= {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "mgray_version": __version__,
            "ingest_key": key,
            "config": settings,
            "sources": sources,
        }
        shutil.rmtree(staging / "work")
        manifest = seal(facts)
        commit(manifest, staging)
        manifest = publish(staging, folder, manifest, read_manifest)
    return IngestResult(folder, manifest, False, run.seconds)


class _Run(NamedTuple):
    seconds: dict[str, float]
    progress: Progress

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def map(self, name: str, task: Callable[[int], tasks.Result], count: int) -> list[tasks.Result]:
        """Runs task(0..count-1), one Ray Data task each; results in order. Raises the first InputError met."""

        def run_one(row: dict[str, Any]) -> dict[str, Any]:
            return {"index": row["id"], "result": json.dumps(tasks.guarded(task, int(row["id"])))}

        results: dict[int, tasks.Result] = {}
        with self.phase(name):
            self.progress(name, 0, count)
            if not count:
                return []
            dataset = ray.data.range(count, override_num_blocks=count).map(run_one)
            for row in dataset.iter_rows():
                results[row["index"]] = json.loads(row["result"])
                if "error" in results[row["index"]]:
                    raise InputError(results[row["index"]]["error"])
                self.progress(name, len(results), count)
        return [results[index] for index in range(count)]


def _scan(source: Source, range_bytes: int, index: int) -> tasks.Result:
    return tasks.scan_file(source.files[index], range_bytes)


def _source_records(source: Source, scans: list[tasks.Result]) -> list[dict[str, Any]]:
    """Names relative to the log's folder, never absolute: the same log has the same fingerprint wherever it lies."""
    records = [
        {"path": file.name, "bytes": scan["bytes"], "sha256": scan["sha256"]}
        for file, scan in zip(source.files, scans, strict=True)
    ]
    titles = source.titles_file
    if titles is not None:
        records.append({"path": titles.name, "bytes": titles.stat().st_size, "sha256": file_sha256(titles)})
    return records


def _build(config: DataConfig, job: tasks.IngestJob, titles: pl.DataFrame | None, run: _Run) -> dict[str, Any]:
    """Reads, cleans and writes into the staging folder; returns the manifest's facts of the data."""
    read = run.map("read", partial(tasks.read_part, job), len(job.ranges))
    num_good, num_bad = sum(r["good"] for r in read), sum(r["bad"] for r in read)
    if num_good + num_bad == 0:
        raise InputError(f"--data.source {config.source}: the log is empty (no rows); give a log with events")
    if num_bad:
        bad = [job.piece("bad", index) for index, result in enumerate(read) if result["bad"]]
        first = tasks.read_arrow(bad[0]).row(0, named=True)
        _check_quarantine(num_bad, num_good + num_bad, first, config.max_quarantined_share)
        _write_quarantine(bad, job.folder / QUARANTINE_FILE)
    if job.split == "temporal" and num_good:
        job = _with_cuts(job)

    clean = run.map("clean", partial(tasks.clean_bucket, job), job.num_buckets)
    for index in range(len(job.ranges)):
        job.piece("events", index).unlink()
    total = {key: sum(c[key] for c in clean) for key, value in clean[0].items() if type(value) is int}
    assert total.pop("read") == num_good, "every readable event reaches one bucket"
    if not total["written"]:
        raise InputError(
            f"--data.source {config.source}: no user has {job.min_user_events} events or more "
            f"({num_good} readable events); give a longer log or lower --data.min_user_events"
        )
    times = {
        "first_timestamp": min(c["first_timestamp"] for c in clean if c["written"]),
        "last_timestamp": max(c["last_timestamp"] for c in clean if c["written"]),
    }
    for part in ("train", "valid", "test"):
        if not total[f"{part}_events"]:
            raise InputError(
                f"--data.source {config.source}: the cuts valid_from={job.valid_from} and test_from={job.test_from} "
                f"leave the {part} part empty; the log runs from {times['first_timestamp']} to "
                f"{times['last_timestamp']}: set --data.valid_from and --data.test_from within it"
            )
    with run.phase("vocabulary"):
        counts = pl.concat([tasks.read_arrow(job.piece("counts", b)) for b in range(job.num_buckets)])
        vocabulary = features.build_vocabulary(counts, titles)
        _, sha256, draft = tasks.write_parquet(vocabulary, job.folder, "vocabulary")
        os.replace(draft, job.folder / "vocabulary.parquet")
    job = job._replace(
        has_ratings=any(c["has_ratings"] for c in clean), has_event_types=any(c["has_event_types"] for c in clean)
    )
    written = run.map("write", partial(tasks.write_shard, job), job.num_buckets)
    parts = ("users", "train_events", "valid_events", "test_events")
    return {
        "rows": {"read": num_good + num_bad, "quarantined": num_bad}
        | {key: total[key] for key in ("written", "dropped_duplicates", "dropped_short_users")},
        "items": vocabulary.num_rows,
        "has_ratings": job.has_ratings,
        "has_event_types": job.has_event_types,
        "vocabulary": {"file": "vocabulary.parquet", "items": vocabulary.num_rows, "sha256": sha256},
        "shards": [result["shard"] for result in written if result["shard"]],
        "quarantine_file": QUARANTINE_FILE if num_bad else None,
        "split": {"kind": job.split, "valid_from": job.valid_from, "test_from": job.test_from},
        **{key: total[key] for key in parts},
        **times,
    }


def _with_cuts(job: tasks.IngestJob) -> tasks.IngestJob:
    """The cuts that the config gives, else quantiles over every readable event of the log, dropped ones too."""
    times = pl.concat([tasks.read_arrow(job.piece("times", index)) for index in range(len(job.ranges))])
    valid_from, test_from = features.temporal_cuts(times, job.valid_from, job.test_from)
    if valid_from >= test_from:
        raise InputError(
            f"temporal split: valid_from ({valid_from}) is not before test_from ({test_from}); "
            "set both --data.valid_from and --data.test_from"
        )
    return job._replace(valid_from=valid_from, test_from=test_from)


def _check_quarantine(num_bad: int, num_read: int, first: dict[str, Any], max_share: float) -> None:
    if num_bad > max_share * num_read:
        raise InputError(
            f"{num_bad} of {num_read} rows cannot be read, more than data.max_quarantined_share allows ({max_share}); "
            f"the first: {first['file']}, line {first['line']}: {first['reason']}; mend the row, "
            "or set them aside with --data.max_quarantined_share SHARE"
        )


def _write_quarantine(pieces: list[Path], path: Path) -> None:
    path.parent.mkdir()
    with pq.ParquetWriter(path, QUARANTINE_SCHEMA, compression="zstd") as writer:
        for piece in pieces:
            frame = tasks.read_arrow(piece).to_arrow(compat_level=pl.CompatLevel.oldest())
            writer.write_table(frame.cast(QUARANTINE_SCHEMA))


def describe(found: IngestResult) -> str:
    verb = "reusing the dataset already ingested at" if found.reused else "dataset committed at"
    manifest = found.manifest
    return (
        f"{verb} {found.path} ({manifest.users:,} users, {manifest.items:,} items, "
        f"{manifest.rows['written']:,} events, fingerprint {manifest.fingerprint[:16]})"
    )


def obtain_dataset(data: DataConfig, home: Path, out: Console, timer: Timer) -> tuple[Dataset, bool]:
    """The dataset version that a job works on, and whether it was there already; says so on stderr."""
    with timer.phase("ingest"), PhaseProgress(out) as progress:
        found = ingest(data, home, progress.update)
    out.print(describe(found), highlight=False, markup=False, soft_wrap=True)
    return Dataset(found.path), found.reused


def run_ingest(config: IngestJobConfig) -> dict[str, Any]:
    """The ingest job; gives the result line's fields. Raises InputError where the user's input is wrong."""
    out = console()
    home = job_home(config)
    connect()
    with PhaseProgress(out) as progress:
        found = ingest(config.data, home, progress.update)
    out.print(describe(found), highlight=False, markup=False, soft_wrap=True)
    manifest = found.manifest
    return {
        "dataset": {"path": str(found.path), "fingerprint": manifest.fingerprint, "reused": found.reused},
        "rows": manifest.rows,
        "users": manifest.users,
        "items": manifest.items,
        "events": {"train": manifest.train_events, "valid": manifest.valid_events, "test": manifest.test_events},
        "seconds": {name: round(value, 2) for name, value in found.seconds.items()},
    }
