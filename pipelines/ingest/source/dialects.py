"""Encodings and separators of text logs: names, guesses from the first lines, conversions."""

import codecs
import csv
import re
from collections.abc import Callable, Sequence

BLANKS = " "  # as a separator: one or more spaces or tabs
SEPARATORS = {
    ",": "','",
    "\t": "a tab",
    ";": "';'",
    "|": "'|'",
    "::": "'::'",
    BLANKS: "blanks",
}  # those that are guessed
QUOTING = (",", ";", "|")  # separators of files that quote as CSV does, whatever their name
SAMPLE_LINES = 100


def shown(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def may_quote(kind: str, separator: str) -> bool:
    """Whether fields may be quoted in text of a format (`Format`) with this separator."""
    if len(separator) > 1 or separator == BLANKS or kind == "tsv":
        return False
    return kind == "csv" or separator in QUOTING


def given_separator(text: str) -> str:
    """A separator as the config spells it: a backslash and a t are a tab, any number of blanks is BLANKS."""
    plain = text.replace("\\t", "\t")
    return BLANKS if not plain.strip(" ") else plain


def marked_encoding(first: bytes) -> str | None:
    """The encoding that a file's byte order mark tells, where the bytes behind it bear it out; None for UTF-8."""
    if first.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    marked = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if marked and b"\0" in first[:1024] else None


def canonical_encoding(name: str | None) -> str | None:
    """Python's name of an encoding; None for UTF-8, which needs no work."""
    found = None if name is None else codecs.lookup(name).name
    return None if found in ("utf-8", "utf-8-sig", "ascii") else found


def is_wide(encoding: str | None) -> bool:
    """Whether newlines or quotes are other bytes than in ASCII: such text is decoded before it is cut."""
    if encoding is None:
        return False
    if encoding.startswith(("iso2022", "utf-7", "hz")):  # whose escapes are made of ASCII's bytes
        return True
    ascii_bytes = bytes(range(128))
    return ascii_bytes.decode(encoding, "replace") != ascii_bytes.decode("ascii")


def transcode(data: bytes, encoding: str | None) -> bytes:
    """Converts bytes to UTF-8. A byte that the encoding does not know stays, and is then invalid UTF-8."""
    if encoding is None or data.isascii():
        return data
    return data.decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape")


def to_tabs(data: bytes, separator: str) -> bytes | None:
    """Converts rows of a separator that is not one byte to rows of tabs; None where a field holds a tab."""
    if separator != BLANKS:
        return None if b"\t" in data else data.replace(separator.encode(), b"\t")
    if re.search(rb"(?m)^ *\t[ \t\r]*$", data):  # tabs alone are a row, and blanks alone are none
        return None
    plain = re.sub(rb"[ \t]+", b"\t", data)
    return re.sub(rb"(?m)^\t|\t(?=\r?$)", b"", plain)


def fields(lines: Sequence[str], separator: str, quoted: bool) -> list[list[str]]:
    """Rows of sampled lines, blank ones left out; none where their quotes or newlines are odd."""
    if quoted:
        try:
            return [row for row in csv.reader(lines, delimiter=separator) if row]
        except csv.Error:
            return []
    rows = (line.rstrip("\r\n") for line in lines)
    return [row.split() if separator == BLANKS else row.split(separator) for row in rows if row.strip(" ")]


def guess(
    lines: Sequence[str], candidates: Sequence[str], quoted: Callable[[str], bool], fits: Callable[[list[str]], bool]
) -> tuple[str | None, str | None]:
    """Guesses the separator -> (one that gives every line the same number of fields, one that does not).

    Either gives more than one field, and a first line that `fits`; None where no separator does, or more than one.
    """
    even: list[str] = []
    uneven: list[str] = []
    for separator in candidates:
        rows = fields(lines, separator, quoted(separator))
        if rows and len(rows[0]) > 1 and fits(rows[0]):
            (even if len({len(row) for row in rows}) == 1 else uneven).append(separator)
    return (
        even[0] if len(even) == 1 else None,
        uneven[0] if len(uneven) == 1 and not even else None,
    )
