"""Granularities: their names, and what each name means."""

import pytest

from mgray.config.granularity import Decay, Kind, Session, Span, Stride, checked, parse


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (4, Stride(4)),
        ("decay:4..400", Decay(4, 400)),
        ("90s", Span(90)),
        ("12h", Span(43_200)),
        ("7d", Span(604_800)),
        ("session:30m", Session(1800)),
        ("session:1.5h", Session(5400)),
    ],
)
def test_each_kind_is_read(value: int | str, kind: Kind) -> None:
    assert parse(value) == kind
    assert checked(value) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "at least 1 event"),
        ("decay:9..2", "the range runs"),
        ("decay:0.5..2", "the range runs"),
        ("0.5s", "at least 1 second"),
        ("session:0m", "at least 1 second"),
        ("weekly", "neither a stride in events"),
        ("7 d", "neither a stride in events"),
        ("session:7", "neither a stride in events"),
        ("-1d", "neither a stride in events"),
    ],
)
def test_anything_else_is_refused(value: int | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(value)
