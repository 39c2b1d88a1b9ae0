"""Reads small tables of items: their titles, and lists of their ids."""

from pathlib import Path

import polars as pl

from mgray.errors import InputError
from mgray.features import id_text
from mgray.schema import ITEM_ID


def read_titles(path: Path) -> pl.DataFrame:
    """item_id, title (both text) of a CSV, TSV or Parquet file, or of MovieLens' u.item, movies.dat and movies.csv,
    or RecBole's ml-100k.item. Raises InputError where it cannot be read."""
    try:
        known = _known_titles(path)
        if known is not None:
            return known
        table = _read_table(path)
        if table is None:
            raise InputError(
                f"--data.items {path}: unsupported extension {path.suffix!r}; supported: .csv, .tsv, .parquet"
            )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"--data.items {path}: not readable ({error}); mend the file") from error
    if ITEM_ID not in table.columns and "movieId" in table.columns:
        table = table.rename({"movieId": ITEM_ID})
    if not {ITEM_ID, "title"} <= set(table.columns):
        raise InputError(
            f"--data.items {path}: needs the columns item_id and title; columns found: {', '.join(table.columns)}"
        )
    return pl.DataFrame({ITEM_ID: id_text(table[ITEM_ID]), "title": table["title"].cast(pl.String)}).drop_nulls(ITEM_ID)


def _read_table(path: Path) -> pl.DataFrame | None:
    """A small table of the user's, or None where its extension is none of .csv, .tsv, .parquet."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path, hive_partitioning=False)
    if path.suffix in (".csv", ".tsv"):
        return pl.read_csv(path, separator="," if path.suffix == ".csv" else "\t", infer_schema=False)
    return None


def read_item_ids(path: Path, option: str) -> list[str]:
    """The distinct item ids (text, sorted) of a text file, one a line, or of a table's column item_id.

    Raises InputError, naming `option`, where the file cannot be read.
    """
    try:
        table = _read_table(path)
        if table is None:
            lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
            return sorted({line for line in lines if line})
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{option} {path}: not readable ({reason}); give a text file of item ids, one a line, or a CSV, TSV or "
            "Parquet file with the column item_id"
        ) from error
    if ITEM_ID not in table.columns:
        raise InputError(f"{option} {path}: no column item_id; columns found: {', '.join(table.columns)}")
    return sorted(id_text(table[ITEM_ID]).drop_nulls().unique().to_list())


def _known_titles(path: Path) -> pl.DataFrame | None:
    """item_id, title (both text) of u.item, ml-100k.item or movies.dat; None of any other file.

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
