"""The report's figures by hand, and what must hold for any log: nothing is requested, nothing is executed."""

import io
import math
import re
from html.parser import HTMLParser

import matplotlib
import pytest
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from mgray.report.report_data import (
    Example,
    GranularityShare,
    ReportData,
    SliceRow,
    Why,
    format_number,
    lift,
    standing_of,
    verdict,
)
from mgray.report.run_report import render_html
from mgray.report.terminal import example_table, metrics_table
from mgray.train.run_result import CurvePoint

METRICS = {"hr@10": 0.22, "ndcg@10": 0.11, "coverage@10": 0.4}
BASELINES = {
    "popularity": {"hr@10": 0.10, "ndcg@10": 0.05, "coverage@10": 0.1},
    "recent_popularity": {"hr@10": 0.11, "ndcg@10": 0.055, "coverage@10": 0.1},
    "cooccurrence": {"hr@10": 0.2268, "ndcg@10": 0.1, "coverage@10": 0.5},
}


def slice_row(label: str, count: int, **hr: float) -> SliceRow:
    return SliceRow(label=label, count=count, metrics={name: {"hr@10": value} for name, value in hr.items()})


def full() -> ReportData:
    rows = [
        SliceRow(label="3-9", count=1234, metrics={"mg-dsc": {"hr@10": 0.2}, "popularity": {"hr@10": 0.1}}),
        SliceRow(label="10-19", count=5, metrics={"mg-dsc": {"hr@10": 0.3}, "popularity": {"hr@10": math.nan}}),
    ]
    return ReportData(
        title="MG-DSC on a log",
        created="2026-01-02T03:04:05Z",
        command="python jobs/train.py --model.granularities '[1,4]'",
        facts={"run": "abc123", "seconds": "ingest 1, train 2"},
        k=10,
        metrics=METRICS,
        num_targets=900,
        baselines=BASELINES,
        curves=[
            CurvePoint(step=10, epoch=0.5, train_loss=7.0, learning_rate=0.001, seconds=1.0),
            CurvePoint(step=20, epoch=1.0, train_loss=6.0, valid={"hr@10": 0.2, "ndcg@10": 0.1}, seconds=2.0),
        ],
        slices={"history_length": rows, "item_popularity": rows},
        granularities=[
            GranularityShare(label="1", share=0.25, heads=[0.2, 0.3]),
            GranularityShare(label="decay:1..400", share=0.75),
        ],
        example=Example(
            user_id="7",
            last=["Alien", "Aliens"],
            recommended=[("Heat", 2.5), ("Fargo", 1.5)],
            next="Fargo",
            why=Why(granularities=[("1", 0.5), ("decay:1..400", 1.75)], events=[("Aliens", 1.25), ("Alien", -0.125)]),
        ),
        config={"model.width": 64, "train.max_time_s": None, "model.granularities": (1, "decay:1..400"), "a.b": True},
        rows={"read": 1000, "written": 990, "dropped_duplicates": 10, "quarantined": 0},
        notes=["Windows overlap."],
    )


def changed(**fields: object) -> ReportData:
    return full().model_copy(update=fields)


def printed(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system="standard", force_terminal=True)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# ---- verdict -----


def test_verdict_names_what_is_beaten_and_what_is_not() -> None:
    # 0.22/0.10 = 2.2, 0.22/0.11 = 2, 0.22/0.2268 = 0.97
    assert verdict({"hr@10": 0.22}, BASELINES) == [
        "hr@10: beats popularity (+120%) and recent_popularity (+100%), not cooccurrence (-3%)"
    ]


def test_verdict_of_a_model_that_beats_all_or_none() -> None:
    assert verdict({"m": 3.0}, {"a": {"m": 1.0}, "b": {"m": 2.0}}) == ["m: beats a (+200%) and b (+50%)"]
    assert verdict({"m": 1.0}, {"a": {"m": 2.0}, "b": {"m": 4.0}}) == ["m: does not beat a (-50%) or b (-75%)"]


def test_a_tie_does_not_beat() -> None:
    assert verdict({"m": 0.5}, {"a": {"m": 0.5}}) == ["m: does not beat a (equal)"]


def test_lower_errors_win() -> None:
    assert verdict({"rmse": 0.9}, {"bias": {"rmse": 1.0}}) == ["rmse (lower is better): beats bias (-10%)"]
    assert standing_of("rmse", 0.9, {"bias": {"rmse": 1.0}, "mean": {"rmse": 1.2}}).best == "bias"


def test_what_was_not_measured_neither_wins_nor_loses() -> None:
    assert verdict({"m": math.nan}, {"a": {"m": 1.0}}) == ["m: not measured"]
    assert verdict({"m": 1.0}, {}) == ["m: 1.0000, no baseline to compare with"]
    assert verdict({"m": 2.0}, {"a": {"m": 1.0}, "b": {"m": math.nan}, "c": {}}) == [
        "m: beats a (+100%); no figure for b and c"
    ]


@pytest.mark.parametrize(
    ("value", "other", "text"),
    [(1.5, 1.0, "+50%"), (1.003, 1.0, "+0.3%"), (0.9996, 1.0, "-0.04%"), (0.1, 0.0, "from 0"), (0.0, 0.0, "equal")],
)
def test_lift(value: float, other: float, text: str) -> None:
    assert lift(value, other) == text


def test_compare_ratio_and_state() -> None:
    result = standing_of("hr@10", 0.22, BASELINES)
    assert (result.best, result.state) == ("cooccurrence", "mixed")
    assert result.ratio == pytest.approx(0.97, abs=1e-4)
    assert standing_of("ndcg@10", 0.11, BASELINES).state == "win"
    assert standing_of("hr@10", 0.01, BASELINES).state == "loss"
    assert standing_of("mrr@10", 0.01, BASELINES).state == "alone"


# ---- terminal -----


def test_metrics_table_marks_the_best_of_each_column() -> None:
    text = printed(metrics_table(METRICS, BASELINES))
    bold = re.findall(r"\x1b\[1m\s*(0\.\d{4})", text)
    assert sorted(bold) == ["0.1100", "0.2268", "0.5000"]  # ndcg is the model's, the others are cooccurrence's
    last = next(line for line in plain(text).splitlines() if line.strip().startswith("vs best"))
    assert last.split() == ["vs", "best", "baseline", "-3%", "+10%", "-20%"]


def test_terminal_tables_fit_80_columns_whatever_the_titles() -> None:
    metrics = dict.fromkeys(("hr@10", "ndcg@10", "mrr@10", "coverage@10", "rmse", "mae", "accuracy"), 0.5)
    tables = [
        metrics_table(metrics, {"recent_popularity": metrics, "b" * 90: {}}),
        example_table(Example(user_id="u" * 200, last=["w" * 300], recommended=[("z" * 300, 1.0)], next="q" * 300)),
    ]
    for table in tables:
        text = plain(printed(table))
        assert max(len(line) for line in text.splitlines()) <= 80
    assert "0.5000" in plain(printed(tables[0]))
    assert "1.000" in plain(printed(tables[1]))


def test_example_table_shows_both_lists_and_the_hit() -> None:
    example = full().example
    assert example is not None
    lines = [line.split() for line in plain(printed(example_table(example))).splitlines()]
    assert ["Alien", "1", "Heat", "2.500"] in lines
    assert ["Aliens", "2", "✓", "Fargo", "1.500"] in lines
    assert "recommended at place 2" in plain(printed(example_table(example)))


def test_titles_cannot_steer_the_terminal() -> None:
    example = Example(user_id="7", last=["[red]x[/red]", "a\x1b[2Jb"], recommended=[], next=None)
    text = printed(example_table(example))
    assert "[red]x[/red]" in text
    assert "\x1b[2J" not in text


# ---- page -----


def test_page_shows_the_figures() -> None:
    html = render_html(full())
    text = re.sub(r"<[^>]+>", "", html)
    assert "The model beats all 3 baselines on ndcg@10; at least one baseline does as well or better on hr@10" in text
    assert "0.97× the best baseline, cooccurrence (0.2268)" in text  # noqa: RUF001
    assert "1.10× the best baseline, cooccurrence (0.1000)" in text  # noqa: RUF001
    assert "its standard error is 0.0138" in text  # sqrt(0.22 * 0.78 / 900)
    assert "n=1,234" in text
    assert "75.0%" in text
    assert "99.00%" in text  # 990 of 1000 rows were written
    assert "Came next: Fargo (recommended at place 2)" in text
    assert "decay, 1 to 400 events" in text
    for value in ("none", "true", "[1, decay:1..400]"):
        assert f"<code>{value}</code>" in html


def test_best_of_each_column_is_bold() -> None:
    assert re.findall(r'<td class="num best">([^<]*)</td>', render_html(full())) == ["0.1100", "0.2268", "0.5000"]


def test_page_holds_one_plot_a_subject() -> None:
    assert render_html(full()).count("<svg") == 5  # systems, curves, two slices, granularities
    bare = changed(baselines={}, curves=[], slices={"history_length": []}, granularities=None, example=None)
    assert render_html(bare).count("<svg") == 0


def test_page_requests_nothing() -> None:
    html = render_html(full())
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!["']?\#)""", html) == []  # only ids of this very page
    assert "<script" not in html
    assert "@import" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'" in html


def test_every_text_is_escaped() -> None:
    evil = "<script>alert('x')</script>\"onload=\"y"
    data = ReportData(
        title=evil,
        created=evil,
        command=evil,
        facts={evil: evil},
        k=10,
        metrics={"hr@10": 0.1, evil: 0.2},
        baselines={evil: {"hr@10": 0.2}},
        curves=[CurvePoint(step=1, epoch=1, valid={evil: 0.5})],
        slices={evil: [slice_row(evil, 1, **{"mg-dsc": 0.1, evil: 0.2})]},
        granularities=[GranularityShare(label=evil, share=1.0)],
        example=Example(
            user_id=evil,
            last=[evil],
            recommended=[(evil, 1.0)],
            next=evil,
            why=Why(granularities=[(evil, 1.0)], events=[(evil, 1.0)]),
        ),
        config={evil: evil},
        rows={evil: 1},
        notes=[evil],
    )
    tags: list[tuple[str, str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.extend((tag, name) for name, _ in [("", None), *attrs])

    html = render_html(data)
    Reader().feed(html)
    assert len(tags) > 100
    assert [(tag, name) for tag, name in tags if tag == "script" or name.startswith("on")] == []
    assert "&lt;script&gt;" in html


def test_ids_of_plots_do_not_collide() -> None:
    ids = re.findall(r' id="([^"]*)"', render_html(full()))
    assert len(ids) == len(set(ids))


def test_the_same_data_gives_the_same_page_and_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    assert render_html(full()) == render_html(full())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "data",
    [
        changed(baselines={}),
        changed(metrics={"hr@10": math.nan}),
        changed(metrics={}),
        changed(metrics={"hr@10": 0.0}, baselines={"popularity": {"hr@10": 0.0}}),
        changed(curves=[CurvePoint(step=1, epoch=1)]),
        changed(curves=[CurvePoint(step=1, epoch=1, train_loss=math.nan, valid={"hr@10": 0.1})]),
        changed(slices={"history_length": [], "item_popularity": [SliceRow(label="0", count=0, metrics={})]}),
        changed(slices={"history_length": [slice_row(str(i), i, **{"mg-dsc": 0.1}) for i in range(15)]}),
        changed(granularities=[GranularityShare(label="1", share=1.0)]),
        changed(granularities=[GranularityShare(label="$x_1$", share=math.nan)]),
        changed(granularities=[]),
        changed(example=Example(user_id="7", last=[], recommended=[])),
        changed(example=Example(user_id="7", last=["x" * 5000], recommended=[("y" * 5000, math.nan)], next="z")),
        changed(rows={}, config={}, facts={}, notes=[]),
        changed(example=Example(user_id="7", last=[], recommended=[], why=Why(granularities=[], events=[]))),
        changed(
            example=Example(
                user_id="7", last=[], recommended=[("y", 1.0)], why=Why(granularities=[("1", math.nan)], events=[])
            )
        ),
    ],
)
def test_page_of_whatever_is_missing(data: ReportData) -> None:
    html = render_html(data)
    text = re.sub(r"<style>.*?</style>|<[^>]+>", "", html, flags=re.DOTALL)
    assert html.rstrip().endswith("</html>")
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_nan_is_a_dash() -> None:
    assert [format_number(value) for value in (math.nan, None, math.inf, 0.25)] == ["–", "–", "–", "0.2500"]  # noqa: RUF001
    html = render_html(changed(metrics={"hr@10": math.nan}))
    assert '<div class="value">–</div>' in html  # noqa: RUF001


def test_a_fusion_without_attention_is_said() -> None:
    assert "This fusion has no attention" in render_html(changed(granularities=None))


def test_the_first_recommendation_is_explained() -> None:
    lines = re.sub(r"<[^>]+>", "|", render_html(full()))
    assert "Why |Heat| comes first: what adds to its score of 2.500, and what takes from it." in lines
    for label, score in [("every event", "+0.500"), ("decay, 1 to 400 events", "+1.750")]:
        assert f"|{label}||{score}|" in lines
    for title, score in [("Aliens", "+1.250"), ("Alien", "-0.125")]:
        assert f"|{title}||{score}|" in lines
    example = full().example
    assert example is not None
    assert "comes first" not in render_html(changed(example=example.model_copy(update={"why": None})))


def test_data_travels_as_json() -> None:
    data = changed(metrics={"hr@10": math.nan, "ndcg@10": 0.1})
    read = ReportData.model_validate_json(data.model_dump_json())
    assert math.isnan(read.metrics["hr@10"])
    assert render_html(read) == render_html(data)


def test_unknown_fields_are_errors() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        GranularityShare.model_validate({"label": "1", "share": 1.0, "hads": []})
