"""One self-contained HTML page of what a search found; like mgray/report/run_report.py, nothing is requested or
executed.
"""

import math
from typing import Any

from pydantic import Field

from mgray.eval.metrics import Number
from mgray.record import Record
from mgray.report import search_plots
from mgray.report.page import render_page
from mgray.report.report_data import format_number
from mgray.report.run_report import config_text


class TrialRow(Record):
    number: int
    outcome: str = Field(description="finished, stopped, failed or running")
    reason: str | None = Field(default=None, description="why it was stopped or failed")
    run_id: str | None = Field(default=None, description="its run in MLflow")
    curve: list[tuple[float, float]] = Field(default=[], description="(epoch, best score so far)")
    values: dict[str, Any] = Field(description="dotted key -> value of what was searched")
    granularities: list[str] = Field(description="levels, finest first")
    parameters: int = Field(ge=0)
    seconds: float | None = Field(default=None, description="training time; none: it never validated")
    steps: int | None = Field(default=None, description="optimizer steps; none: it never validated")

    @property
    def score(self) -> float:
        return self.curve[-1][1] if self.curve else math.nan

    @property
    def epochs(self) -> float:
        return self.curve[-1][0] if self.curve else 0.0

    @property
    def step_ms(self) -> float:
        return 1000 * self.seconds / self.steps if self.seconds and self.steps else math.nan


class SearchReport(Record):
    """Everything that the page shows."""

    title: str
    created: str = Field(description="ISO 8601, UTC")
    command: str
    facts: dict[str, str]
    metric: str = Field(description="the score: validation ndcg@10, ...")
    trial_epochs: int = Field(ge=1, description="epochs of a trial that nothing stops")
    rungs: list[Number] = Field(description="epochs at which ASHA may stop a trial; empty: it is off")
    trials: list[TrialRow]
    best: int = Field(description="number of the best trial")
    importance: dict[str, float] = Field(description="key -> share; empty: too few trials to tell")
    importance_epoch: int = Field(ge=1, description="epoch whose scores the importance is of")
    space: dict[str, str] = Field(description="key -> values it may take, in words")
    best_yaml: str = Field(description="the file that jobs/train.py --config takes")


def epochs_saved(report: SearchReport) -> float:
    """Share of the epochs, had every trial that trained gone to its end, that stopping saved."""
    trained = [trial for trial in report.trials if trial.curve]
    whole = len(trained) * report.trial_epochs
    return 1 - sum(min(trial.epochs, report.trial_epochs) for trial in trained) / whole if whole else 0.0


def search_line(report: SearchReport) -> str:
    """One line for people: the trials, and the best."""
    count = {outcome: sum(t.outcome == outcome for t in report.trials) for outcome in ("finished", "stopped", "failed")}
    parts = [f"{number} {outcome}" for outcome, number in count.items() if number]
    best = next(trial for trial in report.trials if trial.number == report.best)
    levels = ", ".join(best.granularities)
    trials = "1 trial" if len(report.trials) == 1 else f"{len(report.trials)} trials"
    return (
        f"{trials}: {', '.join(parts)}. The best, trial {best.number}, reached a validation {report.metric} of "
        f"{format_number(best.score)} with granularities {levels}."
    )


def render_search(report: SearchReport) -> str:
    """One HTML page with everything inside. Write it as UTF-8."""
    plotted = [
        search_plots.PlottedTrial(
            number=trial.number,
            outcome=trial.outcome,
            score=trial.score,
            parameters=trial.parameters,
            step_ms=trial.step_ms,
            curve=trial.curve,
            granularities=tuple(trial.granularities),
            is_best=trial.number == report.best,
        )
        for trial in report.trials
    ]
    best = next(trial for trial in report.trials if trial.number == report.best)
    ranked = sorted(report.trials, key=lambda t: (t.outcome != "finished", -t.score if t.curve else math.inf, t.number))
    return render_page(
        "search_report.html.j2",
        {"number": format_number, "config_text": config_text},
        report=report,
        summary=search_line(report),
        best=best,
        ranked=ranked,
        saved=epochs_saved(report),
        count=lambda outcome: sum(trial.outcome == outcome for trial in report.trials),
        failed=[trial for trial in report.trials if trial.outcome == "failed"],
        cost_plot=search_plots.plot_cost(plotted, report.metric),
        importance_plot=search_plots.plot_importance(report.importance),
        levels_plot=search_plots.plot_levels(plotted, report.metric),
        asha_plot=search_plots.plot_asha(plotted, report.rungs, report.metric),
    )
