"""The plots of a search's report, in the manner of mgray/report/plots.py."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from mgray.config import granularity
from mgray.report.plots import COLOUR, grid, plot
from mgray.report.report_data import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
MAX_GRANULARITIES = 14


class PlottedTrial(NamedTuple):
    number: int
    outcome: str
    score: float  # NaN: none
    parameters: int
    step_ms: float  # NaN: not measured
    curve: list[tuple[float, float]]  # (epoch, best score so far)
    granularities: tuple[str, ...]
    is_best: bool


def pareto_front(trials: Sequence[PlottedTrial], cost: Callable[[PlottedTrial], float]) -> list[PlottedTrial]:
    """Trials that no other beats in score at the same or a lower cost, by rising cost."""
    front: list[PlottedTrial] = []
    for trial in sorted(trials, key=lambda trial: (cost(trial), -trial.score)):
        if not front or trial.score > front[-1].score:
            front.append(trial)
    return front


def _dots(axes: "Axes", trials: Sequence[PlottedTrial], x: list[float], y: list[float]) -> None:
    """Full dots finished, hollow ones were stopped, the best is ringed."""
    for trial, across, up in zip(trials, x, y, strict=True):
        finished = trial.outcome == FINISHED
        edge = COLOUR["model"] if finished else COLOUR["muted"]
        face = COLOUR["model"] if finished else COLOUR["card"]
        axes.scatter([across], [up], s=34 if finished else 20, color=face, edgecolor=edge, linewidth=1.1, zorder=3)
        if trial.is_best:
            axes.scatter([across], [up], s=120, facecolor="none", edgecolor=COLOUR["second"], linewidth=1.6, zorder=4)


def plot_cost(trials: Sequence[PlottedTrial], metric: str) -> Markup | None:
    """Score against parameters and milliseconds a step, with the Pareto front of the finished."""
    scored = [trial for trial in trials if math.isfinite(trial.score)]
    costs: list[tuple[str, Callable[[PlottedTrial], float]]] = [
        ("parameters", lambda trial: float(trial.parameters)),
        ("milliseconds a step", lambda trial: trial.step_ms),
    ]
    if not scored:
        return None

    def draw(figure: "Figure") -> None:
        row = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
        for axes, (name, cost) in zip(row, costs, strict=True):
            shown = [trial for trial in scored if math.isfinite(cost(trial))]
            grid(axes, "y")
            axes.set_xlabel(name)
            front = pareto_front([trial for trial in shown if trial.outcome == FINISHED], cost)
            if front:
                x, y = [cost(trial) for trial in front], [trial.score for trial in front]
                axes.step(x, y, where="post", color=COLOUR["model"], linewidth=1.2, alpha=0.6)
                for across, up, trial in zip(x, y, front, strict=True):
                    axes.annotate(
                        str(trial.number),
                        (across, up),
                        xytext=(-5, 5),
                        textcoords="offset points",
                        ha="right",
                        fontweight="bold",
                        color=COLOUR["model"],
                    )
            _dots(axes, shown, [cost(trial) for trial in shown], [trial.score for trial in shown])
            axes.margins(x=0.08, y=0.12)
            axes.locator_params(axis="x", nbins=5)
            if name == "parameters":
                axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
        row[0].set_ylabel(f"validation {metric}")

    return plot("cost", 3.2, f"Validation {metric} against parameters and milliseconds a step", draw)


def plot_importance(shares: Mapping[str, float]) -> Markup | None:
    if not shares:
        return None
    rows = sorted(shares.items(), key=lambda row: -row[1])

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.barh(range(len(rows)), [share for _, share in rows], height=0.56, color=COLOUR["model"])
        for place, (_, share) in enumerate(rows):
            axes.annotate(f"{share:.0%}", (share, place), xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], color=COLOUR["ink"])
        axes.set_xlim(0, max(1e-9, rows[0][1]) * 1.15)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_ylim(len(rows) - 0.5, -0.5)

    return plot("importance", 0.4 + 0.28 * len(rows), "Importance of each searched setting", draw)


def granularity_kind(levels: Sequence[str]) -> str:
    """The line of the plot that a trial with these levels belongs to."""
    kinds = [granularity.read_spelled(level) for level in levels]
    families: set[granularity.Family] = {"with time" if kind is None else kind.family for kind in kinds}
    if "with time" in families:
        return "with time"
    return "strides and decay" if len(families) > 1 else families.pop()


def plot_levels(trials: Sequence[PlottedTrial], metric: str) -> Markup | None:
    """Scores by granularities, and the best by number and kind of levels."""
    scored = [trial for trial in trials if math.isfinite(trial.score)]
    groups: dict[tuple[str, ...], list[PlottedTrial]] = {}
    for trial in scored:
        groups.setdefault(trial.granularities, []).append(trial)
    if len(groups) < 2:
        return None
    rows = sorted(groups.items(), key=lambda row: -max(trial.score for trial in row[1]))[:MAX_GRANULARITIES]
    kinds = ("strides", "decays", "strides and decay", "with time")
    colours = dict(zip(kinds, ("model", "second", "base-3", "base-1"), strict=True))

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        for place, (_, members) in enumerate(rows):
            _dots(left, members, [trial.score for trial in members], [float(place)] * len(members))
        names = [f"{shorten(', '.join(levels), 30)}  (n={len(members)})" for levels, members in rows]
        left.set_yticks(range(len(rows)), names, color=COLOUR["ink"])
        left.set_ylim(len(rows) - 0.5, -0.5)
        left.set_xlabel(f"validation {metric}")
        left.set_title("By granularities")
        grid(left, "x")
        counts = sorted({len(levels) for levels in groups})
        for kind in kinds:
            best: dict[int, float] = {}
            for levels, members in groups.items():
                if granularity_kind(levels) == kind:
                    top = max(trial.score for trial in members)
                    best[len(levels)] = max(top, best.get(len(levels), -math.inf))
            if best:
                x = sorted(best)
                right.plot(x, [best[count] for count in x], marker="o", color=COLOUR[colours[kind]], label=kind)
        right.set_xticks(counts)
        right.set_xlabel("levels")
        right.set_title("Best by number and kind of levels")
        right.margins(x=0.15, y=0.15)
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=4)
        grid(right, "y")

    return plot("levels", 1.3 + 0.3 * max(5, len(rows)), f"Validation {metric} by granularities", draw)


def plot_asha(trials: Sequence[PlottedTrial], rungs: Sequence[float], metric: str) -> Markup | None:
    """Every trial's best score by epoch, and how many went on past each rung."""
    drawn = [trial for trial in trials if trial.curve]
    if not drawn:
        return None

    def draw(figure: "Figure") -> None:
        if rungs:
            left, right = figure.subplots(1, 2, width_ratios=[2.4, 1])
        else:
            left, right = figure.subplots(), None
        for rung in rungs:
            left.axvline(rung, color=COLOUR["line"], linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        for trial in sorted(drawn, key=lambda trial: trial.is_best):
            x, y = [epoch for epoch, _ in trial.curve], [score for _, score in trial.curve]
            finished = trial.outcome == FINISHED
            colour = COLOUR["second" if trial.is_best else "model" if finished else "muted"]
            width = 2.0 if trial.is_best else 1.2 if finished else 0.8
            left.plot(x, y, color=colour, linewidth=width, alpha=1.0 if finished else 0.75)
            marker = "o" if finished else "x"
            left.scatter(x[-1:], y[-1:], color=colour, marker=marker, s=18, linewidth=1.2, zorder=3)
        grid(left, "y")
        left.set_xlabel("epoch")
        left.set_title(f"Best validation {metric} so far, every trial")
        left.set_xlim(left=0)
        left.locator_params(axis="x", integer=True)
        if right is None:
            return
        marks = sorted(rungs)
        reached = [sum(trial.curve[-1][0] >= rung for trial in drawn) for rung in marks]
        ended = [
            sum(trial.outcome == STOPPED and _last_rung(trial, marks) == rung for trial in drawn) for rung in marks
        ]
        went_on = [came - left_out for came, left_out in zip(reached, ended, strict=True)]
        places = range(len(marks))
        right.bar(places, went_on, color=COLOUR["model"], width=0.6, label="went on")
        right.bar(places, ended, bottom=went_on, color=COLOUR["base-1"], width=0.6, label="stopped here")
        right.set_xticks(places, [f"epoch {rung:g}" for rung in marks])
        right.set_title("Trials at each rung")
        right.locator_params(axis="y", integer=True, nbins=5)
        right.margins(y=0.22)
        right.legend(loc="upper right")
        grid(right, "y")

    return plot("asha", 3.3, f"Validation {metric} by epoch, and trials stopped at each rung", draw)


def _last_rung(trial: PlottedTrial, rungs: Sequence[float]) -> float | None:
    passed = [rung for rung in rungs if rung <= trial.curve[-1][0]]
    return max(passed) if passed else None
