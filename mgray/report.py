"""What a run found: one self-contained HTML page, tables for a terminal, and plain sentences.

A figure that is NaN was not measured: it is shown as a dash, never as a zero, and never wins or loses a comparison.
Titles and ids come from users' logs, so every text is escaped: HTML by the template, terminals by `_printable`.
"""

import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # importing matplotlib builds a font cache on disk: only drawing may do that
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODEL = "mg-dsc"  # the model's name among the systems that a report compares
HISTORY_LENGTH = "history_length"
ITEM_POPULARITY = "item_popularity"
LOWER_IS_BETTER = ("rmse", "mae")
DASH = "–"  # noqa: RUF001 - what stands for a figure that was not measured

# JSON has no NaN: pydantic writes null, and this reads it back as what it was.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
Metrics = dict[str, Number]  # metric key (`hr@10`) -> value


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CurvePoint(_Record):
    step: int = Field(ge=0, description="optimizer steps taken")
    epoch: float = Field(ge=0, description="passes over the training part, 0.5 is half a pass")
    train_loss: Number | None = Field(default=None, description="loss per target; none: not logged at this step")
    valid: Metrics = Field(default={}, description="validation metrics; empty: not validated at this step")
    learning_rate: Number | None = None
    seconds: float = Field(default=0.0, ge=0, description="training time so far, seconds")


class SliceRow(_Record):
    label: str = Field(description="the bucket, such as 10-19")
    count: int = Field(ge=0, description="test targets in the bucket")
    metrics: dict[str, Metrics] = Field(description="system (`mg-dsc` or a baseline) -> metrics in the bucket")


class GranularityShare(_Record):
    label: str = Field(description="a granularity as the config spells it: 1, 4, decay:1..400")
    share: Number = Field(description="share of the fusion's attention, 0..1, mean over targets and heads")
    heads: list[Number] | None = Field(default=None, description="the same share head by head; none: not known")


class Example(_Record):
    user_id: str
    last: list[str] = Field(description="titles of the user's last items, oldest first")
    recommended: list[tuple[str, Number]] = Field(description="(title, score), best first")
    next: str | None = Field(default=None, description="title of what actually came next; none: not known")


class ReportData(_Record):
    """Everything that a report shows. `model_dump_json` and `model_validate_json` carry it through a file."""

    title: str
    created: str = Field(description="ISO 8601, UTC")
    command: str = Field(description="the command line that made this run")
    facts: dict[str, str] = Field(description="label -> text, in the order shown: run id, model, dataset, device, ...")
    k: int = Field(ge=1, description="length of the ranked list that the metrics look at, items")
    metrics: Metrics = Field(description="the model's, on the test part")
    baselines: dict[str, Metrics] = {}
    num_targets: int | None = Field(default=None, ge=0, description="test targets behind `metrics`; none: not stated")
    curves: list[CurvePoint] = []
    slices: dict[str, list[SliceRow]] = Field(
        default={}, description="history_length or item_popularity -> buckets in order"
    )
    granularities: list[GranularityShare] | None = Field(default=None, description="finest first; none: sum fusion")
    example: Example | None = None
    config: dict[str, Any] = Field(default={}, description="dotted key -> value, as `config.flatten` gives it")
    rows: dict[str, int] = Field(default={}, description="read, written, dropped_*, quarantined: rows of the raw log")
    notes: list[str] = []


class Comparison(NamedTuple):
    """One metric of the model beside the baselines that measured it."""

    metric: str
    value: float
    best: str | None  # the best baseline; none: no baseline measured this metric
    best_value: float
    ratio: float  # value / best_value; NaN where there is nothing to divide by
    beaten: tuple[str, ...]  # in the order of the baselines
    unbeaten: tuple[str, ...]  # equal or better than the model

    @property
    def state(self) -> str:
        """`win`: ahead of every baseline; `mixed`: of some; `loss`: of none; `alone`: nothing to compare."""
        if not self.beaten and not self.unbeaten:
            return "alone"
        if self.unbeaten:
            return "mixed" if self.beaten else "loss"
        return "win"


def _lower_is_better(metric: str) -> bool:
    return metric.split("@")[0] in LOWER_IS_BETTER


def compare(metric: str, value: float, baselines: Mapping[str, Mapping[str, float]]) -> Comparison:
    """How the model's `value` of `metric` stands among the baselines. NaN on either side is no comparison."""
    sign = -1 if _lower_is_better(metric) else 1
    known = {name: row[metric] for name, row in baselines.items() if math.isfinite(row.get(metric, math.nan))}
    best = max(known, key=lambda name: sign * known[name], default=None)
    best_value = math.nan if best is None else known[best]
    if not math.isfinite(value):
        return Comparison(metric, value, best, best_value, math.nan, (), ())
    beaten = tuple(name for name, other in known.items() if sign * value > sign * other)
    unbeaten = tuple(name for name in known if name not in beaten)
    return Comparison(metric, value, best, best_value, value / best_value if best_value else math.nan, beaten, unbeaten)


def lift(value: float, other: float) -> str:
    """`value` against `other` as text: +120%, -3%, +0.3%, `equal`, `from 0`, or a dash where either is NaN."""
    if not (math.isfinite(value) and math.isfinite(other)):
        return DASH
    if value == other:
        return "equal"
    if other == 0:
        return "from 0"
    percent = 100 * (value / other - 1)
    # A small lead must not read as +0%.
    return f"{percent:+.0f}%" if abs(percent) >= 1 else f"{percent:+.1g}%"


def _join(parts: Sequence[str], last: str = " and ") -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + last + parts[-1]


def verdict(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One sentence a metric: `hr@10: beats popularity (+120%), not cooccurrence (-3%)`.

    Percentages are of the baseline's value; a tie does not beat. Names the baselines that did not measure a metric.
    """
    sentences = []
    for metric, value in metrics.items():
        head = f"{metric} (lower is better)" if _lower_is_better(metric) else metric
        if not math.isfinite(value):
            sentences.append(f"{head}: not measured")
            continue
        result = compare(metric, value, baselines)
        beaten = [f"{name} ({lift(value, baselines[name][metric])})" for name in result.beaten]
        unbeaten = [f"{name} ({lift(value, baselines[name][metric])})" for name in result.unbeaten]
        if not beaten and not unbeaten:
            sentences.append(f"{head}: {value:.4f}, no baseline to compare with")
            continue
        text = f"beats {_join(beaten)}" if beaten else f"does not beat {_join(unbeaten, ' or ')}"
        if beaten and unbeaten:
            text += f", not {_join(unbeaten, ' or ')}"
        unmeasured = [name for name in baselines if name not in result.beaten + result.unbeaten]
        if unmeasured:
            text += f"; no figure for {_join(unmeasured)}"
        sentences.append(f"{head}: {text}")
    return sentences


def format_number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` decimals; a dash for None, NaN and infinities."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _metric_names(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in (metrics, *baselines.values()) for name in row))


def _is_best(metric: str, value: float, systems: Iterable[Mapping[str, float]]) -> bool:
    values = [v for v in (row.get(metric, math.nan) for row in systems) if math.isfinite(v)]
    return bool(values) and value == (min(values) if _lower_is_better(metric) else max(values))


# ---- terminal --------------------------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """Without control characters: a title from a log must not move the reader's cursor or recolour the terminal."""
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def _cell(text: str, style: str = "") -> Text:
    # Text, not str: rich would read [brackets] in a title as markup.
    return Text(_printable(text), style=style, no_wrap=True, overflow="ellipsis")


def metrics_table(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> Table:
    """The model beside the baselines, a row a system, a column a metric; the best of each column is bold.

    The last row is the model's lift over the best baseline, green where the model is ahead, red where it is not.
    """
    names = _metric_names(metrics, baselines)
    systems = {MODEL: metrics, **baselines}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("test", min_width=12)
    for name in names:
        table.add_column(Text(_printable(name)), justify="right", min_width=6)
    for system, row in systems.items():
        cells = []
        for name in names:
            value = row.get(name, math.nan)
            cells.append(_cell(format_number(value), "bold" if _is_best(name, value, systems.values()) else ""))
        table.add_row(_cell(system, "cyan" if system == MODEL else ""), *cells)
    if baselines:
        table.add_section()
        colours = {"win": "green", "mixed": "red", "loss": "red", "alone": "dim"}
        lifts = []
        for name in names:
            result = compare(name, metrics.get(name, math.nan), baselines)
            lifts.append(_cell(lift(result.value, result.best_value), colours[result.state]))
        table.add_row(_cell("vs best baseline", "dim"), *lifts)
    return table


def example_table(example: Example) -> Table:
    """Two columns that fill the terminal: the user's last items, oldest first, and the recommended with scores.

    What actually came next is marked where it was recommended, and named in the caption in any case.
    """
    title = Text.assemble("user ", _cell(_shorten(example.user_id, 60), "bold"))
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, expand=True, caption_justify="left")
    table.add_column("last items, oldest first", ratio=1)
    table.add_column("#", justify="right", min_width=2)
    table.add_column(f"{len(example.recommended)} recommended", ratio=1)
    table.add_column("score", justify="right", min_width=7)
    for row in range(max(len(example.last), len(example.recommended))):
        last = example.last[row] if row < len(example.last) else ""
        if row >= len(example.recommended):
            table.add_row(_cell(last))
            continue
        recommended, score = example.recommended[row]
        hit = recommended == example.next
        table.add_row(
            _cell(last),
            str(row + 1),
            _cell(("✓ " if hit else "") + recommended, "bold green" if hit else ""),
            format_number(score, 3),
        )
    table.caption = _cell(_outcome(example))
    return table


def _outcome(example: Example) -> str:
    if example.next is None:
        return "What came next is not known."
    ranks = [rank for rank, (title, _) in enumerate(example.recommended, start=1) if title == example.next]
    place = f"recommended at place {ranks[0]}" if ranks else f"not among the {len(example.recommended)}"
    return f"Came next: {example.next} ({place})"


# ---- plots -----------------------------------------------------------------------------------------------------------

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
_COLOUR = {name: code for code, name in _PALETTE.items()}
_NUM_BASELINE_COLOURS = 4

_STYLE: Any = {  # Any: matplotlib types its parameters by a list of literal names
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "text.parse_math": False,  # a $ in a name is a dollar
    "font.family": "DejaVu Sans",  # ships with matplotlib; a little wider than what the page shows, so nothing collides
    "font.size": 8.5,
    "text.color": _COLOUR["ink"],
    "axes.edgecolor": _COLOUR["line"],
    "axes.labelcolor": _COLOUR["muted"],
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "xtick.color": _COLOUR["muted"],
    "ytick.color": _COLOUR["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": _COLOUR["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_WIDTH_IN = 10.0  # every plot is as wide as the page: 720 points


def _plot(name: str, height_in: float, label: str, draw: "Callable[[Figure], None]") -> Markup:
    """What `draw` puts on a fresh figure, as inline SVG. `name` keeps the ids of plots on one page apart."""
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
    return _COLOUR["model"] if index == 0 else _COLOUR[f"base-{(index - 1) % _NUM_BASELINE_COLOURS + 1}"]


def _grid(axes: "Axes", axis: str) -> None:
    axes.grid(axis="x" if axis == "x" else "y")
    axes.spines["left" if axis == "y" else "bottom"].set_visible(False)


def _plot_curves(curves: Sequence[CurvePoint]) -> Markup | None:
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
            _grid(axes, "y")
            axes.set_xlabel("step")
            axes.locator_params(axis="x", nbins=5, integer=True, min_n_ticks=1)
            if panel == "loss":
                axes.set_title("Training loss")
                line(axes, steps, losses, _COLOUR["model"], "loss", marked=False)
            elif panel == "rate":
                axes.set_title("Learning rate")
                line(axes, rate_steps, rates, _COLOUR["muted"], "rate", marked=False)
                axes.set_ylim(bottom=0)
                axes.locator_params(axis="y", nbins=4)
                axes.yaxis.set_major_formatter("{x:g}")
            else:
                axes.set_title("Validation")
                for number, (name, (x, y)) in enumerate(valid.items()):
                    colour = _COLOUR["model" if number == 0 else "second"]
                    line(axes, x, y, colour, name, marked=True)
                    best = min(y) if _lower_is_better(name) else max(y)
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

    return _plot("curves", 2.9, "Learning curves by step", draw)


def _plot_systems(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> Markup | None:
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
                weight = "bold" if _is_best(name, value, systems.values()) else "normal"
                axes.annotate(
                    format_number(value),
                    (length, place),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontweight=weight,
                )
            axes.set_title(name + (" (lower is better)" if _lower_is_better(name) else ""))
            axes.set_yticks(range(len(systems)), [_shorten(system, 28) for system in systems], color=_COLOUR["ink"])
            axes.set_xlim(0, max(lengths) * 1.18 or 1)
            axes.locator_params(axis="x", nbins=5)
            axes.spines["bottom"].set_visible(False)
            axes.grid(axis="x")
        row[0].invert_yaxis()

    return _plot("systems", 0.9 + 0.32 * len(systems), f"{_join(names)} of the model and the baselines", draw)


_MAX_BUCKETS_SIDE_BY_SIDE = 6


def _plot_slices(kind: str, rows: Sequence[SliceRow]) -> Markup | None:
    systems = _slice_systems(rows)
    names = _headline_metrics(dict.fromkeys(m for row in rows for values in row.metrics.values() for m in values))
    if not rows or not names or not systems:
        return None
    stacked = len(rows) > _MAX_BUCKETS_SIDE_BY_SIDE

    def draw(figure: "Figure") -> None:
        grid = (len(names), 1) if stacked else (1, len(names))
        panels = figure.subplots(*grid, squeeze=False).ravel()
        width = 0.8 / len(systems)
        for axes, name in zip(panels, names, strict=True):
            for number, system in enumerate(systems):
                values = [row.metrics.get(system, {}).get(name, math.nan) for row in rows]
                places = [bucket - 0.4 + width * (number + 0.5) for bucket in range(len(rows))]
                heights = [value if math.isfinite(value) else 0.0 for value in values]
                axes.bar(places, heights, width=width * 0.9, color=_colour(number), label=_shorten(system, 28))
                for place, value in zip(places, values, strict=True):
                    if not math.isfinite(value):
                        axes.annotate(DASH, (place, 0), ha="center", va="bottom", color=_COLOUR["muted"])
            axes.set_title(name)
            axes.set_xticks(range(len(rows)), [f"{_shorten(row.label, 14)}\nn={row.count:,}" for row in rows])
            axes.set_xlim(-0.6, len(rows) - 0.4)
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="y", nbins=5)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="y")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 5))

    height = 2.5 * len(names) + 0.4 if stacked else 2.9
    return _plot(f"slices-{kind}", height, f"{_join(names)} by {kind.replace('_', ' ')}", draw)


def _slice_systems(rows: Sequence[SliceRow]) -> list[str]:
    found = dict.fromkeys(system for row in rows for system in row.metrics)
    return [system for system in found if system == MODEL] + [system for system in found if system != MODEL]


def _granularity_name(label: str) -> str:
    if label.isdigit():
        return "every event" if label == "1" else f"stride of {label} events"
    if label.startswith("decay:"):
        return f"decay, {label.removeprefix('decay:').replace('..', ' to ')} events"
    return _shorten(label, 28)


def _plot_granularities(shares: Sequence[GranularityShare]) -> Markup | None:
    if not shares:
        return None

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        lengths = [row.share if math.isfinite(row.share) else 0.0 for row in shares]
        axes.barh(range(len(shares)), lengths, height=0.5, color=_COLOUR["model"])
        for place, row in enumerate(shares):
            heads = [share for share in row.heads or [] if math.isfinite(share)]
            axes.scatter(
                heads,
                [place] * len(heads),
                s=26,
                color=_COLOUR["card"],
                edgecolor=_COLOUR["ink"],
                linewidth=1.1,
                zorder=3,
                clip_on=False,
            )
            text = f"{row.share:.1%}" if math.isfinite(row.share) else DASH
            # In a column of its own: beside the last dot it would read as that head's share.
            axes.annotate(text, (1.03, place), va="center", fontweight="bold", annotation_clip=False)
        axes.set_yticks(range(len(shares)), [_granularity_name(row.label) for row in shares], color=_COLOUR["ink"])
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.spines["bottom"].set_visible(False)
        axes.grid(axis="x")
        axes.set_ylim(len(shares) - 0.5, -0.5)

    return _plot("granularities", 0.55 + 0.36 * len(shares), "Share of attention per granularity", draw)


# ---- the page --------------------------------------------------------------------------------------------------------

_METRIC_MEANING = {
    "hr": "hit rate: share of targets found in the top {k}",
    "ndcg": "hits in the top {k}, weighted by rank",
    "mrr": "mean of 1 / rank, 0 below the top {k}",
    "coverage": "share of the catalogue in anyone's top {k}",
    "rmse": "root of the mean squared rating error; lower is better",
    "mae": "mean absolute rating error; lower is better",
    "accuracy": "share of ratings that round to the true one",
}
_SLICE_TITLES = {
    HISTORY_LENGTH: ("By history length", "Test targets grouped by how many events the user had before."),
    ITEM_POPULARITY: ("By item popularity", "Test targets grouped by how many training events the item has."),
}


class _Chip(NamedTuple):
    baseline: str
    won: bool
    lift: str


class _Card(NamedTuple):
    metric: str
    value: str
    meaning: str
    ratio: str
    best: str | None
    best_value: str
    state: str
    chips: list[_Chip]


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _card(result: Comparison, data: ReportData) -> _Card:
    chips = [
        _Chip(name, name in result.beaten, lift(result.value, row[result.metric]))
        for name, row in data.baselines.items()
        if name in result.beaten + result.unbeaten
    ]
    return _Card(
        metric=result.metric,
        value=format_number(result.value),
        meaning=_METRIC_MEANING.get(result.metric.split("@")[0], "").format(k=data.k),
        ratio=f"{result.ratio:.2f}×" if math.isfinite(result.ratio) else DASH,  # noqa: RUF001
        best=result.best,
        best_value=format_number(result.best_value),
        state=result.state,
        chips=chips,
    )


def _summary(results: Sequence[Comparison], num_baselines: int) -> str:
    """The page's first sentence: where the model leads, and where it does not."""
    compared = [result for result in results if result.state != "alone"]
    if not compared:
        return "No baseline was measured, so these figures stand alone."
    wins = [result.metric for result in compared if result.state == "win"]
    rest = [result.metric for result in compared if result.state != "win"]
    everywhere = all(len(result.beaten) == num_baselines for result in compared if result.state == "win")
    every = f"all {num_baselines} baselines" if everywhere and num_baselines > 1 else "every baseline measured"
    if not rest:
        return f"The model beats {every} on {_join(wins)}."
    behind = f"at least one baseline does as well or better on {_join(rest)}"
    return f"The model beats {every} on {_join(wins)}; {behind}." if wins else behind[0].upper() + behind[1:] + "."


def _uncertainty(data: ReportData) -> str | None:
    """One standard error of the hit rate: a mean of n yes-or-no outcomes p has sqrt(p (1 - p) / n)."""
    name = next((metric for metric in data.metrics if metric.startswith("hr@")), None)
    if name is None or not data.num_targets or not 0 <= data.metrics[name] <= 1:
        return None
    rate = data.metrics[name]
    error = math.sqrt(rate * (1 - rate) / data.num_targets)
    return (
        f"{name} is a mean over {data.num_targets:,} targets: its standard error is {error:.4f}. "
        "Leads much smaller than twice that may be chance."
    )


def _config_text(value: Any) -> str:
    """A value as the command line spells it: none, true, [1, decay:1..400]."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_config_text(item) for item in value) + "]"
    return str(value)


def _score_share(example: Example) -> list[float]:
    """Length of each score's bar, 0..1. Scores have no zero of their own, so the lowest gets a short bar."""
    scores = [score for _, score in example.recommended if math.isfinite(score)]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    span = high - low
    return [
        0.0 if not math.isfinite(score) else 1.0 if span == 0 else 0.15 + 0.85 * (score - low) / span
        for _, score in example.recommended
    ]


def render_html(data: ReportData) -> str:
    """One HTML page with everything inside: CSS, plots as SVG, no script, no request to anywhere.

    Safe for titles from untrusted logs. What is missing (baselines, slices, curves, an example) leaves its section out
    or says so. Plots set matplotlib's parameters while they draw, so two threads must not render at the same time.
    Write it as UTF-8.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": format_number, "config_text": _config_text}
    template = environment.from_string(resources.files("mgray").joinpath("report.html.j2").read_text(encoding="utf-8"))
    results = [compare(metric, value, data.baselines) for metric, value in data.metrics.items()]
    systems = {MODEL: data.metrics, **data.baselines}
    slices = []
    for kind, rows in data.slices.items():
        if rows:
            title, meaning = _SLICE_TITLES.get(kind, (f"By {kind.replace('_', ' ')}", ""))
            names = list(dict.fromkeys(m for row in rows for values in row.metrics.values() for m in values))
            slices.append((title, meaning, _plot_slices(kind, rows), rows, _slice_systems(rows), names))
    return template.render(
        data=data,
        model=MODEL,
        dash=DASH,
        nan=math.nan,
        summary=_summary(results, len(data.baselines)),
        uncertainty=_uncertainty(data),
        cards=[_card(result, data) for result in results],
        results={result.metric: result for result in results},
        systems=systems,
        names=_metric_names(data.metrics, data.baselines),
        is_best=lambda metric, value: _is_best(metric, value, systems.values()),
        lift=lift,
        systems_plot=_plot_systems(data.metrics, data.baselines) if data.baselines else None,
        curves_plot=_plot_curves(data.curves),
        slices=slices,
        granularities_plot=_plot_granularities(data.granularities or []),
        has_heads=any(row.heads for row in data.granularities or []),
        outcome=_outcome(data.example) if data.example else None,
        score_shares=_score_share(data.example) if data.example else [],
    )
