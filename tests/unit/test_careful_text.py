"""pipelines.ingest.source.careful_text: rows that cannot be read are set aside, each with its line and reason."""

import gzip
from pathlib import Path

from mgray.config import ColumnsConfig, DataConfig
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.resolve import resolve
from pipelines.ingest.source.rows import TORN
from tests.log_rows import log_at, read, read_csv


def test_one_bad_row_in_a_large_block_changes_no_other(tmp_path: Path) -> None:
    rows = [b"u%d,i%d,%d" % (number % 97, number % 89, number) for number in range(200_000)]
    good = read_csv(tmp_path / "log.csv", b"user_id,item_id,timestamp\n" + b"\n".join(rows))
    assert len(good.good) == 200_000
    assert not good.bad
    rows[150_000] = b"u,i,soon"
    found = read_csv(tmp_path / "log.csv", b"user_id,item_id,timestamp\n" + b"\n".join(rows))
    reason = "timestamp 'soon' is neither seconds since 1970 nor ISO 8601"
    assert found.bad == [(150_002, reason, "u,i,soon")]  # the header is line 1, row 0 is line 2
    assert found.good == good.good[:150_000] + good.good[150_001:]


def test_an_open_quote_in_a_compressed_file_is_soon_told(tmp_path: Path) -> None:
    rows = b"".join(b"u,i,%d\n" % number for number in range(50_000))
    data = gzip.compress(b'user_id,item_id,timestamp\na,"x,1\n' + rows, 1)
    file = log_at(tmp_path / "log.csv.gz", "csv", data, "gzip")
    good, bad = read(file, read_layout(file, ColumnsConfig()))
    assert not good
    assert {reason for _, reason, _ in bad} == {TORN}
    assert [line for line, _, _ in bad] == list(range(2, 50_003)), "every line from the quote on"


def test_ratings_beyond_float32_are_no_numbers(tmp_path: Path) -> None:
    data = b"user_id,item_id,timestamp,rating\na,x,1,3.4e38\na,y,2,3.5e38\na,z,3,-1e300\n"
    good, bad = read_csv(tmp_path / "log.csv", data)
    assert [row[3] for row in good] == [3.4e38]
    assert [(line, reason) for line, reason, _ in bad] == [
        (3, "rating '3.5e38' is not a number"),
        (4, "rating '-1e300' is not a number"),
    ]


def test_stray_quotes_do_not_hide_the_lines_between_them(tmp_path: Path) -> None:
    lines = [f"u{number},i1,{number}" for number in range(1000)]
    lines[10], lines[900] = 'u10,5" disk,10', 'u900,12" vinyl,900'
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    config = DataConfig(source=str(path))
    (file,) = resolve(config, tmp_path).files
    rows = read(file, read_layout(file, config.columns))
    assert len(rows.good) == 109
    assert [line for line, _, _ in rows.bad] == list(range(12, 903)), "the lines of both quotes and all between"


def test_what_stands_for_no_value_in_every_column(folder: Path) -> None:
    """Blank, NULL and \\N alike; null, nan and None are text, and are told where they are no number."""
    head = "user_id,item_id,timestamp,rating,event_type,score\n"
    rows = ["u,i,1,2,view,3"]
    for none in ("", " ", "NULL", "\\N", " NULL", "null", "nan", "None"):
        rows += [f"{none},i,1,2,view,3", f"u,{none},1,2,view,3", f"u,i,{none},2,view,3", f"u,i,1,{none},view,3"]
        rows += [f"u,i,1,2,{none},3", f"u,i,1,2,view,{none}"]
    found = read_csv(folder / "none.csv", (head + "\n".join(rows)).encode(), features=("score",))
    reasons = {line: reason for line, reason, _ in found.bad}
    assert [reasons[line] for line in range(3, 33, 6)] == ["user_id is empty"] * 5
    assert [reasons[line] for line in range(4, 34, 6)] == ["item_id is empty"] * 5
    assert [reasons[line] for line in range(5, 35, 6)] == ["timestamp is empty"] * 5
    assert len(found.good) == 1 + 3 * 5 + 3 * 3
    nothing = [("u", "i", 1.0, None, "view", 3.0), ("u", "i", 1.0, 2.0, None, 3.0), ("u", "i", 1.0, 2.0, "view", None)]
    assert found.good[1:16] == nothing * 5
    for place, text in enumerate(("null", "nan", "None")):
        own = [("u" if n else text, text if n else "i", 1.0, 2.0, "view", 3.0) for n in range(2)]
        assert found.good[16 + 3 * place : 19 + 3 * place] == [*own, ("u", "i", 1.0, 2.0, text, 3.0)]
        lines = range(35 + 6 * place, 39 + 6 * place)
        assert [reasons.get(line) for line in lines] == [
            f"timestamp '{text}' is neither seconds since 1970 nor ISO 8601",
            f"rating '{text}' is not a number",
            None,
            f"score '{text}' is not a number",
        ]
