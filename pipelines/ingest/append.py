"""Append: what an ingest takes over from an earlier version of the log, its units, its files, its numbers."""

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from mgray.data.manifest import MANIFEST_FILE, Manifest, SourceFile, read_manifest
from mgray.errors import InputError
from mgray.schema import ITEM_ID
from pipelines.ingest.context import Unit
from pipelines.ingest.results import StagedUnit
from pipelines.ingest.source.digests import log_sources
from pipelines.ingest.source.resolve import Source
from pipelines.ingest.staging import STAGED_FOLDER, read_done


class Base(NamedTuple):
    """The version that an ingest appends to."""

    folder: Path
    manifest: Manifest

    @property
    def staged(self) -> Path:
        return self.folder.parent / STAGED_FOLDER

    @property
    def layout(self) -> dict[str, int]:
        return {name: self.manifest.config[name] for name in ("num_shards", "num_partitions")}

    @property
    def sha256(self) -> set[str]:
        """Digests of the log files that it was made from."""
        return {file.sha256 for file in log_sources(self.manifest)}

    def is_made_of(self, sources: list[SourceFile]) -> bool:
        return sources == self.manifest.sources


class Earlier(NamedTuple):
    """Work of an earlier version that an append need not repeat; empty for any other."""

    units: list[Unit]  # staged, their files not read again
    read: list[StagedUnit]  # what each of them holds
    sources: list[SourceFile]  # files that they were made from
    known_items: list[str]  # raw ids that have numbers, by number
    known_event_types: list[str]  # names that have numbers, by number
    new: list[int]  # places in the log of the files to read


def take_over(base: Base | None, staged: Path, source: Source, sources: list[SourceFile]) -> Earlier:
    """Takes over what the base has of a log's files. Raises InputError where one changed, or staged units are gone."""
    if base is None:
        return Earlier([], [], [], [], [], list(range(len(sources))))
    new = _new_files(base, source, sources)
    _link_units(base, staged)
    units = [Unit(key, ()) for key in base.manifest.staged]
    read = [done for done in (read_done(staged / unit.key) for unit in units) if done is not None]
    if len(read) < len(units):
        raise InputError(f"--append: staged events in {staged} are gone; ingest all files, without --append")
    before = log_sources(base.manifest)
    vocabulary = pq.read_table(base.folder / base.manifest.vocabulary.file, partitioning=None)
    items = vocabulary.sort_by("item")[ITEM_ID].to_pylist()
    return Earlier(units, read, before, items, [kind.name for kind in base.manifest.event_types], new)


def find_base(out: Path, settings: dict[str, Any], append: bool | Path) -> Base | None:
    """Finds the version to append to; None: read all files. A folder given that does not fit is passed over.

    Raises InputError where a version must be found (append is True) and none of those there fits.
    """
    if append is False:
        return None
    if isinstance(append, Path):
        try:
            base = Base(append, read_manifest(append))
        except InputError:
            return None
        return base if _why_not(base, settings) is None else None
    versions = []
    for file in out.glob(f"*/{MANIFEST_FILE}"):
        try:
            versions.append(Base(file.parent, read_manifest(file.parent)))
        except InputError:
            continue
    alike = [base for base in versions if _difference(base.manifest.config, settings) is None]
    if not alike and versions:
        newest = max(versions, key=lambda base: base.manifest.created)
        if newest.manifest.config.get("id_rule") != settings["id_rule"]:
            raise InputError(
                f"--append: the versions in {out} were made by an earlier rule of how ids are spelled, by which an id "
                "of theirs may be another one now; ingest all files, without --append"
            )
        raise InputError(
            f"--append: no version in {out} was made with these settings (the newest differs in "
            f"data.{_difference(newest.manifest.config, settings)}); give its settings, or leave --append out"
        )
    if not alike:
        return None
    base = max(alike, key=lambda one: one.manifest.created)
    reason = _why_not(base, settings)
    if reason is not None:
        raise InputError(f"--append: {base.folder}: {reason}; ingest all files, without --append")
    return base


def _why_not(base: Base, settings: dict[str, Any]) -> str | None:
    difference = _difference(base.manifest.config, settings)
    if difference is not None:
        return f"data.{difference} is another"
    gone = [key for key in base.manifest.staged if read_done(base.staged / key) is None]
    if gone or not base.manifest.staged:
        return f"its staged events in {base.staged} are gone"
    return None


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first setting (dotted) that shapes the data and differs; None: there is none."""
    for name, value in new.items():
        if name in ("num_shards", "num_partitions", "titles"):
            continue
        if isinstance(value, dict) and isinstance(old.get(name), dict):
            for key in value:
                if old[name].get(key) != value[key]:
                    return f"{name}.{key}"
        elif old.get(name) != value:
            return name
    return None


def _new_files(base: Base, source: Source, sources: list[SourceFile]) -> list[int]:
    """Places of the files that the base was not made from; a copy of such a file is not new. Raises InputError where a
    file changed since."""
    known = base.sha256
    names = {file.path for file in log_sources(base.manifest)}
    new = []
    for place, file in enumerate(sources):
        if file.sha256 in known:
            continue
        if file.path in names:
            raise InputError(
                f"{source.files[place].path}: changed since it was ingested into {base.folder.name}, and an append "
                "reads new files only; put new events into a file of their own, or ingest all files without --append"
            )
        new.append(place)
    return new


def _link_units(base: Base, staged: Path) -> None:
    """Links the base's units into this ingest's folder of staged units, where that is another (of a dry run)."""
    theirs = base.staged
    if theirs.resolve() == staged.resolve():
        return
    for key in base.manifest.staged:
        if not (staged / key).exists():
            (staged / key).symlink_to((theirs / key).resolve(), target_is_directory=True)
