"""Configuration of the log and the dataset: columns, rules, privacy, split."""

import codecs
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mgray.config.base import MOVIELENS_100K, PSEUDONYM_KEY_VARIABLE, Section


class ColumnsConfig(Section):
    user_id: str = Field("user_id", description="log column that holds the user's id")
    item_id: str = Field("item_id", description="log column that holds the item's id")
    timestamp: str | None = Field(
        "timestamp",
        description="log column that holds the time: seconds since 1970, or ISO 8601; none: the log has no times, and "
        "its order (files by name, then rows) is the order of events",
    )
    rating: str | None = Field(None, description="log column that holds the rating; none: `rating` if the log has it")
    event_type: str | None = Field(
        None, description="log column that holds the kind of event; none: `event_type` if the log has it"
    )
    features: tuple[str, ...] = Field((), max_length=256, description="log columns of numbers, to be standardized")
    timestamp_unit: Literal["s", "ms", "us"] = Field(
        "s", description="unit of timestamps that are numbers; text in ISO 8601 and Parquet's own times need none"
    )
    timestamp_format: str | None = Field(
        None,
        description="format of times that are text or whole numbers, as strptime has it: %Y%m%d, %Y%m%d%H%M%S, "
        "'%d/%m/%Y %H:%M'; without an offset they are UTC; none: as timestamp and timestamp_unit say",
    )
    header: tuple[str, ...] | None = Field(
        None, min_length=2, description="names of the columns of a text log without a header line, in order"
    )

    separator: str | None = Field(
        None,
        min_length=1,
        description="what separates the columns of a text log: one character or more (\\t is a tab), or a blank for "
        "one or more spaces or tabs; none: what its name says, or guessed from its first lines where only one fits",
    )
    encoding: str | None = Field(
        None,
        description="encoding of a text log, such as latin-1, cp1252 or utf-16; none: UTF-8, or what its byte order "
        "mark says",
    )
    format: Literal["csv", "tsv", "jsonl", "parquet", "text"] | None = Field(
        None,
        description="what the files of the log are, whatever their names; text: columns by separator; none: as the "
        "names say",
    )
    rows: Literal["events", "histories"] | None = Field(
        None,
        description="histories: a row is a user with a list of items, oldest first (in Parquet and JSON a list, or a "
        "list of structs; in text a line of user, item, item, ..., which has no times); none: histories where the "
        "column of items is a list, else events",
    )

    @field_validator("separator")
    @classmethod
    def _separator_is_no_line(cls, text: str | None) -> str | None:
        if text is not None and re.search(r"[\r\n\"]", text):
            raise ValueError("a newline or a quote separates no columns; give what stands between two fields")
        return text

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str | None) -> str | None:
        try:
            if name is not None and not codecs.lookup(name)._is_text_encoding:
                raise LookupError
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"unknown encoding {name!r}; give a name that Python knows, such as latin-1, cp1252 or utf-16"
            ) from error
        return name

    @model_validator(mode="after")
    def _features_are_distinct(self) -> "ColumnsConfig":
        if len(set(self.features)) < len(self.features):
            raise ValueError("features names a column twice")
        return self

    @model_validator(mode="after")
    def _ids_and_time_are_distinct(self) -> "ColumnsConfig":
        roles: dict[str, str] = {}
        for role in ("user_id", "item_id", "timestamp"):
            name = getattr(self, role)
            other = role if name is None else roles.setdefault(name, role)
            if other != role:
                raise ValueError(f"{other} and {role} name one column, {getattr(self, role)!r}; give each its own")
        return self


class CleanConfig(Section):
    """Rules that drop events, in this order; each has its count in the manifest as rows.dropped_RULE."""

    min_timestamp: float | None = Field(None, description="events before it are dropped, seconds since 1970; none: off")
    max_timestamp: float | None = Field(None, description="events after it are dropped, seconds since 1970; none: off")
    min_rating: float | None = Field(None, description="events rated lower are dropped; none: off")
    max_rating: float | None = Field(None, description="events rated higher are dropped; none: off")
    duplicates: bool = Field(
        True,
        description="of events equal in every column the first stays; off in a log without times, where a repeat "
        "cannot be told from a copy",
    )
    max_user_events_per_day: int | None = Field(
        None, ge=1, description="users with more events than this within any 24 hours are dropped as bots; none: off"
    )
    repeat_window_s: float | None = Field(
        None,
        gt=0,
        description="an event on an item that its user had within this many seconds before is dropped; none: off",
    )
    min_item_events: int = Field(
        1,
        ge=1,
        description="items with fewer events are dropped, and with data.min_user_events for users this repeats until "
        "nothing changes (the k-core)",
    )

    @model_validator(mode="after")
    def _bounds_leave_something(self) -> "CleanConfig":
        for name in ("timestamp", "rating"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name} ({low}) must not be above max_{name} ({high}): no event is left")
        return self


class PrivacyConfig(Section):
    pseudonymize: bool = Field(
        False, description=f"user ids become HMAC-SHA-256 under the key of ${PSEUDONYM_KEY_VARIABLE} or of key_file"
    )
    key_file: str | None = Field(
        None, description="file that holds that key, its whole content without the last newline"
    )
    forget: str | None = Field(
        None,
        description="text file of user ids, one a line, as the log spells them (white space, quotes and .0 aside): "
        "their events are dropped unread; ids that match no user are told",
    )


def _no_empty_path(source: str | tuple[str, ...]) -> str | tuple[str, ...]:
    # an empty path is the working folder to the operating system
    if "" in ((source,) if isinstance(source, str) else source):
        raise ValueError("an empty path; give a log's, or . for the working folder")
    return source


class DataConfig(Section):
    source: Annotated[str | tuple[str, ...], AfterValidator(_no_empty_path)] = Field(
        MOVIELENS_100K,
        description="raw log: a file of text with columns, JSON Lines or Parquet, a folder, a glob, or a list of "
        f"these, on a mounted disk, s3:// or gs://; or `{MOVIELENS_100K}`",
    )
    items: str | None = Field(
        None,
        description="CSV, TSV, JSON Lines or Parquet of item titles (item_id, title); none: item ids stand for titles",
    )
    dataset: str | None = Field(
        None, description="a committed dataset version (folder with manifest.json) to use instead of data.source"
    )
    out: str | None = Field(None, description="folder that holds dataset versions; none: HOME/datasets")
    columns: ColumnsConfig = ColumnsConfig()
    clean: CleanConfig = CleanConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    min_user_events: int = Field(
        3,
        ge=1,
        description="users with fewer events neither train nor are measured, events; jobs/predict.py scores them too",
    )
    min_item_count: int = Field(
        1, ge=1, description="items with fewer training events stay out of the vocabulary, as cold items, events"
    )
    max_quarantined_share: float = Field(
        0.0, ge=0.0, le=1.0, description="largest share of unreadable rows that ingest sets aside instead of failing"
    )
    split: Literal["leave_one_out", "temporal", "random"] = Field(
        "leave_one_out",
        description="leave_one_out: last event tests, last but one validates (of two events the last one tests, a "
        "single one trains); temporal: global cut times; random: 80% "
        "of the events train, 10% validate, 10% test (for ratings)",
    )
    valid_from: float | None = Field(
        None, description="temporal split: validation starts here, seconds since 1970; none: the 80% quantile"
    )
    test_from: float | None = Field(
        None, description="temporal split: test starts here, seconds since 1970; none: the 90% quantile"
    )
    num_shards: int | None = Field(
        None, ge=1, le=65_535, description="Parquet shards of the dataset; none: by the size of the log, at least 4"
    )
    keep_staged: bool = Field(
        True, description="keep the log's parsed events beside the versions, so that --append reads new files only"
    )

    @property
    def is_named(self) -> bool:
        """Whether a log or a dataset was asked for, be it the default one."""
        return self.dataset is not None or "source" in self.model_fields_set

    @model_validator(mode="after")
    def _cuts_belong_to_the_temporal_split(self) -> "DataConfig":
        if self.split != "temporal" and (self.valid_from is not None or self.test_from is not None):
            raise ValueError("valid_from and test_from need split: temporal")
        if self.valid_from is not None and self.test_from is not None and self.valid_from >= self.test_from:
            raise ValueError(f"valid_from ({self.valid_from}) must be before test_from ({self.test_from})")
        return self
