"""Sums up what an ingest built: for the version's manifest, and for people in its report."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

import numpy as np
import pyarrow.compute as pc

from mgray import __version__
from mgray.data.manifest import EventType, Feature, Manifest, Split, Vocabulary, seal
from mgray.report.ingest_report import IngestReport, IngestSummary, Pictures, render_ingest
from mgray.schema import EVENT_COLUMNS, SCHEMA_VERSION
from pipelines.ingest.arrow_files import read_table
from pipelines.ingest.context import IngestContext
from pipelines.ingest.facts import IngestFacts, VocabularyFacts
from pipelines.ingest.plan import Plan
from pipelines.ingest.results import FinishedBucket, StagedUnit
from pipelines.ingest.staging import BAD_ROWS_FILE
from pipelines.ingest.tasks.histories import TIME_BINS
from pipelines.runtime.redact import command_line

REPORT_FILE = "report.html"
VOCABULARY_FILE = "vocabulary.parquet"
MAPPED_VOCABULARY_FILE = "vocabulary.arrow"  # the same table, which a reader maps
OUTSIDE_ITEMS_FILE = "outside_items.parquet"
RULES = ("forgotten", "timestamps", "ratings", "duplicates", "bots", "repeats", "rare_items", "short_users")
MAX_REASONS, POPULARITY_POINTS = 10, 200


def event_type_names(read: Sequence[StagedUnit]) -> list[str]:
    """Names of the event types of the log, sorted: a type's code is its place. read: what the units hold."""
    return sorted({name for unit in read for name in unit.event_types})


def event_type_counts(names: list[str], counts: Sequence[list[int]]) -> dict[str, int]:
    """Adds up the events of each type over all buckets. names: by code; counts: of each bucket, by code."""
    total = np.zeros(len(names), np.int64)
    for of_bucket in counts:
        total[: len(of_bucket)] += np.asarray(of_bucket, np.int64)
    return dict(zip(names, total.tolist(), strict=True))


def _median(lengths: Counter[int]) -> float:
    ordered = sorted(lengths)
    ends = np.cumsum([lengths[length] for length in ordered])
    middle = [
        ordered[int(np.searchsorted(ends, place, side="right"))] for place in ((ends[-1] - 1) // 2, ends[-1] // 2)
    ]
    return sum(middle) / 2


def make_summary(
    context: IngestContext, finished: Sequence[FinishedBucket], vocabulary: VocabularyFacts, written: int
) -> IngestSummary:
    """Sums up a version: its events by time, lengths of histories, popularity of items. written: number of events."""
    lengths: Counter[int] = Counter()
    for bucket in finished:
        lengths.update(dict(zip(bucket.lengths, bucket.length_users, strict=True)))
    by_length = [0] * (max(lengths).bit_length())
    for length, users in lengths.items():
        by_length[length.bit_length() - 1] += users
    counts = vocabulary.by_count
    share = np.cumsum(counts) / max(1, counts.sum())
    ranks = np.unique(np.geomspace(1, max(1, len(share)), POPULARITY_POINTS).astype(int))
    first, last = context.times
    moves = last > first
    return IngestSummary(
        time_edges=np.linspace(first, max(last, first + 1e-9), TIME_BINS + 1).tolist() if moves else [first, first + 1],
        events_by_time=np.sum([bucket.by_time for bucket in finished], axis=0).tolist() if moves else [written],
        history_lengths=by_length,
        median_history=_median(lengths),
        top_items=[(str(name), int(count)) for name, count in vocabulary.top],
        popularity=[(int(rank), float(min(1.0, share[rank - 1]))) for rank in ranks] if len(share) else [],
    )


def seal_version(plan: Plan, facts: IngestFacts) -> Manifest:
    """Makes the manifest of a version that is built."""
    context, vocabulary, types = facts.context, facts.vocabulary, facts.event_types
    rules, features = context.rules, zip(context.layers.features, context.features, strict=True)
    order = ["read", "written", *(f"dropped_{rule}" for rule in RULES), "quarantined"]
    train, valid, test = facts.part_events
    return seal(
        {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "mgray_version": __version__,
            "ingest_key": plan.key,
            "config": plan.settings,
            "sources": plan.sources,
            "rows": {name: facts.rows[name] for name in order if name in facts.rows},
            "users": facts.users,
            "items": vocabulary.items,
            "cold_items": vocabulary.cold_items,
            "train_events": train,
            "valid_events": valid,
            "test_events": test,
            "first_timestamp": facts.times[0],
            "last_timestamp": facts.times[1],
            **_has_columns(plan, facts),
            "vocabulary": Vocabulary(
                file=VOCABULARY_FILE,
                items=vocabulary.items,
                sha256=facts.vocabulary_sha256,
                mapped_file=MAPPED_VOCABULARY_FILE,
            ),
            "cold_items_file": "cold_items.parquet" if vocabulary.cold_items else None,
            "outside_items_file": OUTSIDE_ITEMS_FILE if context.has_outside_items else None,
            "outside_event_types": types.outside,
            "event_types": [EventType(name=name, events=types.events[name]) for name in types.numbered],
            "features": [Feature(name=name, mean=mean, std=std) for name, (mean, std) in features],
            "median_history": facts.summary.median_history,
            "shards": facts.shards,
            "short_users": facts.short_users,
            "short_shards": facts.short_shards,
            "quarantine_file": facts.quarantine_file,
            "split": Split(kind=rules.split, valid_from=rules.valid_from, test_from=rules.test_from),
            "staged": [unit.key for unit in plan.units],
            "report_file": REPORT_FILE,
            "forget_unmatched": facts.forget_unmatched,
        }
    )


def _has_columns(plan: Plan, facts: IngestFacts) -> dict[str, bool]:
    """The manifest's `has_ratings`, ...: whether the log has values, for each event column. `features` says its own."""
    found: dict[str, bool] = {}
    for column in EVENT_COLUMNS:
        key = f"has_{column.name}"
        match column.kind:
            case "time":
                found[key] = plan.has_times
            case "number":
                found[key] = column.name in facts.context.number_columns
            case "name":
                found[key] = bool(facts.event_types.numbered)
            case "vector":
                pass
            case _:
                assert_never(column.kind)
    return found


def make_report(
    plan: Plan, facts: IngestFacts, manifest: Manifest, folder: Path, dataset_bytes: int, seconds: dict[str, float]
) -> IngestReport:
    bad = next((unit.first_bad for unit in facts.read if unit.first_bad), None)
    split = manifest.split
    cuts = f": validation from {split.valid_from}, test from {split.test_from}" if split.kind == "temporal" else ""
    total = sum(seconds.values())
    return IngestReport(
        title=f"mgray ingest: {plan.source}",
        created=manifest.created,
        command=command_line(),
        path=str(folder),
        fingerprint=manifest.fingerprint,
        rows=manifest.rows,
        users=manifest.users,
        items=manifest.items,
        cold_items=manifest.cold_items,
        events={"train": manifest.train_events, "valid": manifest.valid_events, "test": manifest.test_events},
        first_timestamp=manifest.first_timestamp,
        last_timestamp=manifest.last_timestamp,
        has_times=manifest.has_times,
        dataset_bytes=dataset_bytes,
        log_bytes=sum(source.bytes for source in plan.sources),
        files=len(plan.sources),
        seconds=seconds,
        rows_s=manifest.rows["read"] / max(total, 1e-9),
        quarantined=_quarantine_reasons(plan, facts).most_common(MAX_REASONS),
        first_bad=f"{bad.file}, line {bad.line}: {bad.reason}" if bad else None,
        event_types=list(facts.event_types.events.items()),  # those without a number too
        features=[(feature.name, feature.mean, feature.std) for feature in manifest.features],
        split=split.kind + cuts,
        summary=facts.summary,
    )


def _quarantine_reasons(plan: Plan, facts: IngestFacts) -> Counter[str]:
    """Counts quarantined rows by reason; values are cut out of it, so that equal mistakes count together."""
    reasons: Counter[str] = Counter()
    for unit, staged in zip(plan.units, facts.read, strict=True):
        if staged.bad:
            bad = read_table(plan.staged / unit.key / BAD_ROWS_FILE)["reason"]
            for reason in pc.replace_substring_regex(bad, "'.*'", "'…'").value_counts().to_pylist():
                reasons[reason["values"]] += reason["counts"]
    return reasons


def write_report(path: Path, report: IngestReport, pictures: Pictures) -> None:
    path.write_text(render_ingest(report, pictures), encoding="utf-8")
