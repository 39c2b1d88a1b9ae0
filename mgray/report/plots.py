"""The report's plots, as inline SVG drawn by matplotlib without global state."""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from mgray.config import granularity
from mgray.eval.metrics import lower_is_better
from mgray.report.report_data import (
    DASH,
    MODEL,
    GranularityShare,
    SliceRow,
    format_number,
    is_best,
    join,
    shorten,
)
from mgray.train.run_result import CurvePoint

if TYPE_CHECKING:  # importing matplotlib builds a font cache on disk: only drawing may do that
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that matplotlib writes into the SVG and that are then replaced by the page's own variables, so that a plot
# follows the page into dark mode. No other colour is drawn.
_PALETTE = {
    "#f00d00": "ink",
    "#f00d01": "muted",
    "#f00d02": "line",
    "#f00d03": "model",
    "#f00d04": "base-1",
    "#f00d05": "base-2",
    "#f00d06": "base-3",
    "#f00d07": "base-4",
    "#f00d08": "second",
    "#f00d09": "card",
}
COLOUR = {name: code for code, name in _PALETTE.items()}
_NUM_BASELINE_COLOURS = 4

_STYLE: Any = {  # Any: matplotlib types its parameters by a list of literal names
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "text.parse_math": False,  # a $ in a name is a dollar
    "font.family": "DejaVu Sans",  # ships with matplotlib; a little wider than what the page shows, so nothing collides
    "font.size": 8.5,
    "text.color": COLOUR["ink"],
    "axes.edgecolor": COLOUR["line"],
    "axes.labelcolor": COLOUR["muted"],
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "xtick.color": COLOUR["muted"],
    "ytick.color": COLOUR["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": COLOUR["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_WIDTH_IN = 10.0  # every plot is as wide as the page: 720 points


def plot(name: str, height_in: float, label: str, draw: "Callable[[Figure], None]") -> Markup:
    """Inline SVG of what `draw` puts on a fresh figure. `name` keeps the ids of plots on one page apart."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        draw(figure)
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> Markup:
    """A matplotlib SVG file as an element of an HTML page: no prolog, no namespaces, no ids that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    svg = re.sub(r"<svg[^>]*>", "", svg, count=1)
    # A <style> inside an inline SVG styles the whole page; report.html.j2 holds its one rule for plots.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: 'DejaVu Sans'[^;\"<>]*", "font-family: inherit", svg)
    svg = re.sub("|".join(_PALETTE), lambda match: f"var(--{_PALETTE[match[0]]})", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    head = Markup('<svg class="plot" {} role="img" aria-label="{}">').format(Markup(view_box[0]), label)
    return head + Markup(svg)  # drawn here; matplotlib escapes its texts


def _headline_metrics(names: Iterable[str]) -> list[str]:
    names = list(names)
    found = [name for name in names if name.startswith(("hr@", "ndcg@"))]
    return found or names[:2]


def _colour(index: int) -> str:
    """The colour of system number `index`: 0 is the model, the baselines follow."""
    return COLOUR["model"] if index == 0 else COLOUR[f"base-{(index - 1) % _NUM_BASELINE_COLOURS + 1}"]


def grid(axes: "Axes", axis: str) -> None:
    axes.grid(axis="x" if axis == "x" else "y")
    axes.spines["left" if axis == "y" else "bottom"].set_visible(False)


def plot_curves(curves: Sequence[CurvePoint]) -> Markup | None:
    def series(read: Callable[[CurvePoint], float | None]) -> tuple[list[int], list[float]]:
        values = [(point.step, read(point)) for point in curves]
        kept = [(step, value) for step, value in values if value is not None and math.isfinite(value)]
        return [step for step, _ in kept], [value for _, value in kept]

    steps, losses = series(lambda point: point.train_loss)
    rate_steps, rates = series(lambda point: point.learning_rate)
    valid_names = list(dict.fromkeys(name for point in curves for name in point.valid))
    valid = {}
    for name in _headline_metrics(valid_names):
        measured = [
            (point.step, point.valid[name]) for point in curves if math.isfinite(point.valid.get(name, math.nan))
        ]
        if measured:
            valid[name] = ([step for step, _ in measured], [value for _, value in measured])
    panels = [name for name, there in (("loss", losses), ("valid", valid), ("rate", rates)) if there]
    if not panels:
        return None

    def line(axes: "Axes", x: list[int], y: list[float], colour: str, label: str, marked: bool) -> None:
        # A line through one point is invisible, so few points are marked whatever the curve.
        marker = "o" if marked or len(x) < 3 else None
        axes.plot(x, y, color=colour, label=label, marker=marker, markersize=3.5)

    def draw(figure: "Figure") -> None:
        widths = {"loss": 1.0, "valid": 1.0, "rate": 0.7}
        row = figure.subplots(1, len(panels), squeeze=False, width_ratios=[widths[name] for name in panels])[0]
        for axes, panel in zip(row, panels, strict=True):
            grid(axes, "y")
            axes.set_xlabel("step")
            axes.locator_params(axis="x", nbins=5, integer=True, min_n_ticks=1)
            if panel == "loss":
                axes.set_title("Training loss")
                line(axes, steps, losses, COLOUR["model"], "loss", marked=False)
            elif panel == "rate":
                axes.set_title("Learning rate")
                line(axes, rate_steps, rates, COLOUR["muted"], "rate", marked=False)
                axes.set_ylim(bottom=0)
                axes.locator_params(axis="y", nbins=4)
                axes.yaxis.set_major_formatter("{x:g}")
            else:
                axes.set_title("Validation")
                for number, (name, (x, y)) in enumerate(valid.items()):
                    colour = COLOUR["model" if number == 0 else "second"]
                    line(axes, x, y, colour, name, marked=True)
                    best = min(y) if lower_is_better(name) else max(y)
                    axes.annotate(
                        f"{best:.4f}",
                        (x[y.index(best)], best),
                        xytext=(0, 6),
                        textcoords="offset points",
                        ha="center",
                        color=colour,
                        fontweight="bold",
                    )
                axes.margins(x=0.08, y=0.15)
                axes.legend(loc="lower right" if len(curves) > 1 else "best")

    return plot("curves", 2.9, "Learning curves by step", draw)


def plot_systems(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> Markup | None:
    names = _headline_metrics(metrics)
    systems = {MODEL: metrics, **baselines}
    if not names:
        return None

    def draw(figure: "Figure") -> None:
        row = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, name in zip(row, names, strict=True):
            values = [system.get(name, math.nan) for system in systems.values()]
            lengths = [value if math.isfinite(value) else 0.0 for value in values]
            axes.barh(range(len(values)), lengths, height=0.66, color=[_colour(i) for i in range(len(values))])
            for place, (value, length) in enumerate(zip(values, lengths, strict=True)):
                weight = "bold" if is_best(name, value, systems.values()) else "normal"
                axes.annotate(
                    format_number(value),
                    (length, place),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontweight=weight,
                )
            axes.set_title(name + (" (lower is better)" if lower_is_better(name) else ""))
            axes.set_yticks(range(len(systems)), [shorten(system, 28) for system in systems], color=COLOUR["ink"])
            axes.set_xlim(0, max(lengths) * 1.18 or 1)
            axes.locator_params(axis="x", nbins=5)
            axes.spines["bottom"].set_visible(False)
            axes.grid(axis="x")
        row[0].invert_yaxis()

    return plot("systems", 0.9 + 0.32 * len(systems), f"{join(names)} of the model and the baselines", draw)


_MAX_BUCKETS_SIDE_BY_SIDE = 6


def plot_slices(kind: str, rows: Sequence[SliceRow]) -> Markup | None:
    systems = slice_systems(rows)
    names = _headline_metrics(dict.fromkeys(m for row in rows for values in row.metrics.values() for m in values))
    if not rows or not names or not systems:
        return None
    stacked = len(rows) > _MAX_BUCKETS_SIDE_BY_SIDE

    def draw(figure: "Figure") -> None:
        shape = (len(names), 1) if stacked else (1, len(names))
        panels = figure.subplots(*shape, squeeze=False).ravel()
        width = 0.8 / len(systems)
        for axes, name in zip(panels, names, strict=True):
            for number, system in enumerate(systems):
                values = [row.metrics.get(system, {}).get(name, math.nan) for row in rows]
                places = [bucket - 0.4 + width * (number + 0.5) for bucket in range(len(rows))]
                heights = [value if math.isfinite(value) else 0.0 for value in values]
                axes.bar(places, heights, width=width * 0.9, color=_colour(number), label=shorten(system, 28))
                for place, value in zip(places, values, strict=True):
                    if not math.isfinite(value):
                        axes.annotate(DASH, (place, 0), ha="center", va="bottom", color=COLOUR["muted"])
            axes.set_title(name)
            axes.set_xticks(range(len(rows)), [f"{shorten(row.label, 14)}\nn={row.count:,}" for row in rows])
            axes.set_xlim(-0.6, len(rows) - 0.4)
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="y", nbins=5)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="y")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 5))

    height = 2.5 * len(names) + 0.4 if stacked else 2.9
    return plot(f"slices-{kind}", height, f"{join(names)} by {kind.replace('_', ' ')}", draw)


def slice_systems(rows: Sequence[SliceRow]) -> list[str]:
    found = dict.fromkeys(system for row in rows for system in row.metrics)
    return [system for system in found if system == MODEL] + [system for system in found if system != MODEL]


def granularity_name(spelled: str) -> str:
    """A level's granularity in words, from how the config spells it."""
    kind = granularity.read_spelled(spelled)
    label = spelled if kind is None else kind.label(spelled)
    return shorten(spelled, 28) if label == spelled else label


def plot_granularities(shares: Sequence[GranularityShare]) -> Markup | None:
    if not shares:
        return None

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        lengths = [row.share if math.isfinite(row.share) else 0.0 for row in shares]
        axes.barh(range(len(shares)), lengths, height=0.5, color=COLOUR["model"])
        for place, row in enumerate(shares):
            heads = [share for share in row.heads or [] if math.isfinite(share)]
            axes.scatter(
                heads,
                [place] * len(heads),
                s=26,
                color=COLOUR["card"],
                edgecolor=COLOUR["ink"],
                linewidth=1.1,
                zorder=3,
                clip_on=False,
            )
            text = f"{row.share:.1%}" if math.isfinite(row.share) else DASH
            # In a column of its own: beside the last dot it would read as that head's share.
            axes.annotate(text, (1.03, place), va="center", fontweight="bold", annotation_clip=False)
        axes.set_yticks(range(len(shares)), [granularity_name(row.label) for row in shares], color=COLOUR["ink"])
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.spines["bottom"].set_visible(False)
        axes.grid(axis="x")
        axes.set_ylim(len(shares) - 0.5, -0.5)

    return plot("granularities", 0.55 + 0.36 * len(shares), "Share of attention per granularity", draw)
