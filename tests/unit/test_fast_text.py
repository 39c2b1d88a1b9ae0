"""pipelines.ingest.source.fast_text: text that the fast path takes, and text that it leaves to the careful one."""

from pathlib import Path

from mgray.config import ColumnsConfig
from pipelines.ingest.source.fast_text import BOM, read_fast
from pipelines.ingest.source.layouts import read_layout
from pipelines.ingest.source.log_files import Format
from tests.log_rows import WHOLE, as_rows, log_at, read, read_csv


def test_the_drawn_fast_path_is_taken_and_refused(folder: Path) -> None:
    def fast(body: bytes, kind: Format = "csv", head: bytes = b"user_id,item_id,timestamp,unused\n") -> bool:
        file = log_at(folder / "one", kind, head + body)
        return read_fast(body, file, read_layout(file, ColumnsConfig()), "s") is not None

    assert fast(b"u,i,1,\nv,i,2,x\n")
    assert fast(b'"u","i,\n""j""",1,\r\nv,i,2,x\r\n')
    assert fast(b"u,i,1970-01-02,\nv,i,2,x\n")
    assert fast(b"u::i::5::1\n", "dat", b"")
    assert not fast(b'u"v",i,1,\n')
    assert not fast(b"u,i,1,\r")
    assert not fast(b"u,i,1\n")
    assert not fast(b"u,\xc2\xa0,1,\n")  # a no-break space is blank too
    assert not fast(BOM + b"u,i,1,\n")  # Arrow would take a byte order mark out of a row that a range begins with
    assert not fast(b"u,i,1,\xff\n")  # even in a column that no role needs


def test_a_field_of_a_megabyte(tmp_path: Path) -> None:
    long = b"x" * ((1 << 20) + 1)
    data = b'user_id,item_id,timestamp\na,%b,1\nb,"%b\ny",2\nc,y,3\n' % (long, long)
    for range_bytes in (1, WHOLE):
        good, bad = read_csv(tmp_path / "log.csv", data, range_bytes)
        assert not bad
        assert [(user, len(item)) for user, item, *_ in good] == [("a", len(long)), ("b", len(long) + 2), ("c", 1)]


def test_quoted_newlines_across_the_blocks_of_arrows_reader(tmp_path: Path) -> None:
    body = b"".join(b'"u\r\n%d","""%d",%d\r\n' % (number % 97, number % 89, number) for number in range(100_000))
    file = log_at(tmp_path / "log.csv", "csv", b"user_id,item_id,timestamp\r\n" + body)
    layout = read_layout(file, ColumnsConfig())
    assert len(body) > 2 << 20
    assert read_fast(body, file, layout, "s") is not None
    good, bad = read(file, layout)
    assert good == [(f"u\r\n{n % 97}", f'"{n % 89}', float(n), None, None) for n in range(100_000)]
    assert not bad


def test_null_in_columns_of_numbers_stays_on_the_fast_path(folder: Path) -> None:
    data = b"user_id,item_id,timestamp,rating,event_type\nu,i,1,NULL,NULL\nu,j,2,\\N,\\N\nu,k,3,4,view\n"
    file = log_at(folder / "numbers.csv", "csv", data)
    layout = read_layout(file, ColumnsConfig())
    fast = read_fast(data[layout.data_start :], file, layout, "s")
    assert fast is not None
    assert [row[3:5] for row in as_rows([fast]).good] == [(None, None), (None, None), (4.0, "view")]
