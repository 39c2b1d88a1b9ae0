"""Ingest on Ray Data: a raw log becomes a committed dataset version (Parquet shards, vocabulary, manifest).

Passes, each a Ray Data map with one task a row: scan (inspect files: digest, ranges), read (a unit: parse, stage by
bucket of user), items (a partition of the items: their codes), clean (a bucket: the rules, order, splits, counts),
where a k-core is asked for core (a bucket, again until nothing changes) and finish, write (a bucket: encode, shard).
The shuffle between read and clean goes through files of the staged units, so no pass holds the log in memory.
The driver holds the list of ranges, and the items with their counts.

A version is committed by a rename. After a kill at any moment the same command goes on: staged units, and what the
tasks of every pass left behind in the version's staging folder, are found by name and not made again.
"""

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray.data
from rich.console import Console

from mgray.config import DataConfig, IngestJobConfig, resolve_out
from mgray.data.dataset import Dataset
from mgray.data.manifest import Manifest, commit, read_manifest, short_key
from mgray.errors import InputError
from mgray.report.ingest_report import IngestReport, ingest_table
from pipelines.ingest import id_notes
from pipelines.ingest.build import build_version
from pipelines.ingest.plan import LOCK_TIMEOUT_S, Plan, make_plan
from pipelines.ingest.quarantine import check_quarantine, first_quarantined
from pipelines.ingest.runner import Progress, TaskRunner
from pipelines.ingest.source.digests import Log
from pipelines.ingest.source.resolve import check_apart
from pipelines.ingest.summary import REPORT_FILE, make_report, seal_version, write_report
from pipelines.runtime.cluster import check_writable, connect, job_home
from pipelines.runtime.console import PhaseProgress, Timer, console, say
from pipelines.runtime.lock import HeldError, hold
from pipelines.runtime.versions import committed, put_in_place, resumable_folder

RANGE_BYTES = 32 << 20
SECONDS_BETWEEN_LOOKS = 1.0


class IngestResult(NamedTuple):
    """A dataset version, and how it was come by."""

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
    """Makes the dataset version of a log, or finds the one that the same log and settings made before.

    append: of the log, read only files that the newest version of the output place (or the version in the folder given)
    was not made from, and keep that version's numbers of items and event types; without such a version, all are read.
    A file is known by its bytes, so a copy under another name is not read. The result is a full ingest's but for the
    numbers of new items, and for events of one user at the same time: those of appended files come later, whatever the
    files' names.
    log: data.source, where the caller found and digested it.
    Ray must be initialized. Raises InputError for anything wrong in the log, the settings or the output place; then
    nothing is committed, and versions committed before are as they were.
    """
    if config.dataset is not None:
        return IngestResult(Path(config.dataset), read_manifest(config.dataset), True, {})
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    runner = TaskRunner(Timer(), progress or (lambda *_: None))
    out = resolve_out(config, home)
    check_apart(config, out)
    check_writable(out, "--data.out")
    plan = make_plan(config, home, out, runner, range_bytes, append, log)
    folder = out / short_key(plan.key)
    found = _reusable(folder, plan, config)
    if found is not None:
        return _reuse(found, folder, plan, config, runner)
    with _alone(plan.lock, runner.progress):
        found = _reusable(folder, plan, config)
        if found is not None:  # the one that was waited for made it
            return _reuse(found, folder, plan, config, runner)
        made = _make_version(config, out, folder, plan, runner)
        plan.forget_others()
        id_notes.tell_unmatched(config.privacy.forget, plan.layers.forgotten, made.manifest, plan.staged)
        if not config.keep_staged and not plan.others_run():
            for unit in plan.units:
                shutil.rmtree(plan.staged / unit.key, ignore_errors=True)
    return made


def _make_version(config: DataConfig, out: Path, folder: Path, plan: Plan, runner: TaskRunner) -> IngestResult:
    """Builds the version in its staging folder, and commits it."""
    with resumable_folder(out, plan.key) as staging, plan.clean_up():
        facts = build_version(config, plan, staging, runner)
        manifest = seal_version(plan, facts)
        # Renamed first: no `done` file may outlive what it speaks of, should this be the moment of a kill.
        facts.context.work.rename(staging / f".gone-{uuid.uuid4().hex}")
        for left in staging.glob(".*"):  # drafts of killed tasks too
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        num_bytes = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        report = make_report(plan, facts, manifest, folder, num_bytes, runner.timer.seconds)
        write_report(staging / REPORT_FILE, report, facts.pictures)
        commit(manifest, staging)
        manifest = put_in_place(staging, folder, manifest, read_manifest)
    return IngestResult(folder, manifest, False, runner.timer.seconds, report)


def _reuse(found: Manifest, folder: Path, plan: Plan, config: DataConfig, runner: TaskRunner) -> IngestResult:
    """The result of a version that is there already."""
    plan.forget_others()
    id_notes.tell_unmatched(config.privacy.forget, plan.layers.forgotten, found, plan.staged)
    return IngestResult(folder, found, True, runner.timer.seconds)


def _reusable(folder: Path, plan: Plan, config: DataConfig) -> Manifest | None:
    """The version in `folder`, where it is whole and of this plan. Raises InputError for too many quarantined rows."""
    manifest = committed(folder, plan.key, read_manifest)
    if manifest is not None and manifest.quarantine_file is not None:
        first = first_quarantined(folder / manifest.quarantine_file)
        check_quarantine(manifest.rows["quarantined"], manifest.rows["read"], first, config.max_quarantined_share)
    return manifest


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Holds the lock of an ingest; while another ingest of the same log holds it, says so and waits."""
    total = 0  # complete, so it is printed at once; later ones are printed now and then
    while True:
        try:
            with hold(path, "another ingest of this log", LOCK_TIMEOUT_S):
                yield
                return
        except HeldError as error:
            progress("waiting", 0, total, str(error))
            total = 1
            time.sleep(SECONDS_BETWEEN_LOOKS)


def dataset_line(found: IngestResult) -> str:
    """One line for people: which dataset, and whether it was there already."""
    verb = "reusing the dataset already ingested at" if found.reused else "dataset committed at"
    manifest = found.manifest
    return (
        f"{verb} {found.path} ({manifest.users:,} users, {manifest.items:,} items, "
        f"{manifest.rows['written']:,} events, fingerprint {short_key(manifest.fingerprint)})"
    )


def obtain_dataset(
    data: DataConfig, home: Path, out: Console, timer: Timer, append: bool | Path = False, log: Log | None = None
) -> tuple[Dataset, bool]:
    """Makes or finds the dataset version that a job works on -> (it, whether it was there already). Prints a line."""
    if data.split == "random" and data.dataset is None:
        raise InputError(
            "data.split: random has no order in time, which predicting the next item needs; choose another"
        )
    with timer.phase("ingest"), PhaseProgress(out) as progress:
        found = ingest(data, home, progress.update, append=append, log=log)
    say(out, dataset_line(found))
    return Dataset(found.path), found.reused


def run_ingest(config: IngestJobConfig) -> dict[str, Any]:
    """Runs the ingest job -> the fields of the result line. Raises InputError where the user's input is wrong."""
    out = console()
    home = job_home(config)
    connect()
    with PhaseProgress(out) as progress:
        found = ingest(config.data, home, progress.update, append=config.append)
    manifest = found.manifest
    if found.report is not None:
        out.print(ingest_table(found.report))
    say(out, dataset_line(found))
    return {
        "dataset": {"path": str(found.path), "fingerprint": manifest.fingerprint, "reused": found.reused},
        "rows": manifest.result_rows(),
        "users": manifest.users,
        "items": manifest.items,
        "events": {"train": manifest.train_events, "valid": manifest.valid_events, "test": manifest.test_events},
        "report": str(found.path / manifest.report_file) if manifest.report_file else None,
        "seconds": {name: round(value, 2) for name, value in found.seconds.items()},
    }
