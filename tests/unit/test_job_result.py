"""A job's result as a record: what was never set has no key in the line."""

import pytest
from pydantic import ValidationError

from pipelines.runtime.result import DatasetLabel, JobResult, VersionLabel


class Result(JobResult):
    model: VersionLabel | None
    dataset: DatasetLabel | None = None
    rows: dict[str, int] = {}


def test_the_line_has_what_was_set_and_nothing_else() -> None:
    result = Result(model=None)
    assert result.line() == {"model": None}
    more = result.more(dataset=DatasetLabel(path="d", fingerprint="f"), rows={"read": 3})
    assert more.line() == {"model": None, "dataset": {"path": "d", "fingerprint": "f"}, "rows": {"read": 3}}
    assert result.line() == {"model": None}


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="reports"):
        Result(model=None).more(reports="r")
