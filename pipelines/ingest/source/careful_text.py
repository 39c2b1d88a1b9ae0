"""Reads blocks of text row by row, and names the line and the reason of each row that cannot be read."""

import numpy as np
import polars as pl
import pyarrow as pa

from mgray.schema import ITEM_ID, USER_ID
from pipelines.ingest.source import nested
from pipelines.ingest.source.blocks import Block, parse_block, with_bad
from pipelines.ingest.source.layouts import Layout
from pipelines.ingest.source.log_files import LogFile
from pipelines.ingest.source.rows import json_columns, json_ids, separated_columns, split_fields, split_rows


def read_careful(data: bytes, file: LogFile, layout: Layout, first_line: int, unit: str) -> Block:
    rows = split_rows(data, first_line, layout.has_quoting(file), layout.encoding or "UTF-8")
    if layout.is_histories:
        return _read_histories(rows, file, layout, unit)
    if file.format == "jsonl":
        rows = json_columns(rows, layout.columns)
    else:
        separator, quoted = layout.dialect(file)
        rows = separated_columns(rows, separator, layout.header, layout.columns, quoted)
    return parse_block(rows, layout, unit)


def _read_histories(rows: pl.DataFrame, file: LogFile, layout: Layout, unit: str) -> Block:
    """Reads text whose rows are users with lists of items."""
    roles = layout.columns
    if file.format == "jsonl":
        columns, reasons = nested.json_histories(rows, roles)
    else:
        users, items, reasons = nested.text_histories(split_fields(rows["raw"], layout.dialect(file)[0]))
        columns = {roles[USER_ID]: users, roles[ITEM_ID]: items}
        problems = rows["problem"]
        reasons |= {row: problems[row] for row in problems.is_not_null().arg_true().to_list()}
    good = np.ones(rows.height, bool)
    good[list(reasons)] = False
    found = nested.explode(columns, roles[ITEM_ID], rows.height, roles)
    keep = pa.array(good[found.row])
    lines = rows["line"].to_numpy()
    values = {role: found.columns[name].filter(keep) for role, name in roles.items()}
    events = pl.DataFrame(pl.from_arrow(pa.table({"line": lines[found.row[good[found.row]]], **values})))
    block = parse_block(events.with_columns(json_ids(events)) if file.format == "jsonl" else events, layout, unit)
    reasons = found.reasons | reasons
    return with_bad(block, lines, reasons, [rows["raw"][row] for row in reasons])
