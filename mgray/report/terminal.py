"""Tables for a terminal. Titles and ids come from users' logs: control characters and markup are shown, not obeyed."""

import math
import unicodedata
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from mgray.report.report_data import (
    MODEL,
    Example,
    format_number,
    is_best,
    lift,
    metric_names,
    outcome,
    shorten,
    standing_of,
)


def _printable(text: str) -> str:
    """Without control characters: a title from a log must not move the reader's cursor or recolour the terminal."""
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def cell(text: str, style: str = "") -> Text:
    # Text, not str: rich would read [brackets] in a title as markup.
    return Text(_printable(text), style=style, no_wrap=True, overflow="ellipsis")


def metrics_table(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> Table:
    """The model beside the baselines, a row a system, a column a metric; the best of each column is bold.

    The last row is the model's lift over the best baseline, green where the model is ahead, red where it is not.
    """
    names = metric_names(metrics, baselines)
    systems = {MODEL: metrics, **baselines}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("test", min_width=12)
    for name in names:
        table.add_column(Text(_printable(name)), justify="right", min_width=6)
    for system, row in systems.items():
        cells = []
        for name in names:
            value = row.get(name, math.nan)
            cells.append(cell(format_number(value), "bold" if is_best(name, value, systems.values()) else ""))
        table.add_row(cell(system, "cyan" if system == MODEL else ""), *cells)
    if baselines:
        table.add_section()
        colours = {"win": "green", "mixed": "red", "loss": "red", "alone": "dim"}
        lifts = []
        for name in names:
            result = standing_of(name, metrics.get(name, math.nan), baselines)
            lifts.append(cell(lift(result.value, result.best_value), colours[result.state]))
        table.add_row(cell("vs best baseline", "dim"), *lifts)
    return table


def example_table(example: Example) -> Table:
    """Two columns that fill the terminal: the user's last items, oldest first, and the recommended with scores.

    What actually came next is marked where it was recommended, and named in the caption in any case.
    """
    title = Text.assemble("user ", cell(shorten(example.user_id, 60), "bold"))
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, expand=True, caption_justify="left")
    table.add_column("last items, oldest first", ratio=1)
    table.add_column("#", justify="right", min_width=2)
    table.add_column(f"{len(example.recommended)} recommended", ratio=1)
    table.add_column("score", justify="right", min_width=7)
    for row in range(max(len(example.last), len(example.recommended))):
        last = example.last[row] if row < len(example.last) else ""
        if row >= len(example.recommended):
            table.add_row(cell(last))
            continue
        recommended, score = example.recommended[row]
        hit = recommended == example.next
        table.add_row(
            cell(last),
            str(row + 1),
            cell(("✓ " if hit else "") + recommended, "bold green" if hit else ""),
            format_number(score, 3),
        )
    table.caption = cell(outcome(example))
    return table
