"""The ingest's report: figures that a reader can derive, the law of its rows, and whatever a log may hold."""

import io
import math
import re
from html.parser import HTMLParser
from typing import Any

import matplotlib
import pytest
from pydantic import ValidationError
from rich.console import Console

from mgray.report.ingest_plots import compact, percent, share_at, top_shares
from mgray.report.ingest_report import (
    IngestReport,
    IngestSummary,
    draw_ingest,
    duration,
    file_size,
    ingest_table,
    render_ingest,
    when,
)

DAY_S = 86400.0
EVIL = "<script>alert('x')</script>\"onload=\"y $x_1$ \x1b[2J[red]"


def fields(**changes: Any) -> dict[str, Any]:
    """1,000 rows: 10 duplicates, 85 of short users, 5 unreadable; 900 events of 20 users on 50 items in 3 days."""
    summary = {
        "time_edges": [0.0, DAY_S, 2 * DAY_S, 3 * DAY_S],
        "events_by_time": [400, 300, 200],
        "history_lengths": [0, 0, 0, 0, 5, 12, 3],  # 16-31, 32-63, 64-127 events
        "median_history": 40.5,
        "top_items": [("Fargo", 120), ("Heat", 60)],
        "popularity": [(1, 0.2), (2, 0.3), (10, 0.7), (50, 1.0)],
    }
    whole: dict[str, Any] = {
        "title": "Ingest of a log",
        "created": "2026-01-02T03:04:05Z",
        "command": "python jobs/ingest.py --data.source log.csv",
        "path": "/data/datasets/0123456789abcdef",
        "fingerprint": "ab" * 32,
        "rows": {
            "read": 1000,
            "written": 900,
            "dropped_duplicates": 10,
            "dropped_short_users": 85,
            "dropped_bots": 0,
            "quarantined": 5,
        },
        "users": 20,
        "items": 50,
        "cold_items": 7,
        "events": {"train": 860, "valid": 20, "test": 20},
        "first_timestamp": 0.0,
        "last_timestamp": 3 * DAY_S - 1,
        "dataset_bytes": 250_000,
        "log_bytes": 1_000_000,
        "files": 2,
        "seconds": {"scan": 0.5, "read": 1.0, "write": 0.5},
        "rows_s": 500.0,
        "quarantined": [("user_id is empty", 3), ("rating 'x' is not a number", 2)],
        "first_bad": "log.csv, line 12: user_id is empty",
        "event_types": [("view", 700), ("buy", 200)],
        "features": [("price", 2.5, 0.5), ("flag", 1.0, 0.0)],
        "split": "leave_one_out",
        "summary": summary,
    }
    return whole | changes


def report(**changes: Any) -> IngestReport:
    return IngestReport.model_validate(fields(**changes))


def page(data: IngestReport) -> str:
    return render_ingest(data, draw_ingest(data.summary, data.rows))


def with_summary(**changes: Any) -> dict[str, Any]:
    return {"summary": fields()["summary"] | changes}


SMALLEST: dict[str, Any] = {
    "rows": {"read": 3, "written": 3},
    "users": 1,
    "items": 1,
    "cold_items": 0,
    "events": {"train": 1, "valid": 1, "test": 1},
    "last_timestamp": 0.0,
    "log_bytes": 0,
    "seconds": {},
    "quarantined": [],
    "first_bad": None,
    "event_types": [],
    "features": [],
    "summary": {
        "time_edges": [0.0, 0.0],
        "events_by_time": [3],
        "history_lengths": [0, 1],
        "median_history": 3,
        "top_items": [("a", 1)],
        "popularity": [(1, 1.0)],
    },
}


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


def printed(data: IngestReport, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=colour, color_system="standard" if colour else None)
    console.print(ingest_table(data))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---- laws -----


def test_every_row_read_is_accounted_for() -> None:
    with pytest.raises(ValidationError, match="1 of 1001 rows are unaccounted for"):
        report(rows=fields()["rows"] | {"read": 1001})
    with pytest.raises(ValidationError, match="RULE"):
        report(rows={"read": 900, "written": 899, "lost": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": {"train": 860, "valid": 20, "test": 19}}, "events adds up to 899, written are 900"),
        (with_summary(events_by_time=[400, 300, 201]), "events_by_time adds up to 901"),
        (with_summary(history_lengths=[0, 21]), "history_lengths adds up to 21, there are 20 users"),
        (with_summary(time_edges=[0.0, 1.0, 2.0]), "one more than"),
        (with_summary(time_edges=[0.0, 2.0, 1.0, 3.0]), "time_edges rises"),
        (with_summary(popularity=[(2, 0.1), (2, 0.2)]), "the ranks rise"),
        (with_summary(popularity=[(rank, 1.0) for rank in range(1, 202)]), "at most 200"),
        (with_summary(top_items=[("a", 1)] * 21), "at most 20"),
        ({"users": -1}, "greater than or equal to 0"),
        ({"usrs": 1}, "Extra inputs"),
        ({"rows_s": math.inf}, "finite"),
    ],
)
def test_figures_that_contradict_each_other_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        report(**changes)


def test_what_was_left_out_is_in_the_order_of_the_rules() -> None:
    assert report().left_out == [
        ("duplicates", 10),
        ("users with too few events", 85),
        ("users taken for bots", 0),
        ("quarantined", 5),
    ]


def test_it_travels_as_json() -> None:
    data = report(features=[("price", math.nan, 1.0)])
    assert page(IngestReport.model_validate_json(data.model_dump_json())) == page(data)


# ---- figures -----


def test_share_of_the_popular_items() -> None:
    popularity = [(1, 0.2), (2, 0.3), (10, 0.7), (50, 1.0)]
    assert [share_at(popularity, rank) for rank in (1, 2, 10, 50)] == [0.2, 0.3, 0.7, 1.0]
    assert share_at(popularity, 6) == pytest.approx(0.5)  # half way from 2 to 10
    # 1% of 50 items is less than one; 10% are 5: 0.3 + 0.4 * 3/8
    assert top_shares(popularity) == [(0.1, 5, pytest.approx(0.45))]
    assert top_shares([(1, 1.0)]) == top_shares([]) == []


def test_numbers_as_text() -> None:
    numbers = (0, 0.5, 12_345, 999_900, 1_500_000, 999_960_000, 2e9, 3e15)
    assert [compact(number) for number in numbers] == ["0", "0.5", "12,345", "999,900", "1.5M", "1B", "2B", "3,000T"]
    assert [file_size(size) for size in (0, 999, 1000, 999_960, 12_345_678, 10**16)] == [
        *("0 B", "999 B", "1.0 kB", "1.0 MB", "12.3 MB", "10,000.0 TB")
    ]
    assert [duration(seconds) for seconds in (0, 0.5, 1, 60, 12_600, 214 * DAY_S, 4e8)] == [
        *("0 seconds", "0.5 seconds", "1 second", "1 minute", "3.5 hours", "214 days", "12.7 years")
    ]
    assert [when(0.0), when(874724710.0, False), when(-DAY_S)] == ["1970-01-01 00:00", "1997-09-20", "1969-12-31 00:00"]
    assert when(1e15) == "1e+15 s"


def test_a_share_is_all_or_nothing_only_where_it_is() -> None:
    shares = [percent(part, 1_000_000) for part in (0, 1, 123_400, 999_999, 1_000_000)]
    assert shares == ["0%", "<0.01%", "12.34%", ">99.99%", "100%"]
    assert percent(3, 2) == "150.00%"
    assert percent(0, 0) == "0%"


def test_the_page_shows_the_figures() -> None:
    text = text_of(page(report()))
    for expected in (
        "900 of 1,000 rows read were written (90.00%): events of 20 users on 50 items, from 1970-01-01 to 1970-01-03 .",
        "train 95.56%, valid 2.22%, test 2.22%",  # 860, 20 and 20 of 900
        "7 cold",
        "10.00% of those read; 5 unreadable",
        "250.0 kB from 1.0 MB of log in 2 files",
        "500 2 seconds in all",
        "a bar is 1 day",
        "median 40.5",
        "the top 10% of the items (5) have 45%",
        "85 (8.50%)",
        "dropped: users taken for bots 0 0%",
        "log.csv, line 12: user_id is empty",
        "view 700 77.78%",
        "price 2.5 0.5",
        "flag 1 0 (constant)",
        "read 1.00 50%",
    ):
        assert expected in text


def test_the_table_shows_the_figures_in_columns() -> None:
    lines = [line.split() for line in printed(report()).splitlines()]
    for expected in (
        "rows read 1,000 of read",
        "dropped: duplicates 10 1.00%",
        "dropped: users with too few events 85 8.50%",
        "dropped: users taken for bots 0 0%",
        "quarantined 5 0.50%",
        "written 900 90.00%",
        "users 20 median history 40.5",
        "items 50 and 7 cold",
        "events: train 860 95.56%",
        "log 1.0 MB 2 files",
        "dataset 250.0 kB 25.00% of the log",
        "seconds: read 1.00",
        "seconds 2.00 500 rows/s",
    ):
        assert expected.split() in lines
    numbers = [re.search(r"(?<= )[\d,.]+( [kM]?B)?(?= |$)", line[38:]) for line in printed(report()).splitlines()]
    assert len({match.end() for match in numbers if match}) == 1, "the figures end in one column"


@pytest.mark.parametrize("colour", [False, True])
def test_the_table_fits_80_columns_and_obeys_no_text(colour: bool) -> None:
    rows = {"read": 10**12 + 900, "written": 900, f"dropped_{EVIL * 3}": 10**12, "quarantined": 0}
    text = printed(report(rows=rows, cold_items=10**12, seconds={EVIL: 1e7}, rows_s=1e9, log_bytes=10**18), colour)
    assert "\x1b[2J" not in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in plain.splitlines()) <= 80
    assert "1,000,000,000,900" in plain
    assert "10,000,000.00" in plain


# ---- page -----


def test_nothing_dropped_is_said() -> None:
    html = page(report(rows={"read": 900, "written": 900, "dropped_duplicates": 0}, quarantined=[]))
    assert "Nothing was dropped" in html
    assert html.count("<svg") == 2  # time, and users and items
    assert "Nothing was dropped" not in page(report())
    assert page(report()).count("<svg") == 3


def test_the_page_requests_nothing_and_runs_nothing() -> None:
    html = page(report())
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!["']?\#)""", html) == []  # only ids of this very page
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'" in html


def test_every_text_is_escaped() -> None:
    html = page(
        report(
            **dict.fromkeys(("title", "created", "command", "path", "fingerprint", "first_bad", "split"), EVIL),
            rows={"read": 1000, "written": 900, f"dropped_{EVIL}": 100},
            events={EVIL: 900},
            seconds={EVIL: 1.0},
            quarantined=[(EVIL, 1)],
            event_types=[(EVIL, 900)],
            features=[(EVIL, 0.0, 1.0)],
            **with_summary(top_items=[(EVIL, 3)]),
        )
    )
    tags: list[tuple[str, str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.extend((tag, name) for name, _ in [("", None), *attrs])

    Reader().feed(html)
    assert len(tags) > 100
    assert [(tag, name) for tag, name in tags if tag == "script" or name.startswith("on")] == []
    assert html.count("&lt;script&gt;") >= 15


def test_long_and_foreign_titles_stay_within_the_page() -> None:
    titles = [("مرحبا " * 4000, 2), ("\u202eevil", 1), ("映画 🎬", 1)]
    html = page(report(**with_summary(top_items=titles)))
    assert len(html) < len(page(report())) + 5000
    assert "<bdi" in html, "a right-to-left title turns no other text"
    html.encode("utf-8")


def test_rare_event_types_are_summed() -> None:
    types = [(f"type {number}", 50) for number in range(17)] + [("most", 50)]
    assert "6 more 300 33.33%" in text_of(page(report(event_types=types)))  # 18 types, 12 shown


def test_reasons_that_are_not_listed_are_summed() -> None:
    assert "other reasons" not in page(report())  # 3 + 2 are the 5 quarantined
    assert "user_id is empty 3 other reasons 2" in text_of(page(report(quarantined=[("user_id is empty", 3)])))


@pytest.mark.parametrize(
    "changes",
    [
        SMALLEST,
        with_summary(popularity=[], top_items=[]),
        with_summary(top_items=[("a", 0)]),
        with_summary(popularity=[(1, 0.0), (2, 0.0)]),
        with_summary(median_history=0),
        with_summary(history_lengths=[0] * 5 + [19] + [0] * 30 + [1]),
        with_summary(time_edges=[1e15, 2e15, 3e15, 4e15]),  # microseconds taken for seconds: beyond any calendar
        with_summary(time_edges=[-3e10, 0.0, 3e10, 6e10]),
        with_summary(time_edges=[-6.2e10, -1.0, 0.0, 1e300]),
        with_summary(time_edges=[5.0, 5.0, 5.0, 5.0]),
        with_summary(time_edges=[0.0, 1e-6, 2e-6, 3e-6]),
        {"first_timestamp": 1e15, "last_timestamp": 2e15},
        {"features": [("price", math.nan, math.nan)]},
        {"seconds": {"read": 0.0}, "rows_s": 0.0, "log_bytes": 0, "dataset_bytes": 0, "files": 0},
    ],
)
@pytest.mark.filterwarnings("error")
def test_edges(changes: dict[str, Any]) -> None:
    data = report(**changes)
    html = page(data)
    assert html.rstrip().endswith("</html>")
    assert not re.search(r"\b(nan|inf|None)\b", text_of(html))
    assert not re.search(r"\b(nan|inf|None)\b", printed(data))


def test_a_dataset_of_one_user_says_what_it_does_not_draw() -> None:
    html = page(report(**SMALLEST))
    text = text_of(html)
    assert "3 of 3 rows read were written (100%): events of 1 user on 1 item, at 1970-01-01 00:00 ." in text
    assert "all in one bin of time" in text
    assert "the most popular item has 100%" in text
    assert "Event types" not in text
    assert "Features" not in text
    assert html.count("<svg") == 1  # users by history length


def test_the_same_report_gives_the_same_page_and_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    html = page(report())
    assert page(report()) == html
    assert dict(matplotlib.rcParams) == before
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_the_summary_is_bounded() -> None:
    with pytest.raises(ValidationError, match="at most 60"):
        IngestSummary.model_validate(
            fields()["summary"] | {"time_edges": [float(i) for i in range(62)], "events_by_time": [0] * 61}
        )
