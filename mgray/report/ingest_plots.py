"""The plots of an ingest's report, in the manner of mgray/report/plots.py."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup

from mgray.report.plots import COLOUR, grid, plot
from mgray.report.report_data import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_HISTORY_LABELS = 9
TOP_SHARES = (0.01, 0.1)  # of the items, named on the concentration curve


def compact(value: float) -> str:
    """A count as a card or an axis has room for it: 0, 0.5, 999, 12,345, 1.5M, 2B, 3,000T, 1e+300."""
    if abs(value) >= 1e16:
        return f"{value:.3g}"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= 0.99995 * size:  # what would be written as 1,000.0 of the unit below
            return f"{value / size:,.1f}".removesuffix(".0") + unit
    return f"{value:,.0f}" if value == round(value) else f"{value:,g}"


def moment(seconds: float) -> datetime | None:
    """Seconds since 1970 as UTC; none where no calendar reaches: a log may count in whatever it likes."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (OverflowError, ValueError):  # ValueError: NaN
        return None


def share_at(popularity: Sequence[tuple[int, float]], rank: int) -> float:
    """Share of events of the items up to `rank` (from 1), linear between the points (rank, share) of the curve."""
    before = (0, 0.0)
    for point in popularity:
        if rank <= point[0]:
            return before[1] + (point[1] - before[1]) * (rank - before[0]) / (point[0] - before[0])
        before = point
    return before[1]


def top_shares(popularity: Sequence[tuple[int, float]]) -> list[tuple[float, int, float]]:
    """(share of items, how many that are, their share of events); without the shares that are less than one item."""
    num_items = popularity[-1][0] if popularity else 0
    counts = [(share, round(share * num_items)) for share in TOP_SHARES]
    return [(share, count, share_at(popularity, count)) for share, count in counts if count]


def plot_time(edges: Sequence[float], events: Sequence[int]) -> Markup | None:
    """Events by time. `edges` [n + 1] seconds since 1970, `events` [n]; none: one bin, or no time between the edges."""
    if len(events) < 2 or not edges[-1] > edges[0]:
        return None
    dates = [moment(edge) for edge in edges]
    known = [date for date in dates if date is not None]
    # matplotlib's calendar wants room on both sides of what it marks.
    on_calendar = len(known) == len(edges) and known[0].year > 1 and known[-1].year < 9000

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        x: list[float] = list(edges)
        if on_calendar:
            from matplotlib import dates as calendar

            x = [float(calendar.date2num(date)) for date in known]
            locator = calendar.AutoDateLocator(tz=UTC, minticks=4, maxticks=9)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(calendar.ConciseDateFormatter(locator, tz=UTC))
        else:
            x = [edge - edges[0] for edge in edges]  # the edges themselves would all be written 1e+15
            axes.xaxis.set_major_formatter(lambda value, _: compact(value))
            axes.locator_params(axis="x", nbins=5)
            axes.set_xlabel("seconds since the first event")
        widths = [0.9 * (right - left) for left, right in pairwise(x)]
        middles = [(left + right) / 2 for left, right in pairwise(x)]
        axes.bar(middles, events, width=widths, color=COLOUR["model"])
        axes.set_xlim(x[0], x[-1])
        _count_axis(axes, "events")

    return plot("ingest-time", 2.5, "Events over time", draw)


def plot_shape(
    histories: Sequence[int], median_history: float, popularity: Sequence[tuple[int, float]]
) -> Markup | None:
    """Left, users by the length of their history; right, the share of events of the most popular items.

    histories: [b] users with 2**b <= events < 2**(b + 1). popularity: (rank from 1, share 0..1), by rising rank.
    """
    # A curve of one item is a dot at 100%, which the page says in words.
    has_histories, has_curve = any(histories), len(popularity) > 1
    if not has_histories and not has_curve:
        return None

    def draw(figure: "Figure") -> None:
        # Each keeps its half, whether or not the other is there.
        left, right = figure.subplots(1, 2)
        if has_histories:
            _draw_histories(left, histories, median_history)
        else:
            left.set_axis_off()
        if has_curve:
            _draw_popularity(right, popularity)
        else:
            right.set_axis_off()

    return plot("ingest-shape", 3.1, "Users by history length, and share of events by item popularity", draw)


def _count_axis(axes: "Axes", name: str) -> None:
    grid(axes, "y")
    axes.set_ylabel(name)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", integer=True, nbins=5)
    axes.yaxis.set_major_formatter(lambda value, _: compact(value))


def _draw_histories(axes: "Axes", histories: Sequence[int], median: float) -> None:
    """A bar between two powers of two; places are log2 of the length."""
    filled = [place for place, users in enumerate(histories) if users]
    first, last = filled[0], filled[-1]
    places = range(first, last + 1)
    axes.bar([place + 0.5 for place in places], histories[first : last + 1], width=0.92, color=COLOUR["model"])
    axes.set_title("Users by events in their history")
    every = math.ceil((last + 2 - first) / MAX_HISTORY_LABELS)
    edges = range(first, last + 2, every)
    axes.set_xticks(list(edges), [compact(2**edge) for edge in edges])
    axes.set_xlabel("events of a user (each bar doubles)")
    beside = 0.1 if last > first else 1  # one bar alone would be a wall
    axes.set_xlim(first - beside, last + 1 + beside)
    axes.margins(y=0.16)  # room for the median's name above the bars
    _count_axis(axes, "users")
    if median >= 1:
        place = math.log2(median)
        is_left = place < (first + last + 1) / 2
        axes.axvline(place, color=COLOUR["second"], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            f"median {median:,g}",
            (place, 1),
            xycoords=("data", "axes fraction"),
            xytext=(5 if is_left else -5, -2),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="top",
            color=COLOUR["second"],
            fontweight="bold",
        )


def _draw_popularity(axes: "Axes", popularity: Sequence[tuple[int, float]]) -> None:
    from matplotlib.ticker import NullFormatter

    ranks, shares = [rank for rank, _ in popularity], [share for _, share in popularity]
    axes.set_xscale("log")
    # A line through few points would claim what is between them.
    axes.plot(ranks, shares, color=COLOUR["model"], marker="o" if len(ranks) < 12 else None, markersize=3.5)
    for share, rank, of_events in top_shares(popularity):
        # Its name stands left of the dot, above the curve; near the axis there is no room for it.
        if math.log(rank) < 0.3 * math.log(ranks[-1]):
            continue
        axes.scatter([rank], [of_events], s=26, color=COLOUR["card"], edgecolor=COLOUR["ink"], linewidth=1.1, zorder=3)
        axes.annotate(
            f"top {share:.0%}: {of_events:.0%}",
            (rank, of_events),
            xytext=(-6, 5),
            textcoords="offset points",
            ha="right",
            fontweight="bold",
        )
    axes.set_title("Training events of the most popular items")
    axes.set_xlabel("items, most popular first (log scale)")
    axes.set_xlim(ranks[0], ranks[-1])
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.grid(axis="both")


def plot_dropped(rows: Sequence[tuple[str, int]], num_read: int) -> Markup | None:
    """Rows that were left out, by why: (name, rows) from the top; none where nothing was."""
    shown = [(name, count) for name, count in rows if count]
    if not shown:
        return None
    most = max(count for _, count in shown)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        colours = [COLOUR["second" if name == "quarantined" else "model"] for name, _ in shown]
        axes.barh(range(len(shown)), [count for _, count in shown], height=0.56, color=colours)
        for place, (_, count) in enumerate(shown):
            axes.annotate(
                f"{count:,} ({percent(count, num_read)})",
                (count, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(shown)), [shorten(name, 40) for name, _ in shown], color=COLOUR["ink"])
        axes.set_xlim(0, most * 1.3)  # room for the longest bar's figures
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_ylim(len(shown) - 0.5, -0.5)

    return plot("ingest-dropped", 0.4 + 0.28 * len(shown), "Rows that were left out, by why", draw)


def percent(part: int, whole: int) -> str:
    """12.34%; a part that is not none is never written as 0.00%, nor one that is not all as 100.00%."""
    if not whole:
        return "0%"
    if part in (0, whole):
        return "100%" if part else "0%"
    text = f"{100 * part / whole:.2f}%"
    return {"0.00%": "<0.01%", "100.00%": ">99.99%"}.get(text, text)
