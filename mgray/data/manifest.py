"""Manifests of dataset versions and prediction versions. The manifest is written last: it commits the version."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, assert_never

from pydantic import ValidationError

from mgray.errors import InputError
from mgray.record import Record
from mgray.schema import READABLE_VERSIONS, OptionalColumn

MANIFEST_FILE = "manifest.json"
SHORT_KEY_DIGITS = 16
# Fields that differ between two makings of the same version; the fingerprint leaves them out.
UNSEALED = {"created", "staged", "report_file", "forget_unmatched", "fingerprint"}


class SourceFile(Record):
    path: str
    bytes: int
    sha256: str


class Shard(Record):
    file: str  # relative to the manifest's folder, as every file below
    users: int
    events: int
    bytes: int
    sha256: str


class Vocabulary(Record):
    file: str
    items: int
    sha256: str
    mapped_file: str | None = None  # the same table as an Arrow file to map; none in versions of older mgrays


class EventType(Record):
    name: str
    events: int  # of all parts


class Feature(Record):
    """A numeric column, standardized by the moments of the training part."""

    name: str
    mean: float
    std: float


class Split(Record):
    kind: str
    valid_from: float | None  # seconds since 1970; none for leave_one_out
    test_from: float | None


class Manifest(Record):
    """Contents of a dataset version. `rows` keeps the law `read = written + every dropped_* + quarantined`."""

    schema_version: int
    created: str  # ISO 8601, UTC
    mgray_version: str
    ingest_key: str  # digest of what the dataset is made from: source digests, settings, schema version
    config: dict[str, Any]
    sources: list[SourceFile]
    rows: dict[str, int]  # read, written, dropped_RULE of every rule that is on, quarantined
    users: int
    items: int  # of the vocabulary
    cold_items: int = 0  # in the training part, in too few events for the vocabulary
    train_events: int
    valid_events: int
    test_events: int
    first_timestamp: float  # seconds since 1970
    last_timestamp: float
    has_times: bool = True  # else every time is 0, and the order of a history is that of the log
    has_ratings: bool
    has_event_types: bool
    vocabulary: Vocabulary
    cold_items_file: str | None = None
    outside_items_file: str | None = None  # OUTSIDE_SCHEMA; none: every item is in the vocabulary
    event_types: list[EventType] = []  # type number i at index i, by training events; what never trains is not there
    outside_event_types: list[str] = []  # types that never train; their numbers follow those of event_types
    features: list[Feature] = []
    median_history: float = 0.0  # events of a user
    shards: list[Shard]
    short_users: int = 0  # users of the log whom the rules leave too few events to train or be measured on
    short_shards: list[Shard] = []  # their histories, some empty: to be scored, and for nothing else
    quarantine_file: str | None
    split: Split
    staged: list[str] = []  # units of parsed events that the version was made from, for an ingest that appends
    report_file: str | None = None
    forget_unmatched: int | None = None  # ids of the forget list that no row has; none: there is no list
    fingerprint: str  # digest of every field above but UNSEALED ones, so of every byte of the data

    @property
    def version_key(self) -> str:
        return self.ingest_key

    def has(self, column: OptionalColumn) -> bool:
        """Whether the log has values in this event column."""
        match column:
            case "times":
                return self.has_times
            case "ratings":
                return self.has_ratings
            case "event_types":
                return self.has_event_types
            case "features":
                return bool(self.features)
            case _:
                assert_never(column)

    def files(self) -> dict[str, int | None]:
        """Every file of the version, with its bytes where they are on record."""
        given = [self.vocabulary.file, self.vocabulary.mapped_file, self.cold_items_file, self.outside_items_file]
        given += [self.quarantine_file, self.report_file]
        return dict.fromkeys((name for name in given if name), None) | {
            shard.file: shard.bytes for shard in self.all_shards
        }

    @property
    def all_shards(self) -> list[Shard]:
        """Shards that hold every user of the log: those of `shards`, then those of `short_shards`."""
        return [*self.shards, *self.short_shards]

    def result_rows(self) -> dict[str, int]:
        """`rows` for a result line, which also says how many ids to forget were not there."""
        return self.rows | ({} if self.forget_unmatched is None else {"forget_unmatched": self.forget_unmatched})

    def check_conservation(self) -> None:
        lost = self.rows["read"] - sum(count for name, count in self.rows.items() if name != "read")
        assert lost == 0, f"row conservation: {lost} of {self.rows['read']} rows are unaccounted for: {self.rows}"


class PredictionPart(Record):
    file: str  # relative to the manifest's folder
    users: int
    predictions: int  # rows of the file
    users_short: int = 0  # users whom the dataset's rules leave out of training
    users_fallback: int  # no known item: they got the popularity list
    users_empty: int  # nothing left to recommend: they have no row
    bytes: int
    sha256: str


class PredictionModel(Record):
    name: str
    version: str
    run_id: str | None
    weights_sha256: str


class PredictionManifest(Record):
    """Contents of a prediction version: each user's best items, as the parts' rows (PREDICTION_SCHEMA)."""

    schema_version: int
    created: str  # ISO 8601, UTC
    mgray_version: str
    prediction_key: str  # digest of what the lists are made from: model, dataset, settings
    model: PredictionModel
    dataset_path: str
    dataset_fingerprint: str
    settings: dict[str, Any]  # k, remove_seen, blocked_items, blocked_sha256
    rows: dict[str, int]  # users, users_by_history, users_fallback, users_short, users_empty, predictions
    parts: list[PredictionPart]

    @property
    def version_key(self) -> str:
        return self.prediction_key

    def files(self) -> dict[str, int | None]:
        """Every file of the version, with its bytes."""
        return {part.file: part.bytes for part in self.parts}

    def check_conservation(self, users: int) -> None:
        """Every one of the dataset's `users` was scored once, and the counts are the sums of the parts'."""
        for name in ("users", "predictions", "users_short", "users_fallback", "users_empty"):
            total = sum(getattr(part, name) for part in self.parts)
            assert total == self.rows[name], f"row conservation: {name} {self.rows[name]}, in the parts {total}"
        scored = self.rows["users_by_history"] + self.rows["users_fallback"]
        assert scored == users, f"row conservation: {scored} of {users} users have a list by history or by popularity"
        assert self.rows["users"] == users, f"row conservation: {users} users, of whom {self.rows['users']} scored"


def digest(value: Any) -> str:
    """sha256 of a JSON value in one canonical spelling, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(fields: dict[str, Any]) -> Manifest:
    """A manifest with its fingerprint filled in, checked for row conservation."""
    draft = Manifest(**fields, fingerprint="")
    content = draft.model_dump(mode="json", exclude=UNSEALED)
    manifest = draft.model_copy(update={"fingerprint": digest(content)})
    manifest.check_conservation()
    return manifest


def short_key(key: str) -> str:
    """The first 16 digits of a digest: what a version's folder, its lock and its staging folder are named by."""
    return key[:SHORT_KEY_DIGITS]


def commit(manifest: Record, folder: Path) -> None:
    """Write manifest.json in one step: it is there whole, or not at all."""
    draft = folder / f".{MANIFEST_FILE}.{os.getpid()}"
    with draft.open("w") as file:
        file.write(manifest.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / MANIFEST_FILE)


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a committed dataset version. Raises InputError where there is none or it cannot be read."""
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: no {MANIFEST_FILE}, so no committed dataset version; "
            "give the `dataset.path` of an ingest's result line, or run jobs/ingest.py"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path}: not a manifest that this version reads ({error.errors()[0]['msg']}); ingest again"
        ) from error
    if manifest.schema_version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise InputError(f"{path}: schema version {manifest.schema_version}, this mgray reads {readable}; ingest again")
    return manifest


def read_predictions(folder: str | Path) -> PredictionManifest:
    """The manifest of a committed prediction version. Raises InputError where there is none or it cannot be read."""
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {MANIFEST_FILE}, so no committed prediction version; run jobs/predict.py")
    try:
        return PredictionManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path}: not a manifest that this version reads ({error.errors()[0]['msg']}); predict again"
        ) from error
