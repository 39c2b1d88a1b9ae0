"""mgray.ingest.spelling: the rule of ids, value by value; and the columns of mgray.ingest.parse by the same rule."""

import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mgray.ingest.parse import id_text
from mgray.ingest.spelling import ODD_NUMBER, WHITE_SPACE, id_lines, id_spelling, is_no_value, plain_number

SPELLED: list[tuple[Any, str | None]] = [
    ("7", "7"),
    ("7 ", "7"),
    ("\t7\r\n", "7"),
    ("\u00a07\u2003", "7"),
    ("7.0", "7"),
    (" 7.000\t", "7"),
    ("-7.0", "-7"),
    ("-0", "0"),
    ("-0.0", "0"),
    ("007.0", "007"),
    ("100.0", "100"),
    ("123456789012345678901234567890.0", "123456789012345678901234567890"),
    ("7.", "7."),
    ("7.01", "7.01"),
    ("7.50", "7.50"),
    ("+7.0", "+7.0"),
    (".0", ".0"),
    ("a.0", "a.0"),
    ("1.2.0", "1.2.0"),
    ("7.0 x", "7.0 x"),
    ("\u0667.0", "\u0667.0"),  # a digit, but none of 0 to 9
    ("007", "007"),
    ("1e3", "1e3"),
    ("a b", "a b"),
    ("A", "A"),
    ("\x1c", "\x1c"),  # no white space of Unicode's, though of Python's
    ("", None),
    (" \t\u00a0", None),
    ("NULL", None),
    (" NULL ", None),
    ("\\N", None),
    ("null", "null"),
    ("Null", "Null"),
    ("nan", "nan"),
    ("NaN", "NaN"),
    ("None", "None"),
    ("NA", "NA"),
    ("\\n", "\\n"),
    (None, None),
    (7, "7"),
    (-7, "-7"),
    (0, "0"),
    (2**64, "18446744073709551616"),
    (7.0, "7"),
    (-0.0, "0"),
    (12.5, "12.5"),
    (1e22, "10000000000000000000000"),
    (1e-7, "0.0000001"),
    (float("nan"), None),
    (float("inf"), "inf"),
    (True, "true"),
    (np.int32(7), "7"),
    (np.float32(0.1), "0.1"),
    (np.float64(7), "7"),
    (np.str_("7.0"), "7"),
    (np.bool_(False), "false"),
    (Decimal("7.00"), "7"),
    (Decimal("12.50"), "12.5"),
    (Decimal("1E+3"), "1000"),
    (Decimal("0.000"), "0"),
    (Decimal("NaN"), None),
    (Decimal("1234567890123456789012345678901234567890.10"), "1234567890123456789012345678901234567890.1"),
    (uuid.UUID(int=255), "00000000-0000-0000-0000-0000000000ff"),
]


@pytest.mark.parametrize(("value", "wanted"), SPELLED, ids=lambda value: repr(value)[:40])
def test_the_rule_value_by_value(value: Any, wanted: str | None) -> None:
    assert id_spelling(value) == wanted
    assert wanted is None or id_spelling(wanted) == wanted


def test_columns_are_spelled_by_the_same_rule() -> None:
    texts = [value for value, _ in SPELLED if type(value) is str]
    assert id_text(pl.Series(texts)).to_list() == [id_spelling(text) for text in texts]
    for kind in (pl.Float64, pl.Float32):
        numbers = pl.Series([7.0, -0.0, 12.5, 1e22, 1e-7, 0.1, 2.0**53, 123456.0, None, float("nan")], dtype=kind)
        values = [np.float32(x) if kind == pl.Float32 and x is not None else x for x in numbers]
        assert id_text(numbers).to_list() == [id_spelling(value) for value in values]
    decimals = [Decimal("7.00"), Decimal("12.50"), Decimal("0.00"), Decimal("-0.50"), Decimal("100.00"), None]
    assert id_text(pl.Series(decimals, dtype=pl.Decimal(20, 2))).to_list() == ["7", "12.5", "0", "-0.5", "100", None]
    assert id_text(pl.Series([Decimal(100), Decimal(-7)], dtype=pl.Decimal(20, 0))).to_list() == ["100", "-7"]


def test_white_space_is_what_polars_takes_for_it() -> None:
    every = pl.Series([chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000])
    assert "".join(sorted(every.filter(every.str.strip_chars() == ""))) == "".join(sorted(WHITE_SPACE))


texts = st.text(
    st.sampled_from("017.-+eEN\\UL a\t\u00a0\x1c\u0667") | st.characters(exclude_categories=["Cs"]), max_size=8
)
numbers = st.from_regex(r"\A\s?[+-]?[0-9]{0,3}(\.[0-9]{0,3})?([eE][+-]?[0-9]{1,2})?\s?\Z")


@settings(max_examples=300, deadline=None)
@given(st.lists(texts | numbers, max_size=8))
@example(["-00.0", "00.0", "NULL.0", "\\N\x1c"])
def test_text_one_by_one_and_in_columns_alike(values: list[str]) -> None:
    found = id_text(pl.Series(values, dtype=pl.String)).to_list()
    assert found == [id_spelling(value) for value in values]
    assert [id_spelling(value) for value in found] == found, "an id is its own spelling"


@settings(max_examples=200, deadline=None)
@given(st.floats() | st.floats(width=32).map(np.float32) | st.integers(-(10**25), 10**25).map(float))
def test_a_number_is_one_id_whatever_type_it_has(value: float) -> None:
    kind = pl.Float32 if isinstance(value, np.float32) else pl.Float64
    assert id_text(pl.Series([value], dtype=kind)).to_list() == [id_spelling(value)]
    if np.isfinite(value):
        assert id_spelling(Decimal(str(value))) == id_spelling(value) or kind == pl.Float32
        if value == int(value) and abs(value) < 2**53:
            assert id_spelling(value) == id_spelling(int(value)) == id_spelling(f"{int(value)}.00")


def test_odd_numbers_and_their_usual_spelling() -> None:
    usual = [
        "0",
        "7",
        "-7",
        "10",
        "12.5",
        "-0.5",
        "1000",
        "a",
        "007a",
        "7e",
        "e3",
        "12e4567",
        "1.2.3",
        "",
        "+",
        ".",
        "-",
    ]
    odd = {"007": "7", "+7": "7", "1e3": "1000", "12.50": "12.5", "-007": "-7", "7.": "7", ".5": "0.5", "00": "0"}
    odd |= {"1E+3": "1000", "5e-1": "0.5", "+0": "0", "0.10": "0.1", "-.5": "-0.5", "-0e1": "0", "+12.0": "12"}
    series = pl.Series([*usual, *odd])
    assert series.filter(series.str.contains(ODD_NUMBER)).to_list() == list(odd)
    assert {text: plain_number(text) for text in odd} == odd


@pytest.mark.parametrize(
    "line",
    ["7", "7 ", "7\t", " 7", "7.0", '"7"', '"7.0"', ' "7" ', '" 7"', "7\r", "\u00a07"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_ids_as_editors_and_spreadsheets_write_them(line: str, end: str) -> None:
    assert id_lines(f"\ufeff{line}{end}{end}a{end}") == ["7", "a"]
    assert id_lines(f"a{end}{line}") == ["7", "a"]


def test_quotes_within_lines_of_ids() -> None:
    assert id_lines('"a""b"\n"c,d"\n"""7"""\n"e"f"\n"\n""\nNULL\n" "\n') == ['"', '"7"', '"e"f"', 'a"b', "c,d"]


def test_fields_without_a_value() -> None:
    assert [is_no_value(text) for text in ("", " ", "NULL", "\\N", "\tNULL", "null", "nan", "0")] == [True] * 5 + [
        False
    ] * 3
