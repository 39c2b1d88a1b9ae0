"""Contents of a report: figures, curves, slices and an example, and how the model compares with the baselines.

A figure that is NaN was not measured: it is shown as a dash, never as a zero, and never wins or loses a comparison.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from mgray.eval.metrics import Metrics, Number, lower_is_better
from mgray.record import Record
from mgray.train.run_result import CurvePoint

MODEL = "mg-dsc"  # the model's name among the systems that a report compares
DASH = "–"  # noqa: RUF001 - what stands for a figure that was not measured


class SliceRow(Record):
    label: str = Field(description="the bucket, such as 10-19")
    count: int = Field(ge=0, description="test targets in the bucket")
    metrics: dict[str, Metrics] = Field(description="system (`mg-dsc` or a baseline) -> metrics in the bucket")


class GranularityShare(Record):
    label: str = Field(description="a granularity as the config spells it: 1, 4, decay:1..400")
    share: Number = Field(description="share of the fusion's attention, 0..1, mean over targets and heads")
    heads: list[Number] | None = Field(default=None, description="the same share head by head; none: not known")


class Why(Record):
    """Parts of the first recommended item's score, in units of the score."""

    granularities: list[tuple[str, Number]] = Field(
        description="(granularity as the config spells it, what it adds), finest first; biases add the rest"
    )
    events: list[tuple[str, Number]] = Field(
        description="(title of a past item, the score less the score without that event), largest effect first"
    )


class Example(Record):
    user_id: str
    last: list[str] = Field(description="titles of the user's last items, oldest first")
    recommended: list[tuple[str, Number]] = Field(description="(title, score), best first")
    next: str | None = Field(default=None, description="title of what actually came next; none: not known")
    why: Why | None = Field(default=None, description="of the first recommended; none: not explained")


class ReportData(Record):
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
    granularities: list[GranularityShare] | None = Field(
        default=None, description="finest first; none: a fusion without attention"
    )
    example: Example | None = None
    config: dict[str, Any] = Field(default={}, description="dotted key -> value, as `command_line.flatten` gives it")
    rows: dict[str, int] = Field(default={}, description="read, written, dropped_*, quarantined: rows of the raw log")
    notes: list[str] = []


class Standing(NamedTuple):
    """How one metric of the model stands among the baselines that measured it."""

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


def standing_of(metric: str, value: float, baselines: Mapping[str, Mapping[str, float]]) -> Standing:
    """How the model's `value` of `metric` stands among the baselines. NaN on either side is no comparison."""
    sign = -1 if lower_is_better(metric) else 1
    known = {name: row[metric] for name, row in baselines.items() if math.isfinite(row.get(metric, math.nan))}
    best = max(known, key=lambda name: sign * known[name], default=None)
    best_value = math.nan if best is None else known[best]
    if not math.isfinite(value):
        return Standing(metric, value, best, best_value, math.nan, (), ())
    beaten = tuple(name for name, other in known.items() if sign * value > sign * other)
    unbeaten = tuple(name for name in known if name not in beaten)
    return Standing(metric, value, best, best_value, value / best_value if best_value else math.nan, beaten, unbeaten)


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


def join(parts: Sequence[str], last: str = " and ") -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + last + parts[-1]


def verdict(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One sentence a metric: `hr@10: beats popularity (+120%), not cooccurrence (-3%)`.

    Percentages are of the baseline's value; a tie does not beat. Names the baselines that did not measure a metric.
    """
    sentences = []
    for metric, value in metrics.items():
        head = f"{metric} (lower is better)" if lower_is_better(metric) else metric
        if not math.isfinite(value):
            sentences.append(f"{head}: not measured")
            continue
        result = standing_of(metric, value, baselines)
        beaten = [f"{name} ({lift(value, baselines[name][metric])})" for name in result.beaten]
        unbeaten = [f"{name} ({lift(value, baselines[name][metric])})" for name in result.unbeaten]
        if not beaten and not unbeaten:
            sentences.append(f"{head}: {value:.4f}, no baseline to compare with")
            continue
        text = f"beats {join(beaten)}" if beaten else f"does not beat {join(unbeaten, ' or ')}"
        if beaten and unbeaten:
            text += f", not {join(unbeaten, ' or ')}"
        unmeasured = [name for name in baselines if name not in result.beaten + result.unbeaten]
        if unmeasured:
            text += f"; no figure for {join(unmeasured)}"
        sentences.append(f"{head}: {text}")
    return sentences


def format_number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` decimals; a dash for None, NaN and infinities."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def metric_names(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in (metrics, *baselines.values()) for name in row))


def is_best(metric: str, value: float, systems: Iterable[Mapping[str, float]]) -> bool:
    values = [v for v in (row.get(metric, math.nan) for row in systems) if math.isfinite(v)]
    return bool(values) and value == (min(values) if lower_is_better(metric) else max(values))


def outcome(example: Example) -> str:
    if example.next is None:
        return "What came next is not known."
    ranks = [rank for rank, (title, _) in enumerate(example.recommended, start=1) if title == example.next]
    place = f"recommended at place {ranks[0]}" if ranks else f"not among the {len(example.recommended)}"
    return f"Came next: {example.next} ({place})"


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
