"""Facts that an ingest finds while it builds a version, for the version's manifest and its report."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mgray.data.manifest import Shard
from mgray.report.ingest_report import IngestSummary, Pictures
from pipelines.ingest.context import IngestContext
from pipelines.ingest.results import StagedUnit


class VocabularyFacts(NamedTuple):
    """The items of a version."""

    items: int
    cold_items: int  # that train, but in too few events for the vocabulary
    outside_items: int  # without a number, cold ones too
    by_count: npt.NDArray[np.int64]  # [V] training events of each item, falling
    top: list[tuple[str, int]]  # (title or id, training events) of the first few


class EventTypeFacts(NamedTuple):
    """The event types of a version."""

    numbered: list[str]  # by number
    outside: list[str]  # that never train; their numbers follow
    events: dict[str, int]  # written events of every type, by name


class IngestFacts(NamedTuple):
    """Facts of what an ingest built."""

    context: IngestContext  # what the last tasks knew
    read: Sequence[StagedUnit]  # what each unit holds
    rows: dict[str, int]  # the manifest's: read, quarantined, written, dropped_RULE
    users: int
    short_users: int
    part_events: list[int]  # of training, validation, test
    times: tuple[float, float]  # first and last of the written events
    vocabulary: VocabularyFacts
    vocabulary_sha256: str  # of its file
    event_types: EventTypeFacts
    shards: list[Shard]
    short_shards: list[Shard]
    quarantine_file: str | None
    forget_unmatched: int | None  # ids of the forget list that no row has; None: there is no list
    summary: IngestSummary
    pictures: Pictures
