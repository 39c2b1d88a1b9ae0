"""Reads small tables of items: their titles, and lists of their ids. Ids are spelled by the rule of
mgray.ingest.spelling.
"""

import gzip
import io
import zlib
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mgray.errors import InputError
from mgray.ingest.parse import id_text
from mgray.ingest.spelling import id_lines
from mgray.schema import ITEM_ID
from pipelines.ingest.source.arrow_types import readable

TABLES = ".csv, .tsv, .jsonl, .ndjson (each also .gz, .zst), .parquet"
_READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowException, pl.exceptions.PolarsError)
_MOVIE_ID = "movieId"  # MovieLens' movies.csv


def read_titles(path: Path) -> pl.DataFrame:
    """Reads item_id and title (both text) from a file: CSV, TSV, JSON Lines or Parquet, or one of MovieLens (u.item,
    movies.dat, movies.csv) or RecBole (ml-100k.item). Raises InputError where it cannot be read."""
    try:
        table = _known_titles(path)
        if table is None:
            table = _read_table(path, (ITEM_ID, _MOVIE_ID, "title"))
        if table is None:
            raise InputError(f"--data.items {path}: unsupported extension {path.suffix!r}; supported: {TABLES}")
        if ITEM_ID not in table.columns and _MOVIE_ID in table.columns:
            table = table.rename({_MOVIE_ID: ITEM_ID})
        if not {ITEM_ID, "title"} <= set(table.columns):
            found = ", ".join(table.columns) or "none"
            raise InputError(f"--data.items {path}: needs the columns item_id and title; columns found: {found}")
        titles = pl.DataFrame({ITEM_ID: id_text(table[ITEM_ID]), "title": table["title"].cast(pl.String)})
    except _READ_ERRORS as error:
        raise InputError(f"--data.items {path}: not readable ({error}); mend the file") from error
    return titles.drop_nulls(ITEM_ID)


def _read_table(path: Path, keys: tuple[str, ...]) -> pl.DataFrame | None:
    """Reads a small table, None where its extension is none of TABLES. keys: the columns that are needed.

    Raises one of _READ_ERRORS.
    """
    plain, packing = path.name.lower(), None
    for suffix, name in ((".gz", "gzip"), (".zst", "zstd"), (".zstd", "zstd")):
        if plain.endswith(suffix):
            plain, packing = plain.removesuffix(suffix), name
    kind = Path(plain).suffix
    if kind == ".parquet" and packing is None:
        names = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in names if name in keys], partitioning=None)
        frame = pl.DataFrame({name: pl.from_arrow(readable(table[name])) for name in table.column_names})
        return frame.with_columns(pl.lit(None).alias(name) for name in names if name not in keys)  # not read
    if kind not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        return None
    data = path.read_bytes()
    if packing == "gzip":
        data = gzip.decompress(data)
    elif packing == "zstd":
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            data = stream.read()
    if kind in (".csv", ".tsv"):
        return pl.read_csv(io.BytesIO(data), separator="," if kind == ".csv" else "\t", infer_schema=False)
    raw = pl.Series("raw", [line for line in data.decode("utf-8-sig").split("\n") if line.strip()], dtype=pl.String)
    found = {key: raw.str.json_path_match(f"$['{key}']") for key in keys}
    return pl.DataFrame({key: column for key, column in found.items() if column.count()})


def read_item_ids(path: Path, option: str) -> list[str]:
    """Reads the distinct item ids (text, sorted) of a text file, one a line, or of a table's column item_id.

    Raises InputError, naming `option`, where the file cannot be read.
    """
    try:
        table = _read_table(path, (ITEM_ID,))
        if table is None:
            return id_lines(path.read_text(encoding="utf-8-sig"))
        if ITEM_ID not in table.columns:
            found = ", ".join(table.columns) or "none"
            raise InputError(f"{option} {path}: no column item_id; columns found: {found}")
        return sorted(id_text(table[ITEM_ID]).drop_nulls().unique().to_list())
    except _READ_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{option} {path}: not readable ({reason}); give a text file of item ids, one a line, or a CSV, TSV, "
            "JSON Lines or Parquet file with the column item_id"
        ) from error


def _known_titles(path: Path) -> pl.DataFrame | None:
    """Reads item_id and title (both text) of u.item, ml-100k.item or movies.dat; None for any other file.

    Raises OSError, UnicodeDecodeError or PolarsError where it is not readable.
    """
    if path.name == "u.item":
        # one field of a title may hold anything but a pipe, quotes too
        table = pl.read_csv(
            path, separator="|", has_header=False, quote_char=None, encoding="latin-1", infer_schema=False
        )
        return table.select(pl.nth(0).alias(ITEM_ID), pl.nth(1).alias("title"))
    if path.name == "ml-100k.item":
        table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
        year = pl.col("release_year:token")
        title = pl.col("movie_title:token_seq")
        dated = pl.when(year.str.contains(r"^\d{4}$")).then(pl.format("{} ({})", title, year)).otherwise(title)
        return table.select(pl.col("item_id:token").alias(ITEM_ID), dated.alias("title"))
    if path.name == "movies.dat":
        data = path.read_bytes()
        try:
            text = data.decode()  # MovieLens-10M's
        except UnicodeDecodeError:
            text = data.decode("latin-1")  # MovieLens-1M's
        rows = [line.split("::") for line in text.replace("\r\n", "\n").split("\n") if line]
        # a title may hold :: itself, the id before it and the genres after it do not
        titles = ["::".join(row[1:-1]) if len(row) > 2 else None for row in rows]
        return pl.DataFrame(
            {ITEM_ID: [row[0] for row in rows], "title": titles}, schema={ITEM_ID: pl.String, "title": pl.String}
        )
    return None
