"""Tables that are mapped: a column is a sequence of texts and stays in Arrow; numbers are views of the file."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from mgray.data.mapped import TextColumn, number_view, read_mapped, text_array, write_mapped

TABLE = pa.table({"id": pa.array(["a", "bc", ""], pa.large_string()), "count": [3, 2, 1]})


def test_a_mapped_table_is_what_was_written_and_copies_no_number(tmp_path: Path) -> None:
    whole = pa.concat_tables([TABLE] * 10_000)  # 80 kB of counts
    write_mapped(whole, tmp_path / "t.arrow")
    before = pa.total_allocated_bytes()
    read = read_mapped(tmp_path / "t.arrow")
    counts = number_view(read, "count")
    assert pa.total_allocated_bytes() - before < 10_000
    assert not counts.flags.owndata
    assert counts.tolist() == [3, 2, 1] * 10_000
    assert read.equals(whole)
    (tmp_path / "t.arrow").unlink()
    assert TextColumn(read["id"])[-3:] == ["a", "bc", ""], "a file that is gone stays mapped"


def test_a_column_is_a_sequence_of_texts() -> None:
    column = TextColumn(TABLE["id"], pa.array(["d"], pa.large_string()))
    assert column == ["a", "bc", "", "d"]
    assert column != ["a", "bc", "", "e"]
    assert column != ["a"]
    assert (len(column), column[1], column[-1], column[1:], column[::-2]) == (
        4,
        "bc",
        "d",
        ["bc", "", "d"],
        ["d", "bc"],
    )
    assert column.take(np.array([3, 0])) == ["d", "a"]
    assert text_array(column).to_pylist() == list(column) == ["a", "bc", "", "d"]


def test_another_text_stands_for_none() -> None:
    ids = TextColumn(TABLE["id"])
    titles = TextColumn(pa.array([None, "B", ""], pa.large_string()), instead=TextColumn.of(["x", "y", "z"]))
    assert titles == ["x", "B", "z"]
    assert (titles[0], titles[1:], titles.to_arrow().to_pylist()) == ("x", ["B", "z"], ["x", "B", "z"])
    assert TextColumn.of(ids) is ids
