"""Parses a log's raw columns into typed events, and finds the times at which a temporal split cuts.

Every function takes whole columns and returns whole columns; none reads a file, and none loops over rows in Python.
Legend: `E` events. Timestamps are seconds since 1970-01-01 UTC throughout.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.compute as pc

from mgray.errors import InputError
from mgray.ingest.spelling import EXACT, NO_VALUE, WHOLE, positional
from mgray.schema import FEATURE, ITEM_ID, NUMBER_COLUMNS, OPTION_COLUMNS, TIMESTAMP, USER_ID, EventColumn

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}  # in a second
# The largest distance of a time from 1970: the end of the year 9999, the last that ISO 8601's four digits and Python's
# datetime can write. Milliseconds (of 1978 and later) that are taken for seconds lie beyond it.
MAX_TIME_S = 253_402_300_800.0

# Formats of dates that a log may write as numbers, each with its smallest and largest number (1990 to 2100).
DATE_FORMATS = {"%Y%m%d": (19900101, 21001231), "%Y%m%d%H%M%S": (19900101000000, 21001231235959)}

_MONTH_S = 31 * 86_400.0
_FORMATS = "give it as strptime has it, such as %Y%m%d, %Y%m%d%H%M%S or '%d/%m/%Y %H:%M'"
_ISO_FORMAT = "%Y-%m-%dT%H:%M:%S%.f%:z"
_GIVEN = "given:"  # + a role: whether a row has text or a number there, among the typed columns


class Parsed(NamedTuple):
    events: pl.DataFrame  # [E] user_id, item_id, columns of names: text; timestamp, numbers, features: Float64
    bad: pl.DataFrame  # rows set aside: line, reason, raw (QUARANTINE_SCHEMA without the file)


def id_text(column: pl.Series) -> pl.Series:
    """Spells ids as text by the rule of `mgray.ingest.spelling`; null: no id."""
    kind = column.dtype
    if kind.is_integer():
        return column.cast(pl.String)
    if kind.is_float():
        integral = column.is_finite() & (column == column.round()) & (column.abs() < EXACT)
        whole = column.cast(pl.Int64, strict=False).cast(pl.String)
        text = pl.select(pl.when(integral).then(whole).otherwise(column.fill_nan(None).cast(pl.String))).to_series()
        odd = text.str.contains(r"e|\.0$").fill_null(False)
        if odd.any():
            text = text.scatter(odd.arg_true(), [positional(number) for number in text.filter(odd)])
        return text.alias(column.name)
    text = column.cast(pl.String)
    if isinstance(kind, pl.Decimal):
        return text.str.replace(r"^(-?[0-9]+(?:\.[0-9]*[1-9])?)\.?0*$", "${1}") if kind.scale else text
    text = text.str.strip_chars()
    if text.filter(text.str.ends_with("0")).str.contains(".", literal=True).any():
        whole = text.str.strip_chars_end("0").str.strip_suffix(".")
        text = pl.select(pl.when(text.str.contains(WHOLE)).then(whole).otherwise(text)).to_series()
    odd = is_none(text) | (text == "-0")
    if odd.any():
        text = pl.select(pl.when(text == "-0").then(pl.lit("0")).when(~odd).then(text)).to_series()
    return text.alias(column.name)


def is_none(text: pl.Series) -> pl.Series:
    """Whether text, stripped of white space, stands for no value; null for null."""
    return text.is_in(["", *NO_VALUE])


def epoch_seconds(column: pl.Series, unit: str = "s", form: str | None = None) -> pl.Series:
    """Reads times as float64 seconds since 1970 UTC: numbers, dates, or text that is a number or ISO 8601.

    unit: what numbers count, a key of UNITS. form: a format of strptime, by which text and whole numbers are read
    instead. A time without an offset is UTC. What cannot be read, is not finite, or is beyond MAX_TIME_S, is null.
    """
    if _is_moment(column):
        seconds = _typed_seconds(column)
    elif form is not None:
        seconds = _formed_seconds(column, form)
    elif column.dtype.is_numeric():
        seconds = _divide(column, UNITS[unit])
    else:
        text = column.cast(pl.String).str.strip_chars()
        seconds = _divide(text.cast(pl.Float64, strict=False), UNITS[unit])
        if seconds.null_count() > text.null_count():
            seconds = seconds.fill_null(_iso_seconds(text))
    # NaN fails too: polars takes it for larger than any number
    return pl.select(pl.when(seconds.abs() < MAX_TIME_S).then(seconds).alias(column.name)).to_series()


def check_time_format(form: str) -> None:
    """Raises InputError where times written in this format cannot be read back."""
    if "%Z" in form:
        raise InputError(
            f"data.columns.timestamp_format: {form!r} has %Z, the name of a zone, which tells no offset; use %z, or "
            "cut it off"
        )
    moment = pl.Series([datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)])
    try:
        found = _formed_seconds(moment.dt.strftime(_chrono(form)), form)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"data.columns.timestamp_format: {form!r} is no format of times ({reason}); {_FORMATS}"
        ) from error
    if found.null_count() or abs(found[0] - moment[0].timestamp()) > _MONTH_S:
        raise InputError(f"data.columns.timestamp_format: {form!r} does not say what day it is; {_FORMATS}")


def _chrono(form: str) -> str:
    """Translates a format of Python's strptime to one of polars."""
    return form.replace(".%f", "%.f")


def _formed_seconds(column: pl.Series, form: str) -> pl.Series:
    """Reads times of a format as float64 seconds; null where a text is not of it. A year of %Y has four digits."""
    text = column.cast(pl.String).str.strip_chars().str.replace(r"^(\d+)\.0+$", "${1}")
    width = _digits(form)
    if width is not None:  # a number has lost its leading zeros, and the digits left would be read as others
        text = text.str.zfill(width)
    parsed = text.str.to_datetime(_chrono(form), strict=False, time_unit="us")
    if "%Y" in form:  # polars reads a year of two digits as one of the first century
        parsed = pl.select(pl.when(parsed.dt.year() >= 1000).then(parsed)).to_series()
    return _divide(parsed.dt.timestamp("us"), 1e6)


def _digits(form: str) -> int | None:
    """How many digits a time of this format has; None where it has other characters."""
    shown = datetime(2001, 2, 3, 4, 5, 6).strftime(form)
    return len(shown) if shown.isdigit() and "%f" not in form else None


def date_format(column: pl.Series) -> str | None:
    """Finds the format of DATE_FORMATS that all numbers of a column have; None where one has another form.

    Numbers up to 0 stand for no date and do not count. A column of real seconds does not look like dates throughout:
    20191001 seconds are 1970-08-22.
    """
    numbers = _numbers(column).drop_nulls().drop_nans()
    numbers = numbers.filter(numbers > 0)
    if not len(numbers):
        return None
    for form, (first, last) in DATE_FORMATS.items():
        if first <= numbers.min() and numbers.max() <= last and (numbers == numbers.round()).all():  # type: ignore[operator]
            dates = numbers.cast(pl.Int64).cast(pl.String).str.to_datetime(form, strict=False)
            return None if dates.null_count() else form
    return None


def finer_unit(column: pl.Series, unit: str = "s") -> pl.Series:
    """Names the finer unit ("ms", "us" or "ns") in which a time beyond MAX_TIME_S would be within it.

    "" where no unit helps, which holds for dates; null for what is no time, and for a time within MAX_TIME_S.
    """
    if _is_moment(column):
        return pl.select(pl.when(_typed_seconds(column).abs() >= MAX_TIME_S).then(pl.lit(""))).to_series()
    size = _numbers(column).abs() / MAX_TIME_S
    finer = [(name, scale) for name, scale in (*UNITS.items(), ("ns", 1e9)) if scale > UNITS[unit]]
    fits = [pl.when(size < scale).then(pl.lit(name)) for name, scale in finer]
    far = (size >= UNITS[unit]) & size.is_finite()
    return pl.select(pl.when(far).then(pl.coalesce(*fits, pl.lit(""))).alias(column.name)).to_series()


def _is_moment(column: pl.Series) -> bool:
    return column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime)


def _typed_seconds(column: pl.Series) -> pl.Series:
    """Float64 seconds of dates and moments. polars' own casts of far ones end in a panic or wrap around."""
    if column.dtype == pl.Date:
        return column.to_physical().cast(pl.Float64) * 86_400.0
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "ms":
        return _divide(column.to_physical(), 1e3)
    return _divide(column.cast(pl.Datetime("us")).dt.timestamp("us"), 1e6)


def _iso_seconds(text: pl.Series) -> pl.Series:
    """Reads text in any spelling of ISO 8601, by first bringing each to one: `T` between, seconds, an offset."""
    spelled = (
        text.str.to_uppercase()
        .str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T")
        .str.replace(r"^(\d{4}-\d\d-\d\d)$", "${1}T00:00:00")
        .str.replace(r"\s*(Z|UTC|GMT)$", "+00:00")
        .str.replace(r"\s+([+-]\d\d:?\d\d)(\+00:00)?$", "${1}")  # Go writes "+0000 UTC"
        .str.replace(r"(T\d\d:\d\d)($|[+-])", "${1}:00${2}")
        .str.replace(r"(T.*[+-]\d\d)$", "${1}:00")  # PostgreSQL writes an offset of whole hours so
    )
    has_offset = spelled.str.contains(r"T.*[+-]\d\d:?\d\d$")
    spelled = pl.select(pl.when(has_offset).then(spelled).otherwise(spelled + "+00:00")).to_series()
    return _divide(spelled.str.to_datetime(_ISO_FORMAT, strict=False, time_unit="us").dt.timestamp("us"), 1e6)


def _divide(column: pl.Series, by: float) -> pl.Series:
    """Divides to float64 by Arrow: polars multiplies by 1 / by, and may differ in the last bit from the fast reader."""
    numbers = column.cast(pl.Float64)
    return numbers if by == 1 else pl.Series(column.name, pc.divide(numbers.to_arrow(), by))


def _numbers(column: pl.Series) -> pl.Series:
    """Float64 of a column of numbers or of text; null where a text is no number."""
    given = column if column.dtype.is_numeric() else column.cast(pl.String).str.strip_chars()
    return given.cast(pl.Float64, strict=False)


def parse_events(rows: pl.DataFrame, unit: str = "s", form: str | None = None) -> Parsed:
    """Parses raw columns into typed events, and sets aside the rows that cannot be read with their reasons.

    `rows` [E]: `line` Int64; user_id, item_id, timestamp and, where the log has them, the roles of OPTION_COLUMNS and
    "feature:NAME", each text or typed; optionally `problem` (text: what the reader found wrong, else null) and `raw`
    (the row as the log spells it; without it, the row's JSON). unit, form: see `epoch_seconds`. No row is lost:
    len(events) + len(bad) == E.
    """
    if "problem" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, pl.String).alias("problem"))
    finer = finer_unit(rows[TIMESTAMP], unit)
    if form is not None and not _is_moment(rows[TIMESTAMP]):  # its numbers are dates, not seconds
        finer = _nulls(rows.height)
    if _is_moment(rows[TIMESTAMP]) and finer.count():  # as numbers, since no calendar can spell them
        rows, unit = rows.with_columns(_typed_seconds(rows[TIMESTAMP]).alias(TIMESTAMP)), "s"
    features = [name for name in rows.columns if name.startswith(FEATURE)]
    typed = _typed_columns(rows, features, unit, form)
    checks: list[pl.Series | pl.Expr] = [
        rows["problem"],
        *_id_reasons(),
        *_time_reasons(rows[TIMESTAMP], finer, unit, form),
        *_number_reasons(rows, features),
    ]
    reason = typed.select(pl.coalesce(*checks).alias("reason")).to_series()
    good = reason.is_null()
    parsed = typed.filter(good).drop(_GIVEN + column.role for column in NUMBER_COLUMNS)
    return Parsed(parsed, _set_aside(rows, reason, features))


def _nulls(count: int) -> pl.Series:
    """Text [count], all null."""
    return pl.repeat(None, count, dtype=pl.String, eager=True)


def _stripped(column: pl.Series) -> pl.Series:
    return column.cast(pl.String).str.strip_chars()


def _typed_columns(rows: pl.DataFrame, features: list[str], unit: str, form: str | None) -> pl.DataFrame:
    """The columns of `Parsed.events`, null where a value cannot be read; for each of numbers also `_GIVEN`."""
    return pl.DataFrame(
        {
            USER_ID: id_text(rows[USER_ID]),
            ITEM_ID: id_text(rows[ITEM_ID]),
            TIMESTAMP: epoch_seconds(rows[TIMESTAMP], unit, form),
            **{column.role: _typed(column, _column(rows, column.role)) for column in OPTION_COLUMNS},
            **{
                _GIVEN + column.role: ~is_none(_stripped(_column(rows, column.role))).fill_null(True)
                for column in NUMBER_COLUMNS
            },
            **{name: _numbers(rows[name]).fill_nan(None) for name in features},
        }
    )


def _column(rows: pl.DataFrame, role: str) -> pl.Series:
    """The raw column of a role; nulls where the log has none."""
    return rows[role] if role in rows.columns else _nulls(rows.height)


def _typed(column: EventColumn, given: pl.Series) -> pl.Series:
    """The values of an event column of OPTION_COLUMNS; null: none, or unreadable."""
    if column.kind == "number":
        return _numbers(given)
    text = given.cast(pl.String)
    return pl.select(pl.when(~is_none(text.str.strip_chars())).then(text)).to_series()


def _id_reasons() -> list[pl.Expr]:
    """Reasons why ids cannot be read, over the typed columns; null: nothing."""
    empty = ((USER_ID, "user_id is empty"), (ITEM_ID, "item_id is empty"))
    return [pl.when(pl.col(name).is_null()).then(pl.lit(reason)) for name, reason in empty]


def _time_reasons(times: pl.Series, finer: pl.Series, unit: str, form: str | None) -> list[pl.Expr]:
    """Reasons why times cannot be read, over the typed columns; null: nothing. finer: see `finer_unit`."""
    given = times.cast(pl.String)
    far = pl.format(f"timestamp '{{}}' in {unit} is further from 1970 than the year 9999", given)
    looks = pl.format("timestamp '{}' looks like {}: see data.columns.timestamp_unit", given, finer)
    unreadable = (
        pl.format("timestamp '{}' is neither seconds since 1970 nor ISO 8601", given)
        if form is None
        else pl.format("timestamp '{}' is not of the format {}", given, pl.lit(form))
    )
    is_empty = is_none(given.str.strip_chars()).fill_null(True)
    return [
        pl.when(finer == "").then(far).when(finer.is_not_null()).then(looks),
        pl.when(pl.col(TIMESTAMP).is_null()).then(
            pl.when(is_empty).then(pl.lit("timestamp is empty")).otherwise(unreadable)
        ),
    ]


def _number_reasons(rows: pl.DataFrame, features: list[str]) -> list[pl.Expr]:
    """Reasons why numbers and features cannot be read, over the typed columns; null: nothing."""
    reasons: list[pl.Expr] = []
    for column in NUMBER_COLUMNS:
        stored = pl.Series(np.empty(0, column.dtype)).dtype  # in histories, where a number must be finite too
        is_wrong = pl.col(_GIVEN + column.role) & ~pl.col(column.role).cast(stored).is_finite().fill_null(False)
        text = _stripped(_column(rows, column.role))
        reasons.append(pl.when(is_wrong).then(pl.format(f"{column.role} '{{}}' is not a number", text)))
    for name in features:
        text = _stripped(rows[name])
        is_wrong = ~is_none(text).fill_null(True) & ~pl.col(name).is_finite().fill_null(False)
        reasons.append(pl.when(is_wrong).then(pl.format(f"{name.removeprefix(FEATURE)} '{{}}' is not a number", text)))
    return reasons


def _set_aside(rows: pl.DataFrame, reason: pl.Series, features: list[str]) -> pl.DataFrame:
    """The rows with a reason, in the form of `Parsed.bad`."""
    bad = rows.filter(reason.is_not_null()).with_columns(reason.drop_nulls())
    if "raw" not in bad.columns:
        optional = (column.role for column in OPTION_COLUMNS)
        given = [name for name in (USER_ID, ITEM_ID, TIMESTAMP, *optional, *features) if name in bad.columns]
        bad = bad.with_columns(pl.struct(given).struct.json_encode().alias("raw"))
    return bad.select("line", "reason", pl.col("raw").fill_null(""))


def temporal_cuts(
    times: Sequence[npt.NDArray[np.float64]], valid_from: float | None = None, test_from: float | None = None
) -> tuple[float, float]:
    """The two times at which a temporal split cuts, seconds since 1970: those given, else the 80% and 90% quantiles.

    times: sorted arrays, which may be memory maps: only a few values of each are read. The q-quantile of n events is
    the timestamp at index floor(q * n) of the sorted log, so that in a log of distinct times exactly that share of the
    events lies before it.
    """
    times = [part for part in times if len(part)]
    total = sum(len(part) for part in times)

    def quantile(tenths: int) -> float:
        wanted = total * tenths // 10
        # Bisection over the bit patterns of floats: once negative ones are flipped, they have the order of the floats.
        low, high = _ordered(min(part[0] for part in times)), _ordered(max(part[-1] for part in times))
        while low < high:
            middle = (low + high) // 2
            if sum(int(np.searchsorted(part, _float(middle), side="right")) for part in times) > wanted:
                high = middle
            else:
                low = middle + 1
        return _float(low)

    return (
        quantile(8) if valid_from is None else valid_from,
        quantile(9) if test_from is None else test_from,
    )


def _ordered(value: float) -> int:
    bits = int(np.float64(value + 0.0).view(np.int64))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFFFFFFFFFF)


def _float(ordered: int) -> float:
    value = np.int64(abs(ordered)).view(np.float64)
    return float(value if ordered >= 0 else -value)
