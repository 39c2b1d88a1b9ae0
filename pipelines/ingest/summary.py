"""What an ingest made, for its manifest and for people."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mgray import __version__
from mgray.data.manifest import Manifest, seal
from mgray.report.ingest_report import IngestReport, IngestSummary, Pictures, render_ingest
from mgray.schema import SCHEMA_VERSION
from pipelines.ingest.plan import Plan
from pipelines.ingest.tasks import TIME_BINS, IngestJob, Result
from pipelines.runtime.redact import command_line

REPORT_FILE = "report.html"
OUTSIDE_ITEMS_FILE = "outside_items.parquet"
RULES = ("forgotten", "timestamps", "ratings", "duplicates", "bots", "repeats", "rare_items", "short_users")
MAX_REASONS, POPULARITY_POINTS = 10, 200


def event_type_names(read: list[dict[str, Any]]) -> list[str]:
    """Of what the units hold: the name of each event type of the log, at its code."""
    return sorted({name for result in read for name in result["event_types"]})


def event_type_counts(names: list[str], finish: list[Result], key: str) -> dict[str, int]:
    """Events of each type over all buckets. names: by code; key: of a bucket's counts by code."""
    counts = np.zeros(len(names), np.int64)
    for result in finish:
        counts[: len(result[key])] += np.asarray(result[key], np.int64)
    return dict(zip(names, counts.tolist(), strict=True))


def _median(lengths: Counter[int]) -> float:
    ordered = sorted(lengths)
    ends = np.cumsum([lengths[length] for length in ordered])
    middle = [
        ordered[int(np.searchsorted(ends, place, side="right"))] for place in ((ends[-1] - 1) // 2, ends[-1] // 2)
    ]
    return sum(middle) / 2


def make_summary(job: IngestJob, finish: list[Result], vocabulary: dict[str, Any], written: int) -> IngestSummary:
    """The shape of what `pipelines.ingest.job` built. finish: what each bucket's histories are."""
    lengths: Counter[int] = Counter()
    for result in finish:
        lengths.update(dict(zip(*result["lengths"], strict=True)))
    by_length = [0] * (max(lengths).bit_length())
    for length, users in lengths.items():
        by_length[length.bit_length() - 1] += users
    counts = vocabulary["by_count"]
    share = np.cumsum(counts) / max(1, counts.sum())
    ranks = np.unique(np.geomspace(1, max(1, len(share)), POPULARITY_POINTS).astype(int))
    first, last = job.times
    moves = last > first
    return IngestSummary(
        time_edges=np.linspace(first, max(last, first + 1e-9), TIME_BINS + 1).tolist() if moves else [first, first + 1],
        events_by_time=np.sum([r["by_time"] for r in finish], axis=0).tolist() if moves else [written],
        history_lengths=by_length,
        median_history=_median(lengths),
        top_items=[(str(name), int(count)) for name, count in vocabulary["top"]],
        popularity=[(int(rank), float(min(1.0, share[rank - 1]))) for rank in ranks] if len(share) else [],
    )


def seal_version(plan: Plan, facts: dict[str, Any]) -> Manifest:
    """The manifest of what `pipelines.ingest.job` built."""
    job, rows = facts["job"], facts["rows"]
    order = ["read", "written", *(f"dropped_{rule}" for rule in RULES), "quarantined"]
    vocabulary, events_of = facts["vocabulary"], facts["events_of_types"]
    return seal(
        {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "mgray_version": __version__,
            "ingest_key": plan.key,
            "config": plan.settings,
            "sources": plan.sources,
            "rows": {name: rows[name] for name in order if name in rows},
            "users": facts["users"],
            "items": vocabulary["items"],
            "cold_items": vocabulary["cold_items"],
            "train_events": facts["events"][0],
            "valid_events": facts["events"][1],
            "test_events": facts["events"][2],
            "first_timestamp": facts["times"][0],
            "last_timestamp": facts["times"][1],
            "has_times": plan.has_times,
            "has_ratings": job.has_ratings,
            "has_event_types": bool(facts["event_types"]),
            "vocabulary": {
                "file": "vocabulary.parquet",
                "items": vocabulary["items"],
                "sha256": vocabulary["sha256"],
            },
            "cold_items_file": "cold_items.parquet" if vocabulary["cold_items"] else None,
            "outside_items_file": OUTSIDE_ITEMS_FILE if job.has_outside_items else None,
            "outside_event_types": facts["outside_event_types"],
            "event_types": [{"name": name, "events": events_of[name]} for name in facts["event_types"]],
            "features": [
                {"name": name, "mean": mean, "std": std}
                for name, (mean, std) in zip(job.layers.features, job.features, strict=True)
            ],
            "median_history": facts["summary"].median_history,
            "shards": facts["shards"],
            "short_users": facts["short_users"],
            "short_shards": facts["short_shards"],
            "quarantine_file": facts["quarantine_file"],
            "split": {"kind": job.rules.split, "valid_from": job.rules.valid_from, "test_from": job.rules.test_from},
            "staged": [unit.key for unit in plan.units],
            "report_file": REPORT_FILE,
            "forget_unmatched": facts["forget_unmatched"],
        }
    )


def make_report(
    plan: Plan, facts: dict[str, Any], manifest: Manifest, folder: Path, dataset_bytes: int, seconds: dict[str, float]
) -> IngestReport:
    reasons: Counter[str] = Counter()
    for unit, result in zip(plan.units, facts["read"], strict=True):
        if result["bad"]:
            with pa.memory_map(str(plan.staged / unit.key / "bad.arrow")) as source:
                kinds = pc.replace_substring_regex(pa.ipc.open_file(source).read_all()["reason"], "'.*'", "'…'")
                for reason in kinds.value_counts().to_pylist():  # without the values, so that the counts say something
                    reasons[reason["values"]] += reason["counts"]
    bad = next((result["first_bad"] for result in facts["read"] if result["bad"]), None)
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
        log_bytes=sum(record["bytes"] for record in plan.sources),
        files=len(plan.sources),
        seconds=seconds,
        rows_s=manifest.rows["read"] / max(total, 1e-9),
        quarantined=reasons.most_common(MAX_REASONS),
        first_bad=f"{bad['file']}, line {bad['line']}: {bad['reason']}" if bad else None,
        event_types=list(facts["events_of_types"].items()),  # those without a number too
        features=[(feature.name, feature.mean, feature.std) for feature in manifest.features],
        split=split.kind + cuts,
        summary=facts["summary"],
    )


def write_report(path: Path, report: IngestReport, pictures: Pictures) -> None:
    path.write_text(render_ingest(report, pictures), encoding="utf-8")
