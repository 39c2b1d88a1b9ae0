"""Report of one ingest, what it read, dropped and wrote: a self-contained HTML page, and a table for the terminal.

Like mgray/report/run_report.py: every text is escaped, and nothing is requested or executed.
"""

import math
from itertools import pairwise
from typing import Annotated, NamedTuple

from markupsafe import Markup
from pydantic import Field, FiniteFloat, model_validator
from rich import box
from rich.table import Table

from mgray.eval.metrics import Number
from mgray.record import Record
from mgray.report import ingest_plots as plots
from mgray.report.ingest_plots import compact, moment, percent
from mgray.report.page import render_page
from mgray.report.report_data import DASH, shorten
from mgray.report.terminal import cell

MAX_TIME_BINS = 60
MAX_TOP_ITEMS = 20
MAX_POPULARITY_POINTS = 200
MAX_REASONS = 10
MAX_EVENT_TYPES_SHOWN = 12
REASON_LENGTH = 300
# Rules whose name alone does not say what was dropped; any other is shown by its name.
_RULES = {
    "forgotten": "users to forget",
    "timestamps": "outside the times allowed",
    "ratings": "outside the ratings allowed",
    "bots": "users taken for bots",
    "repeats": "repeats within the window",
    "rare_items": "items with too few events",
    "short_users": "users with too few events",
}

Count = Annotated[int, Field(ge=0)]


class IngestSummary(Record):
    """The shape of the dataset. Its size is bounded, whatever the log's: one pass over the histories fills it."""

    time_edges: list[FiniteFloat] = Field(
        description="[n + 1] edges of n bins of equal width over the written events, rising, seconds since 1970"
    )
    events_by_time: list[Count] = Field(max_length=MAX_TIME_BINS, description="[n] written events of each bin")
    history_lengths: list[Count] = Field(
        max_length=64, description="[b] users with 2**b <= events < 2**(b + 1), over their whole history"
    )
    median_history: FiniteFloat = Field(ge=0, description="events of the user in the middle")
    top_items: list[tuple[str, Count]] = Field(
        max_length=MAX_TOP_ITEMS, description="(title or id, training events), most popular first"
    )
    popularity: list[tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0, le=1)]]] = Field(
        max_length=MAX_POPULARITY_POINTS,
        description="(rank from 1, share of training events of the items up to that rank), by rising rank; the last "
        "is the whole catalogue",
    )

    @model_validator(mode="after")
    def _is_in_order(self) -> "IngestSummary":
        assert len(self.time_edges) == len(self.events_by_time) + 1, "time_edges holds one more than events_by_time"
        assert all(left <= right for left, right in pairwise(self.time_edges)), "time_edges rises"
        assert all(left < right for (left, _), (right, _) in pairwise(self.popularity)), "the ranks rise"
        return self


class IngestReport(Record):
    """Everything that the page and the table show. `model_dump_json` and `model_validate_json` carry it."""

    title: str
    created: str = Field(description="ISO 8601, UTC")
    command: str
    path: str = Field(description="folder of the dataset version")
    fingerprint: str
    rows: dict[str, Count] = Field(description="read, written, dropped_RULE in the order of the rules, quarantined")
    users: int = Field(ge=0)
    items: int = Field(ge=0, description="items of the vocabulary")
    cold_items: int = Field(ge=0, description="items of the log that are not in the vocabulary")
    events: dict[str, Count] = Field(description="train, valid, test: written events")
    first_timestamp: FiniteFloat = Field(description="of the written events, seconds since 1970")
    last_timestamp: FiniteFloat
    has_times: bool = Field(default=True, description="false: the order of the log is all there is, every time is 0")
    dataset_bytes: int = Field(ge=0, description="of the version's files")
    log_bytes: int = Field(ge=0, description="of the raw log, as it is stored")
    files: int = Field(ge=0, description="files of the raw log")
    seconds: dict[str, FiniteFloat] = Field(description="by stage, those that ran, in their order")
    rows_s: FiniteFloat = Field(description="rows read a second, over all stages")
    quarantined: list[tuple[str, Count]] = Field(
        max_length=MAX_REASONS, description="(reason, rows), the most frequent first"
    )
    first_bad: str | None = Field(description="where the first unreadable row is, and why; none: there is none")
    event_types: list[tuple[str, Count]] = Field(description="(event type, written events); empty: the log has none")
    features: list[tuple[str, Number, Number]] = Field(
        description="(column, mean, standard deviation) over the training part; empty: none were asked for"
    )
    split: str = Field(description="in words, with its cuts")
    summary: IngestSummary

    @model_validator(mode="after")
    def _conserves_rows(self) -> "IngestReport":
        """read = written + every dropped_* + quarantined; and the parts of what was written add up to it."""
        unknown = [name for name in self.rows if name not in ("read", "written", "quarantined") and not _is_rule(name)]
        assert not unknown, f"rows holds read, written, dropped_RULE and quarantined, not {unknown}"
        lost = self.num_read - self.num_written - sum(count for _, count in self.left_out)
        assert lost == 0, f"row conservation: {lost} of {self.num_read} rows are unaccounted for: {self.rows}"
        for name, total in (
            ("events", sum(self.events.values())),
            ("events_by_time", sum(self.summary.events_by_time)),
        ):
            assert total == self.num_written, f"{name} adds up to {total}, written are {self.num_written}"
        users = sum(self.summary.history_lengths)
        assert users == self.users, f"history_lengths adds up to {users}, there are {self.users} users"
        return self

    @property
    def num_read(self) -> int:
        return self.rows["read"]

    @property
    def num_written(self) -> int:
        return self.rows["written"]

    @property
    def left_out(self) -> list[tuple[str, int]]:
        """(why, in words; rows) of every rule that ran, in their order, and the quarantined last; zeros too."""
        return left_out(self.rows)

    @property
    def total_s(self) -> float:
        return math.fsum(self.seconds.values())


def _is_rule(name: str) -> bool:
    return name.startswith("dropped_")


def _rule_name(name: str) -> str:
    rule = name.removeprefix("dropped_")
    return _RULES.get(rule, rule.replace("_", " "))


def left_out(rows: dict[str, int]) -> list[tuple[str, int]]:
    dropped = [(_rule_name(name), count) for name, count in rows.items() if _is_rule(name)]
    return [*dropped, ("quarantined", rows.get("quarantined", 0))]


def file_size(num_bytes: int) -> str:
    """Decimal units: 999 B, 1.0 kB, 12.3 MB, 1,234.5 TB."""
    size, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.95:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"


def duration(seconds: float) -> str:
    """A span in the largest unit that it fills: 0.5 seconds, 1 minute, 3.5 hours, 214 days, 12 years."""
    for size, unit in ((365.25 * 86400, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size or size == 1:
            count = seconds / size
            text = f"{count:,.0f}" if count >= 100 else f"{count:.3g}"
            return f"{text} {unit}" if text == "1" else f"{text} {unit}s"
    raise AssertionError("the loop ends at seconds")


def when(seconds: float, with_time: bool = True) -> str:
    """Seconds since 1970 as a date in UTC; as the number where no calendar reaches."""
    at = moment(seconds)
    if at is None:
        return f"{seconds:.12g} s"
    return at.isoformat(" ", "minutes")[: 16 if with_time else 10]


def counted(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def headline(report: IngestReport) -> str:
    """The page's first words: how much of the log is in the dataset, and of whom."""
    users, items = counted(report.users, "user"), counted(report.items, "item")
    share = percent(report.num_written, report.num_read)
    return (
        f"{report.num_written:,} of {counted(report.num_read, 'row')} read were written ({share}): "
        f"events of {users} on {items}"
    )


def span(report: IngestReport) -> str:
    """When the written events are, in words."""
    if not report.has_times:
        return "in the order of the log, without times"
    start, end = when(report.first_timestamp), when(report.last_timestamp)
    if start[:10] != end[:10]:
        start, end = when(report.first_timestamp, False), when(report.last_timestamp, False)
    return f"at {start}" if start == end else f"from {start} to {end}"


def concentration(report: IngestReport) -> str:
    """How much of the training part the most popular items are, in words; empty where there is nothing to say."""
    popularity = report.summary.popularity
    parts = [
        f"the top {share:.0%} of the items ({count:,}) {'has' if count == 1 else 'have'} {of_events:.0%}"
        for share, count, of_events in plots.top_shares(popularity)
    ]
    if not parts:
        parts = [f"the most popular item has {plots.share_at(popularity, 1):.0%}"] if popularity else []
    return f"Of the training events {' and '.join(parts)}." if parts else ""


class Pictures(NamedTuple):
    """SVG; none where there is nothing to show."""

    time: Markup | None
    shape: Markup | None
    dropped: Markup | None


def draw_ingest(summary: IngestSummary, rows: dict[str, int]) -> Pictures:
    """The pictures of the page. Like mgray/report/run_report.py's they set matplotlib's parameters: one thread at a
    time.
    """
    return Pictures(
        plots.plot_time(summary.time_edges, summary.events_by_time),
        plots.plot_shape(summary.history_lengths, summary.median_history, summary.popularity),
        plots.plot_dropped(left_out(rows), rows["read"]),
    )


def render_ingest(report: IngestReport, pictures: Pictures) -> str:
    """One HTML page with everything inside. Write it as UTF-8."""
    filters = {
        "compact": compact,
        "duration": duration,
        "file_size": file_size,
        "reason": lambda text: shorten(text, REASON_LENGTH),
        "figure": lambda value: f"{value:.4g}" if math.isfinite(value) else DASH,
    }
    summary = report.summary
    types = sorted(report.event_types, key=lambda row: -row[1])
    other_types = types[MAX_EVENT_TYPES_SHOWN:]
    return render_page(
        "ingest_report.html.j2",
        filters,
        report=report,
        summary=summary,
        headline=headline(report),
        span=span(report),
        concentration=concentration(report),
        counted=counted,
        percent=percent,
        when=when,
        bin_s=(summary.time_edges[-1] - summary.time_edges[0]) / max(1, len(summary.events_by_time)),
        num_left_out=report.num_read - report.num_written,
        other_reasons=report.rows.get("quarantined", 0) - sum(count for _, count in report.quarantined),
        event_types=types[:MAX_EVENT_TYPES_SHOWN],
        other_types=(len(other_types), sum(count for _, count in other_types)),
        pictures=pictures,
    )


def ingest_table(report: IngestReport) -> Table:
    """Table for stderr, within 80 columns: rows from read to written, the dataset, its size, the time."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ingest", max_width=38)
    table.add_column("", justify="right", min_width=9)
    table.add_column("", max_width=22)

    def row(name: str, value: str, note: str = "", style: str = "") -> None:
        table.add_row(cell(name, style), cell(value, style), cell(note, "dim"))

    def of(part: int, whole: int) -> str:
        return f"{percent(part, whole):>8}"

    row("rows read", f"{report.num_read:,}", " of read")
    for name, count in report.left_out:
        colour = "yellow" if name == "quarantined" and count else ""
        row(
            f"  {name if name == 'quarantined' else f'dropped: {name}'}",
            f"{count:,}",
            of(count, report.num_read),
            colour,
        )
    row("  written", f"{report.num_written:,}", of(report.num_written, report.num_read), "bold")
    table.add_section()
    row("users", f"{report.users:,}", f"median history {report.summary.median_history:,g}")
    row("items", f"{report.items:,}", f"and {report.cold_items:,} cold" if report.cold_items else "")
    for part, count in report.events.items():
        row(f"events: {part}", f"{count:,}", of(count, report.num_written))
    table.add_section()
    row("log", file_size(report.log_bytes), counted(report.files, "file"))
    row(
        "dataset",
        file_size(report.dataset_bytes),
        f"{of(report.dataset_bytes, report.log_bytes)} of the log" if report.log_bytes else "",
    )
    table.add_section()
    for stage, seconds in report.seconds.items():
        row(f"seconds: {stage}", f"{seconds:,.2f}")
    row("seconds", f"{report.total_s:,.2f}", f"{report.rows_s:,.0f} rows/s", "bold")
    return table
