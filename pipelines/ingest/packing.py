"""Packs a log: files into the batches that one task inspects, ranges into the units that one task reads."""

from collections.abc import Sequence
from typing import Any

from mgray.data.manifest import digest
from pipelines.ingest.context import FileRange, Unit
from pipelines.ingest.results import InspectedFile
from pipelines.ingest.source.log_files import LogFile

BATCH_FILES, UNIT_RANGES = 256, 512  # small files that one task takes
UNIT_KEY_DIGITS = 32


def pack_files(files: Sequence[LogFile], range_bytes: int) -> list[tuple[LogFile, ...]]:
    """Files that one inspecting task takes: one, or many small ones."""
    batches: list[list[LogFile]] = []
    size = 0
    for file in files:
        if not batches or size + file.bytes > range_bytes or len(batches[-1]) >= BATCH_FILES:
            batches.append([])
            size = 0
        batches[-1].append(file)
        size += file.bytes
    return [tuple(batch) for batch in batches]


def pack_units(
    files: Sequence[LogFile],
    inspected: Sequence[InspectedFile],
    chosen: Sequence[int],
    range_bytes: int,
    shaping: dict[str, Any],
) -> list[Unit]:
    """Ranges of the chosen files in the order of the log, small ones together. shaping: settings in the units' keys."""
    groups: list[list[FileRange]] = []
    names: list[list[Any]] = []
    size = 0
    for index in chosen:
        file, found = files[index], inspected[index]
        assert found.layout is not None, f"{file.name}: a file to read was inspected"
        for extent in found.ranges:
            if not groups or size + extent.bytes > range_bytes or len(groups[-1]) >= UNIT_RANGES:
                groups.append([])
                names.append([])
                size = 0
            groups[-1].append(FileRange(file, found.layout, extent))
            names[-1].append([file.name, found.sha256, extent.start, extent.stop])
            if found.layout.partitions:  # of the path, of which a name may be but the end
                names[-1][-1].append(found.layout.partitions)
            size += extent.bytes
    return [
        Unit(digest({"parts": ranges, **shaping})[:UNIT_KEY_DIGITS], tuple(group))
        for group, ranges in zip(groups, names, strict=True)
    ]
