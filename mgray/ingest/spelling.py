r"""The rule of ids: how an id is spelled, from whatever log, list or request and in whatever format it comes.

- An id is text without the white space around it (Unicode's: a no-break space too).
- A number whose fraction is zeros alone is the whole number: `123.0` and `123.00` are `123`, and `-0` is `0`.
- A typed number (a float or decimal column, a number of JSON) that is not whole is in its shortest form, without an
  exponent: a decimal 12.50 is `12.5`. A UUID is its 36 characters in lower case.
- Any other text stays as it is: `007`, `1e3`, `12.50`, `+7`, `nan`, `None`, `null`, `NA`, capital letters.
- Blank text, a typed null or NaN, and the texts `NULL` and `\N`, as dumps of databases write a null, are no id.

A log's row without a user or an item is set aside with its reason and counted. In the other event columns (rating,
event_type, features, ...), blank text, `NULL` and `\N` are no value; a row needs a timestamp.
`mgray.ingest.parse.id_text` is the same rule for whole columns.
"""

import math
import numbers
import re
from decimal import Decimal
from typing import Any

ID_RULE = 2  # the rule's version (1: text as it was spelled); what was parsed by another version is parsed again
EXACT = 2**53
NO_VALUE = ("NULL", r"\N")
# What Unicode calls white space. str.strip() without it also takes the separators U+001C to U+001F.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
WHOLE = r"^-?[0-9]+\.0+$"  # for polars, where $ matches at the end of the text only
# Numbers in an unusual spelling: such an id may name the same thing as the id in the usual one.
_NUMBER, _EXPONENT = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)", r"(?:[eE][+-]?[0-9]{1,2})"
ODD_NUMBER = (
    rf"^(?:\+{_NUMBER}{_EXPONENT}?|-?0[0-9]+(?:\.[0-9]*)?{_EXPONENT}?|-?{_NUMBER}{_EXPONENT}|-?[0-9]*\.[0-9]*0"
    r"|-?[0-9]+\.|-?\.[0-9]+)$"
)

_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
_LINE_END = re.compile(r"\r\n|\n|\r")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)


def id_spelling(value: Any) -> str | None:
    """Spells a value as an id by the rule of ids; None: no id. `id_spelling(id_spelling(x)) == id_spelling(x)`."""
    if isinstance(value, str):
        return _text(value)
    if value is None:
        return None
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's too
        return "true" if value else "false"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    return _number(value) if isinstance(value, (numbers.Real, Decimal)) else _text(str(value))


def _number(value: Any) -> str | None:
    if math.isnan(value):
        return None
    if not math.isfinite(value):
        return str(value)
    is_exact = abs(value) < EXACT and value == int(value)  # whole, and no two whole numbers are one float
    return str(int(value)) if is_exact else _text(positional(str(value)))


def _text(value: str) -> str | None:
    if value.isalnum():  # most ids, at once
        return None if value in NO_VALUE else value
    text = value.strip(WHITE_SPACE)
    whole = _WHOLE.fullmatch(text)
    text = whole[1] if whole else text
    return None if not text or text in NO_VALUE else "0" if text == "-0" else text


def is_no_value(text: str) -> bool:
    """Whether the text of a field stands for no value: blank, `NULL` or `\\N`."""
    return text.strip(WHITE_SPACE) in ("", *NO_VALUE)


def positional(number: str) -> str:
    """A number's digits without an exponent and without zeros at the end of its fraction."""
    text = format(Decimal(number), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain_number(text: str) -> str:
    """The usual spelling of an ODD_NUMBER: `007` is `7`, `1e3` is `1000`, `12.50` is `12.5`."""
    found = positional(text)
    return "0" if found == "-0" else found


def id_lines(text: str) -> list[str]:
    """The distinct ids (sorted) of a text file, one a line, as an editor or a spreadsheet writes it.

    The quotes that CSV puts around a field are taken off, and what they double is one.
    """
    found = set()
    for line in _LINE_END.split(text.removeprefix("\ufeff")):
        quoted = _QUOTED.fullmatch(line.strip(WHITE_SPACE))
        found.add(id_spelling(quoted[1].replace('""', '"') if quoted else line))
    return sorted(spelled for spelled in found if spelled is not None)
