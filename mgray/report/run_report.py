"""One self-contained HTML page of what a run found. Every text is escaped, and nothing is requested or executed."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mgray.eval.slices import HISTORY_LENGTH, ITEM_POPULARITY
from mgray.report import plots
from mgray.report.page import render_page
from mgray.report.report_data import (
    DASH,
    MODEL,
    Example,
    ReportData,
    Standing,
    format_number,
    is_best,
    join,
    lift,
    metric_names,
    outcome,
    standing_of,
)

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


def _card(result: Standing, data: ReportData) -> _Card:
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


def _summary_line(results: Sequence[Standing], num_baselines: int) -> str:
    """The page's first sentence: where the model leads, and where it does not."""
    compared = [result for result in results if result.state != "alone"]
    if not compared:
        return "No baseline was measured, so these figures stand alone."
    wins = [result.metric for result in compared if result.state == "win"]
    rest = [result.metric for result in compared if result.state != "win"]
    everywhere = all(len(result.beaten) == num_baselines for result in compared if result.state == "win")
    every = f"all {num_baselines} baselines" if everywhere and num_baselines > 1 else "every baseline measured"
    if not rest:
        return f"The model beats {every} on {join(wins)}."
    behind = f"at least one baseline does as well or better on {join(rest)}"
    return f"The model beats {every} on {join(wins)}; {behind}." if wins else behind[0].upper() + behind[1:] + "."


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


def config_text(value: Any) -> str:
    """A value as the command line spells it: none, true, [1, decay:1..400]."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(config_text(item) for item in value) + "]"
    return str(value)


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else DASH


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
    filters: dict[str, Callable[..., str]] = {
        "number": format_number,
        "signed": _signed,
        "config_text": config_text,
        "granularity": plots.granularity_name,
    }
    results = [standing_of(metric, value, data.baselines) for metric, value in data.metrics.items()]
    systems = {MODEL: data.metrics, **data.baselines}
    slices = []
    for kind, rows in data.slices.items():
        if rows:
            title, meaning = _SLICE_TITLES.get(kind, (f"By {kind.replace('_', ' ')}", ""))
            names = list(dict.fromkeys(m for row in rows for values in row.metrics.values() for m in values))
            slices.append((title, meaning, plots.plot_slices(kind, rows), rows, plots.slice_systems(rows), names))
    return render_page(
        "report.html.j2",
        filters,
        data=data,
        model=MODEL,
        nan=math.nan,
        summary=_summary_line(results, len(data.baselines)),
        uncertainty=_uncertainty(data),
        cards=[_card(result, data) for result in results],
        results={result.metric: result for result in results},
        systems=systems,
        names=metric_names(data.metrics, data.baselines),
        is_best=lambda metric, value: is_best(metric, value, systems.values()),
        lift=lift,
        systems_plot=plots.plot_systems(data.metrics, data.baselines) if data.baselines else None,
        curves_plot=plots.plot_curves(data.curves),
        slices=slices,
        granularities_plot=plots.plot_granularities(data.granularities or []),
        has_heads=any(row.heads for row in data.granularities or []),
        outcome=outcome(data.example) if data.example else None,
        score_shares=_score_share(data.example) if data.example else [],
    )
