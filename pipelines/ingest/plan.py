"""Plan of an ingest: the units to read, the version's key, and what is there already."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mgray.config import DataConfig
from mgray.data.manifest import SourceFile, digest, file_sha256, short_key
from mgray.errors import InputError, NotTrainableError
from mgray.ingest.parse import check_time_format
from mgray.ingest.spelling import ID_RULE
from mgray.schema import OPTION_COLUMNS, SCHEMA_VERSION
from pipelines.ingest.append import Base, Earlier, find_base, take_over
from pipelines.ingest.context import Rules, Unit
from pipelines.ingest.packing import pack_files, pack_units
from pipelines.ingest.privacy import Privacy, read_privacy
from pipelines.ingest.results import InspectedFile, InspectedFiles, StagedUnit
from pipelines.ingest.runner import TaskRunner
from pipelines.ingest.source.digests import Log
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.resolve import Source, resolve
from pipelines.ingest.source.titles import read_titles
from pipelines.ingest.staging import STAGED_FOLDER, Layers
from pipelines.ingest.tasks.units import inspect_files
from pipelines.runtime.lock import is_held
from pipelines.runtime.versions import RESUMABLE, remove_abandoned

SHARD_BYTES = 32 << 20  # of text a shard: what one task sorts in memory at a time
MIN_SHARDS, MAX_SHARDS = 4, 4096
MAX_RANGES = 4096  # of a log; with more, the pieces of a bucket would be too small to read well
PARTITION_BYTES = 1 << 30  # of text an item partition
MIN_PARTITIONS, MAX_PARTITIONS = 2, 1024
PACKED_FACTOR = 4  # about how many bytes of text are in a byte of a compressed file or of Parquet
TIMED_RULES = ("min_timestamp", "max_timestamp", "max_user_events_per_day", "repeat_window_s")  # of data.clean
LOCK_TIMEOUT_S = 24 * 3600.0  # an ingest's lock that is older was left behind

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """Plan of one ingest."""

    source: str  # as the user gave it
    key: str
    sources: list[SourceFile]  # every file that the version is made from
    settings: dict[str, Any]  # what shapes the version, for its manifest
    titles: pl.DataFrame | None
    units: tuple[Unit, ...]
    read_before: list[StagedUnit]  # the first units, in an ingest that appends
    known_items: list[str]  # raw ids that have numbers already, by number
    known_event_types: list[str]  # names that have numbers already, by number
    staged: Path
    layers: Layers
    rules: Rules
    has_times: bool = True

    @property
    def lock(self) -> Path:
        """The lock file of an ingest of this key."""
        return self.staged / f"{short_key(self.key)}.lock"

    @contextmanager
    def clean_up(self) -> Iterator[None]:
        """On an error that the user must mend, removes the units staged meanwhile: mended, the log is another one."""
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
        """Short keys of the other ingests that are at work in this place now."""
        locks = (lock for lock in self.staged.glob("*.lock") if lock != self.lock)
        return {lock.stem for lock in locks if is_held(lock, LOCK_TIMEOUT_S)}

    def forget_others(self) -> None:
        """Removes, with a forget list, what other ingests staged in this place, for it may hold the forgotten.

        What an ingest that runs now may be using stays: the next ingest with a forget list removes that.
        """
        if not self.layers.forgotten:
            return
        running = self._running()
        for left in self.staged.parent.glob(f"{RESUMABLE}*"):
            key = left.name.removeprefix(RESUMABLE)
            if key != short_key(self.key) and key not in running and "@" not in key:
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
    runner: TaskRunner,
    range_bytes: int,
    append: bool | Path,
    log: Log | None = None,
) -> Plan:
    """Plans an ingest. log: data.source, where the caller found it. Raises InputError for a wrong source or setting."""
    with runner.timer.phase("resolve"):
        source = resolve(config, home) if log is None else log.source
        titles = read_titles(source.titles_file) if source.titles_file else None
    log_bytes = _text_bytes(source.files)
    range_bytes = max(range_bytes, log_bytes // MAX_RANGES)
    privacy = read_privacy(config.privacy)
    settings = _settings(config, privacy)
    base = find_base(out, settings, append)
    files = _inspect_log(config, source, runner, range_bytes, base, log)
    sources = [
        SourceFile(path=file.name, bytes=one.bytes, sha256=one.sha256)
        for file, one in zip(source.files, files, strict=True)
    ]
    settings |= _layout(config, log_bytes) if base is None else base.layout
    staged = out / STAGED_FOLDER
    staged.mkdir(exist_ok=True)
    remove_abandoned(staged.glob(".*/"))  # drafts of units, by tasks that were killed
    earlier = take_over(base, staged, source, sources)
    shaping = {name: settings[name] for name in ("id_rule", "columns", "privacy", "num_shards", "num_partitions")}
    has_times = _has_times(config, source, files, base)
    _tell_notes(source, files)
    shaping["schema_version"] = SCHEMA_VERSION
    fresh = pack_units(source.files, files, earlier.new, range_bytes, shaping)
    settings["titles"] = source.titles_file.name if source.titles_file else None
    made_from = [*earlier.sources, *(sources[index] for index in earlier.new), *_titles_source(source.titles_file)]
    return Plan(
        source=config.source if isinstance(config.source, str) else ", ".join(config.source),
        key=_version_key(source, files, made_from, settings, base, earlier),
        sources=made_from,
        settings=settings,
        titles=titles,
        units=(*earlier.units, *fresh),
        read_before=earlier.read,
        known_items=earlier.known_items,
        known_event_types=earlier.known_event_types,
        staged=staged,
        layers=Layers(
            settings["num_shards"], settings["num_partitions"], config.columns.features, privacy.key, privacy.forgotten
        ),
        rules=_rules(config, has_times),
        has_times=has_times,
    )


def _text_bytes(files: Sequence[LogFile]) -> int:
    """About how many bytes of text a log has."""
    is_packed = (file.compression is not None or file.format == "parquet" for file in files)
    return sum(file.bytes * (PACKED_FACTOR if packed else 1) for file, packed in zip(files, is_packed, strict=True))


def _settings(config: DataConfig, privacy: Privacy) -> dict[str, Any]:
    """The settings that shape a version, as its manifest has them. Raises InputError for what does not go together."""
    if config.columns.timestamp_format is not None:
        check_time_format(config.columns.timestamp_format)
    if config.columns.timestamp is None:
        _check_timeless(config)
    settings = config.model_dump(
        include={"columns", "clean", "min_user_events", "min_item_count", "split", "valid_from", "test_from"},
        mode="json",
    )
    return {"id_rule": ID_RULE} | settings | {"privacy": privacy.settings}


def _version_key(
    source: Source,
    files: Sequence[InspectedFile],
    made_from: list[SourceFile],
    settings: dict[str, Any],
    base: Base | None,
    earlier: Earlier,
) -> str:
    """The digest of what a version is made from."""
    if base is not None and base.is_made_of(made_from):
        # nothing to append: the base is what is asked for, also where a kill hid that it was committed
        return base.manifest.ingest_key
    named = [[file.path, file.sha256] for file in made_from]
    content: dict[str, Any] = {"sources": named, "settings": settings, "schema_version": SCHEMA_VERSION}
    layouts = {source.files[index].name: files[index].layout for index in earlier.new}
    told = {name: layout.partitions for name, layout in layouts.items() if layout is not None}
    if any(told.values()):
        content["partitions"] = told
    if base is not None:
        content["known_items"] = base.manifest.vocabulary.sha256
        content["known_event_types"] = earlier.known_event_types
    return digest(content)


def _rules(config: DataConfig, has_times: bool) -> Rules:
    return Rules(
        **config.clean.model_dump() | ({} if has_times else {"duplicates": False}),
        min_user_events=config.min_user_events,
        split=config.split,
        valid_from=config.valid_from,
        test_from=config.test_from,
    )


def _check_timeless(config: DataConfig) -> None:
    """Raises InputError where a setting needs times, for a log that has none."""
    asked = [name for name in TIMED_RULES if getattr(config.clean, name) is not None]
    problem = "data.split: temporal" if config.split == "temporal" else f"data.clean.{asked[0]}" if asked else None
    if problem is not None:
        raise (NotTrainableError if problem == "data.split: temporal" else InputError)(
            f"{problem} needs times, and the log has none ({_no_times(config)}); leave it out, or name the column of "
            "the times with --data.columns.timestamp NAME"
        )


def _no_times(config: DataConfig) -> str:
    return "data.columns.timestamp none" if config.columns.timestamp is None else "it is text of histories"


def _has_times(config: DataConfig, source: Source, files: Sequence[InspectedFile], base: Base | None) -> bool:
    """Whether the log has times. Raises InputError where some of its files have none, or a rule needs them."""
    layouts = ((file.path, one.layout) for file, one in zip(source.files, files, strict=True))
    found = {path: layout.has_times for path, layout in layouts if layout is not None}
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


def _tell_notes(source: Source, files: Sequence[InspectedFile]) -> None:
    """Warns of what was guessed, once for all files with the same guess."""
    told: dict[str, list[str]] = {}
    for file, one in zip(source.files, files, strict=True):
        for note in one.layout.notes if one.layout is not None else ():
            told.setdefault(note, []).append(file.name)
    for note, names in told.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        logger.warning("%s%s: %s", names[0], more, note)


def check_named_columns(config: DataConfig, plan: Plan, read: Sequence[StagedUnit]) -> None:
    """Raises InputError where an optional column was named that no row has.

    JSON Lines has no header to look in, and the first rows may be without the key, so all of the log is asked.
    """
    formats = {one.file.format for unit in plan.units for one in unit.ranges}
    if formats != {"jsonl"} or not any(unit.pieces for unit in read):
        return
    for column in OPTION_COLUMNS:
        name = getattr(config.columns, column.role)
        if name is not None and not any(unit.has(column) for unit in read):
            raise InputError(
                f"--data.source {plan.source}: no row has {name!r}; name the log's own with "
                f"--data.columns.{column.role} NAME, or leave it out"
            )


def _layout(config: DataConfig, log_bytes: int) -> dict[str, int]:
    """How many buckets of users and partitions of items there are, by the size of the log."""
    shards = max(MIN_SHARDS, min(MAX_SHARDS, -(-log_bytes // SHARD_BYTES)))
    partitions = max(MIN_PARTITIONS, min(MAX_PARTITIONS, log_bytes // PARTITION_BYTES))
    return {"num_shards": config.num_shards or shards, "num_partitions": partitions}


def _titles_source(file: Path | None) -> list[SourceFile]:
    if file is None:
        return []
    return [SourceFile(path=file.name, bytes=file.stat().st_size, sha256=file_sha256(file))]


def _inspect_log(
    config: DataConfig, source: Source, runner: TaskRunner, range_bytes: int, base: Base | None, log: Log | None
) -> list[InspectedFile]:
    """Inspects each file: size, digest, layout, ranges.

    A file that the base was made from, by the digest that the caller found, is not read again: it has size and digest
    only.
    """
    digests: tuple[str | None, ...] = (None,) * len(source.files) if log is None or base is None else log.sha256
    known = base.sha256 if base is not None else set()
    batches = pack_files(
        [file for file, sha256 in zip(source.files, digests, strict=True) if sha256 not in known], range_bytes
    )
    columns = config.columns  # alone, for the tasks to carry

    def inspect_batch(index: int) -> InspectedFiles:
        return inspect_files(batches[index], columns, range_bytes)

    found = runner.map("scan", InspectedFiles, inspect_batch, len(batches))
    inspected = (file for batch in found for file in batch.files)
    return [
        InspectedFile(file.bytes, sha256) if sha256 is not None and sha256 in known else next(inspected)
        for file, sha256 in zip(source.files, digests, strict=True)
    ]
