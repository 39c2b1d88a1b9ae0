"""What an ingest will do: the units to read, the version's key, and what is there already."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import polars as pl

from mgray.config import PSEUDONYM_KEY_VARIABLE, DataConfig, PrivacyConfig
from mgray.data.manifest import digest, file_sha256
from mgray.errors import InputError, NoTrainingEventsError
from mgray.ingest.parse import check_time_format
from mgray.ingest.spelling import ID_RULE
from mgray.schema import SCHEMA_VERSION
from pipelines.ingest import tasks
from pipelines.ingest.append import Base, find_base, take_over
from pipelines.ingest.id_notes import read_forgotten
from pipelines.ingest.source.digests import Log
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.ranges import Range
from pipelines.ingest.source.resolve import Source, resolve
from pipelines.ingest.source.titles import read_titles
from pipelines.ingest.staging import STAGED_FOLDER, Layers, key_fingerprint
from pipelines.ingest.tasks import Rules, Unit
from pipelines.runtime.console import Timer
from pipelines.runtime.lock import is_held
from pipelines.runtime.versions import remove_abandoned

SHARD_BYTES = 32 << 20  # of text a shard: what one task sorts in memory at a time
MIN_SHARDS, MAX_SHARDS = 4, 4096
MAX_RANGES = 4096  # of a log: more would make the pieces of a bucket too small to read well
PARTITION_BYTES = 1 << 30  # of text an item partition
MIN_PARTITIONS, MAX_PARTITIONS = 2, 1024
PACKED_FACTOR = 4  # bytes of text a byte of a compressed file or of Parquet, about
TIMED_RULES = ("min_timestamp", "max_timestamp", "max_user_events_per_day", "repeat_window_s")  # of data.clean
SCAN_FILES, UNIT_PARTS = 256, 512  # small files that one task takes
LOCK_TIMEOUT_S = 24 * 3600.0  # an ingest's lock that is older was left behind

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Runs tasks on Ray Data and times phases: pipelines.ingest.job._Run."""

    @property
    def timer(self) -> Timer: ...

    def map(self, name: str, task: Callable[[int], tasks.Result], count: int) -> list[tasks.Result]: ...


class Plan(NamedTuple):
    source: str  # as the user gave it
    key: str
    sources: list[dict[str, Any]]  # path, bytes, sha256 of every file that the version is made from
    settings: dict[str, Any]  # what shapes the version, for its manifest
    titles: pl.DataFrame | None
    units: tuple[Unit, ...]
    read_before: list[tasks.Result]  # of the first units, in an ingest that appends
    known_items: list[str]  # raw ids that have numbers already, by number
    known_event_types: list[str]  # names that have numbers already, by number
    staged: Path
    layers: Layers
    rules: Rules
    has_times: bool = True

    @contextmanager
    def clean_up(self) -> Iterator[None]:
        """What the user must mend makes the log another: units that were staged of it meanwhile go."""
        before = {unit.key for unit in self.units if (self.staged / unit.key).exists()}
        try:
            yield
        except InputError:
            for unit in () if self.others_run() else self.units:
                if unit.key not in before:
                    shutil.rmtree(self.staged / unit.key, ignore_errors=True)
            raise

    def others_run(self) -> bool:
        """Whether another ingest is at work in this place: it may use the same units."""
        return bool(self._running())

    def _running(self) -> set[str]:
        """The first 16 characters of the keys of the other ingests that are at work in this place now."""
        locks = (lock for lock in self.staged.glob("*.lock") if lock.stem != self.key[:16])
        return {lock.stem for lock in locks if is_held(lock, LOCK_TIMEOUT_S)}

    def forget_others(self) -> None:
        """With a forget list: what other ingests staged in this place may hold the forgotten, so it goes.

        All but what one that runs now may be using: the next ingest with a forget list takes that.
        """
        if not self.layers.forgotten:
            return
        running = self._running()
        for left in self.staged.parent.glob(".staging-*"):
            key = left.name.removeprefix(".staging-")
            if key != self.key[:16] and key not in running and "@" not in key:
                shutil.rmtree(left, ignore_errors=True)
        if running:  # whose units are whose is on no record
            logger.warning(
                "data.privacy.forget: other ingests run in %s, so what was staged there earlier stays and may hold the "
                "forgotten; run this command again after they end",
                self.staged.parent,
            )
            return
        own = {unit.key for unit in self.units}
        for folder in self.staged.iterdir():
            if folder.is_dir() and folder.name not in own:
                shutil.rmtree(folder, ignore_errors=True)


def make_plan(
    config: DataConfig,
    home: Path,
    out: Path,
    run: Runner,
    range_bytes: int,
    append: bool | Path,
    log: Log | None = None,
) -> Plan:
    """log: data.source, where the caller found it. Raises InputError for a source, setting or base that does not do."""
    shown = config.source if isinstance(config.source, str) else ", ".join(config.source)
    with run.timer.phase("resolve"):
        source = resolve(config, home) if log is None else log.source
        titles = read_titles(source.titles_file) if source.titles_file else None
    packed = {file.name for file in source.files if file.compression or file.format == "parquet"}
    log_bytes = sum(file.bytes * (PACKED_FACTOR if file.name in packed else 1) for file in source.files)
    range_bytes = max(range_bytes, log_bytes // MAX_RANGES)
    privacy, key, forgotten = _privacy(config.privacy)
    settings = config.model_dump(
        include={"columns", "clean", "min_user_events", "min_item_count", "split", "valid_from", "test_from"},
        mode="json",
    )
    settings = {"id_rule": ID_RULE} | settings | {"privacy": privacy}
    if config.columns.timestamp_format is not None:
        check_time_format(config.columns.timestamp_format)
    if config.columns.timestamp is None:
        _check_timeless(config)
    base = find_base(config, out, settings, append)
    files = _scan_log(config, source, run, range_bytes, base, log)
    sources = [
        {"path": file.name, "bytes": one["bytes"], "sha256": one["sha256"]}
        for file, one in zip(source.files, files, strict=True)
    ]
    settings |= _layout(config, log_bytes) if base is None else base.layout
    layers = Layers(settings["num_shards"], settings["num_partitions"], config.columns.features, key, forgotten)
    staged = out / STAGED_FOLDER
    staged.mkdir(exist_ok=True)
    remove_abandoned(staged.glob(".*/"))  # drafts of units, by tasks that were killed
    earlier = take_over(base, staged, source, sources)
    shaping = {name: settings[name] for name in ("id_rule", "columns", "privacy", "num_shards", "num_partitions")}
    has_times = _has_times(config, source, files, base)
    _tell_notes(source, files)
    fresh = _units(source.files, files, earlier.new, range_bytes, shaping | {"schema_version": SCHEMA_VERSION})
    records = [*earlier.sources, *(sources[index] for index in earlier.new), *_titles_record(source.titles_file)]
    settings["titles"] = source.titles_file.name if source.titles_file else None
    named = [[record["path"], record["sha256"]] for record in records]
    made_from: dict[str, Any] = {"sources": named, "settings": settings, "schema_version": SCHEMA_VERSION}
    told = {source.files[index].name: files[index]["layout"]["partitions"] for index in earlier.new}
    if any(told.values()):
        made_from["partitions"] = told
    if base is not None:
        made_from["known_items"] = base.manifest.vocabulary.sha256
        made_from["known_event_types"] = earlier.known_event_types
    return Plan(
        shown,
        # nothing to append: the base is what is asked for, also where a kill hid that it was committed
        base.manifest.ingest_key if base is not None and base.is_made_of(records) else digest(made_from),
        records,
        settings,
        titles,
        (*earlier.units, *fresh),
        earlier.read,
        earlier.known_items,
        earlier.known_event_types,
        staged,
        layers,
        Rules(
            **config.clean.model_dump() | ({} if has_times else {"duplicates": False}),
            min_user_events=config.min_user_events,
            split=config.split,
            valid_from=config.valid_from,
            test_from=config.test_from,
        ),
        has_times,
    )


def _check_timeless(config: DataConfig) -> None:
    """Raises InputError where something is asked for that a log without times does not have."""
    asked = [name for name in TIMED_RULES if getattr(config.clean, name) is not None]
    problem = "data.split: temporal" if config.split == "temporal" else f"data.clean.{asked[0]}" if asked else None
    if problem is not None:
        raise (NoTrainingEventsError if problem == "data.split: temporal" else InputError)(
            f"{problem} needs times, and the log has none ({_no_times(config)}); leave it out, or name the column of "
            "the times with --data.columns.timestamp NAME"
        )


def _no_times(config: DataConfig) -> str:
    return "data.columns.timestamp none" if config.columns.timestamp is None else "it is text of histories"


def _has_times(config: DataConfig, source: Source, files: list[dict[str, Any]], base: Base | None) -> bool:
    """Whether the log has times. Raises InputError where some of its files have none, or a rule needs them."""
    scanned = ((file, one) for file, one in zip(source.files, files, strict=True) if "layout" in one)
    found = {file.path: Layout(**one["layout"]).has_times for file, one in scanned}
    known = set(found.values()) | ({base.manifest.has_times} if base is not None else set())
    if len(known) > 1:
        without = next((path for path, has_times in found.items() if not has_times), next(iter(found)))
        raise InputError(
            f"--data.source: some of its files have times and some have none (such as {without}); ingest them apart, "
            "or read all without: --data.columns.timestamp none"
        )
    has_times = known != {False}
    if not has_times:
        _check_timeless(config)
        logger.warning(
            "the log has no times (%s): its order, files by name and then rows, is the order of events; exact "
            "duplicates are kept, for they cannot be told from repeats",
            _no_times(config),
        )
    return has_times


def _tell_notes(source: Source, files: list[dict[str, Any]]) -> None:
    """Says what was guessed, once for all files of which it is the same."""
    told: dict[str, list[str]] = {}
    for file, one in zip(source.files, files, strict=True):
        for note in one["layout"]["notes"] if "layout" in one else ():
            told.setdefault(note, []).append(file.name)
    for note, names in told.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        logger.warning("%s%s: %s", names[0], more, note)


def check_named_columns(config: DataConfig, plan: Plan, read: list[tasks.Result]) -> None:
    """Raises InputError where an optional column was named that no row has.

    JSON Lines has no header to look in, and the first rows may be without the key, so all of the log is asked.
    """
    formats = {file.format for unit in plan.units for file, _, _ in unit.parts}
    if formats != {"jsonl"} or not any(r["pieces"] for r in read):
        return
    has = {"rating": any(r["has_ratings"] for r in read), "event_type": any(r["event_types"] for r in read)}
    for role, found in has.items():
        name = getattr(config.columns, role)
        if name is not None and not found:
            raise InputError(
                f"--data.source {plan.source}: no row has {name!r}; name the log's own with "
                f"--data.columns.{role} NAME, or leave it out"
            )


def _layout(config: DataConfig, log_bytes: int) -> dict[str, int]:
    """Into how many parts users and items are split, by the size of the log."""
    shards = max(MIN_SHARDS, min(MAX_SHARDS, -(-log_bytes // SHARD_BYTES)))
    partitions = max(MIN_PARTITIONS, min(MAX_PARTITIONS, log_bytes // PARTITION_BYTES))
    return {"num_shards": config.num_shards or shards, "num_partitions": partitions}


def _titles_record(file: Path | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    return [{"path": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)}]


def _batches(files: tuple[LogFile, ...], range_bytes: int) -> list[tuple[LogFile, ...]]:
    """Files that one scan task takes: one, or many small ones."""
    batches: list[list[LogFile]] = []
    size = 0
    for file in files:
        if not batches or size + file.bytes > range_bytes or len(batches[-1]) >= SCAN_FILES:
            batches.append([])
            size = 0
        batches[-1].append(file)
        size += file.bytes
    return [tuple(batch) for batch in batches]


def _scan_log(
    config: DataConfig, source: Source, run: Runner, range_bytes: int, base: Base | None, log: Log | None
) -> list[dict[str, Any]]:
    """Size, digest, layout and ranges of each file.

    Nothing reads a file again that the base was made from, as a caller's digest tells: it has the first two alone.
    """
    digests: tuple[str | None, ...] = (None,) * len(source.files) if log is None or base is None else log.sha256
    known = base.sha256 if base is not None else set()
    to_scan = tuple(file for file, sha256 in zip(source.files, digests, strict=True) if sha256 not in known)
    batches = _batches(to_scan, range_bytes)
    scans = run.map("scan", partial(_scan, batches, config, range_bytes), len(batches))
    scanned = (one for result in scans for one in result["files"])
    return [
        {"bytes": file.bytes, "sha256": sha256} if sha256 in known else next(scanned)
        for file, sha256 in zip(source.files, digests, strict=True)
    ]


def _scan(batches: list[tuple[LogFile, ...]], config: DataConfig, range_bytes: int, index: int) -> tasks.Result:
    return tasks.scan_files(batches[index], config.columns, range_bytes)


def _units(
    files: tuple[LogFile, ...],
    scans: list[dict[str, Any]],
    chosen: list[int],
    range_bytes: int,
    shaping: dict[str, Any],
) -> list[Unit]:
    """Ranges of the chosen files in the order of the log, small ones together."""
    groups: list[list[tuple[LogFile, Layout, Range]]] = []
    names: list[list[Any]] = []
    size = 0
    for index in chosen:
        layout = Layout(**scans[index]["layout"])
        for given in scans[index]["ranges"]:
            part = Range(*given)
            if not groups or size + part.bytes > range_bytes or len(groups[-1]) >= UNIT_PARTS:
                groups.append([])
                names.append([])
                size = 0
            groups[-1].append((files[index], layout, part))
            names[-1].append([files[index].name, scans[index]["sha256"], part.start, part.stop])
            if layout.partitions:  # of the path, of which a name may be but the end
                names[-1][-1].append(layout.partitions)
            size += part.bytes
    return [
        Unit(digest({"parts": parts, **shaping})[:32], tuple(group)) for group, parts in zip(groups, names, strict=True)
    ]


def _privacy(config: PrivacyConfig) -> tuple[dict[str, Any], bytes | None, tuple[str, ...]]:
    """(what of it shapes the data, for the manifest, which holds neither key nor ids; the key; forgotten ids)."""
    key: bytes | None = None
    if config.pseudonymize:
        where = f"${PSEUDONYM_KEY_VARIABLE}"
        try:
            if config.key_file is not None:
                where = f"data.privacy.key_file {config.key_file}"
                key = Path(config.key_file).expanduser().read_bytes().rstrip(b"\r\n")
            else:
                key = os.environ.get(PSEUDONYM_KEY_VARIABLE, "").encode()
        except OSError as error:
            raise InputError(f"{where}: {error.strerror}; give the file of the pseudonyms' key") from error
        if len(key) < 16:
            raise InputError(
                f"{where}: a key of {len(key)} bytes; data.privacy.pseudonymize needs one of at least 16, such as "
                "`openssl rand -hex 32` gives"
            )
    forgotten = () if config.forget is None else read_forgotten(config.forget)
    shapes = {
        "pseudonymize": config.pseudonymize,
        "key_fingerprint": key_fingerprint(key) if key is not None else None,
        "forgotten": digest(forgotten) if forgotten else None,
    }
    return shapes, key, forgotten
