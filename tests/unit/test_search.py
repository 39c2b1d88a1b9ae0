"""The search space: what is read is what is drawn, and every mistake is one line that names its place."""

import json
import random
from pathlib import Path

import pytest
import yaml

from mgray.config import ModelConfig, TrainJobConfig, TuneJobConfig, search_space
from mgray.config.command_line import parse_args
from mgray.errors import InputError
from mgray.report.search_plots import PlottedTrial, granularity_kind, pareto_front
from mgray.report.search_report import SearchReport, TrialRow, epochs_saved, render_search

BASE = TrainJobConfig(model=ModelConfig(dropout=0.4))
GRANULARITIES = "model.granularities"


def test_every_kind_of_range_draws_within_its_ends() -> None:
    space = search_space.parse_space(
        {
            GRANULARITIES: {"choice": [[1], [1, 4], [1, "decay:2..50"]]},
            "model.kernel": {"int": [3, 10, 3]},
            "model.dropout": {"uniform": [0.1, 0.3]},
            "train.learning_rate": {"loguniform": ["1e-3", 1e-2]},
        },
        BASE,
    )
    source = random.Random(0)
    points = [search_space.draw(space, source) for _ in range(400)]
    values = [search_space.decode(space, point) for point in points]
    assert {json.dumps(v[GRANULARITIES]) for v in values} == {"[1]", "[1, 4]", '[1, "decay:2..50"]'}
    assert {v["model.kernel"] for v in values} == {3, 6, 9}  # 10 is no step from 3
    assert all(0.1 <= v["model.dropout"] <= 0.3 for v in values)
    assert all(1e-3 <= v["train.learning_rate"] <= 1e-2 for v in values)
    # by order of magnitude: half of the draws lie below the geometric mean, not the arithmetic one
    below = sum(v["train.learning_rate"] < 10**-2.5 for v in values) / len(values)
    assert 0.4 < below < 0.6


def test_a_point_becomes_the_config_and_the_config_the_point() -> None:
    space = search_space.read_space(None, BASE)
    start = search_space.encode(space, BASE)
    assert set(start) == set(space), "the default space holds the default configuration"
    assert search_space.apply(BASE, search_space.decode(space, start)) == BASE
    source = random.Random(1)
    for _ in range(50):
        point = search_space.draw(space, source)
        assert search_space.encode(space, search_space.apply(BASE, search_space.decode(space, point))) == point


def test_what_the_space_does_not_hold_is_left_out_of_the_start() -> None:
    space = search_space.parse_space({"model.width": {"choice": [16, 32]}, "model.depth": {"int": [1, 3]}}, BASE)
    assert search_space.encode(space, BASE) == {"model.depth": 1}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "the space is empty"),
        ([1], "the space is empty"),
        ({"model.widht": {"choice": [8]}}, "model.widht is no key to search (did you mean model.width?)"),
        ({"data.source": {"choice": ["a"]}}, "data.source is no key to search"),
        ({"train.epochs": {"choice": [1]}}, "train.epochs is not searched: it belongs to the search itself"),
        ({"train.include_valid": {"choice": [False, True]}}, "train.include_valid is not searched"),
        ({"model.width": [8, 16]}, "give one of choice"),
        ({"model.width": {"choose": [8]}}, "'choose' is no kind of range"),
        ({"model.width": {"choice": []}}, "choice needs a list that is not empty"),
        ({"model.width": {"choice": [8, 8]}}, "8 is listed twice"),
        ({"model.width": {"choice": [0]}}, "model.width: Input should be greater than or equal to 1"),
        ({"model.width": {"choice": [50]}}, "width (50) must be a multiple of heads (4)"),
        ({GRANULARITIES: {"choice": [[4, 1]]}}, "strides must grow from level to level"),
        ({GRANULARITIES: {"choice": [["decay:9..2"]]}}, "the range runs from at least 1 event up"),
        ({"model.dropout": {"uniform": [0.5, 0.1]}}, "uniform runs from 0.5 down to 0.1"),
        ({"model.dropout": {"uniform": [0.5, 1.5]}}, "model.dropout: Input should be less than 1"),
        ({"model.dropout": {"uniform": [0.5]}}, "uniform is [low, high]"),
        ({"model.dropout": {"uniform": [0.1, "much"]}}, "'much' is no number"),
        ({"train.learning_rate": {"loguniform": [0, 1]}}, "loguniform needs a lower end above 0"),
        ({"model.kernel": {"int": [1, 2.5]}}, "int needs whole numbers"),
    ],
)
def test_a_bad_space_is_one_line(space: object, message: str) -> None:
    with pytest.raises(InputError) as raised:
        search_space.parse_space(space, BASE)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_value_may_need_another_key_of_the_space() -> None:
    """Width 50 fits no attention of 4 heads, but the space also holds sums."""
    space = search_space.parse_space(
        {"model.width": {"choice": [50, 64]}, "model.fusion": {"choice": ["sum", "attention"]}}, BASE
    )
    with pytest.raises(InputError, match="multiple of heads"):
        search_space.apply(BASE, {"model.width": 50, "model.fusion": "attention"})
    assert (
        search_space.apply(BASE, search_space.decode(space, {"model.width": "50", "model.fusion": "sum"})).model.width
        == 50
    )


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        search_space.read_space(str(tmp_path / "none.yaml"), BASE)
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\nb: {")
    with pytest.raises(InputError, match="not valid YAML") as raised:
        search_space.read_space(str(broken), BASE)
    assert "\n" not in str(raised.value)


def test_the_best_is_a_file_that_train_takes(tmp_path: Path) -> None:
    values = {GRANULARITIES: [1, "decay:2..50"], "train.learning_rate": 1.5e-3, "model.width": 32}
    config = search_space.apply(BASE, values)
    file = tmp_path / "best.yaml"
    file.write_text(search_space.best_yaml(config, ["found by a test"]))
    assert parse_args(TrainJobConfig, "jobs/train.py", ["--config", str(file)]) == config
    assert file.read_text().startswith("# found by a test\n")


def test_settings_of_a_search(tmp_path: Path) -> None:
    config = parse_args(TuneJobConfig, "jobs/tune.py", ["--resume", "--search.num_trials", "5"])
    assert (config.resume, config.search.num_trials, config.scale.num_workers) == (True, 5, 1)
    for argv, message in [
        (["--search.num_trials", "0"], "search.num_trials"),
        (["--search.metric", "auc"], "search.metric"),
        (["--search.grace_epochs", "9", "--train.epochs", "3"], "more than a trial's 3 epochs"),
        (["--search.algorithm", "grid"], "search.algorithm"),
        (["--train.include_valid", "true"], "train.include_valid leaves a search nothing to choose by"),
    ]:
        with pytest.raises(InputError) as raised:
            parse_args(TuneJobConfig, "jobs/tune.py", argv)
        assert message in str(raised.value)


def trial(number: int, score: float, parameters: int, outcome: str = "finished") -> PlottedTrial:
    return PlottedTrial(number, outcome, score, parameters, 1.0, [(1.0, score)], ("1",), False)


def test_the_pareto_front_rises_with_cost() -> None:
    trials = [trial(0, 0.1, 10), trial(1, 0.3, 30), trial(2, 0.2, 30), trial(3, 0.2, 20), trial(4, 0.3, 40)]
    assert [t.number for t in pareto_front(trials, lambda t: float(t.parameters))] == [0, 3, 1]


def test_kinds_of_granularities() -> None:
    levels = (["1", "4"], ["decay:1..4"], ["1", "decay:1..4"], ["1", "session:30m", "7d"])
    assert [granularity_kind(g) for g in levels] == ["strides", "decays", "strides and decay", "with time"]


def report(trials: list[TrialRow], **changes: object) -> SearchReport:
    fields: dict = {
        "title": "a search",
        "created": "2026-01-01",
        "command": "python jobs/tune.py",
        "facts": {"algorithm": "tpe"},
        "metric": "ndcg@10",
        "trial_epochs": 4,
        "rungs": [1, 3],
        "trials": trials,
        "best": 0,
        "importance": {},
        "importance_epoch": 1,
        "space": {"model.width": "8 | 16"},
        "best_yaml": "model:\n  width: 8\n",
    }
    return SearchReport.model_validate(fields | changes)


def row(number: int, curve: list[tuple[float, float]], outcome: str = "finished", **changes: object) -> TrialRow:
    return TrialRow(
        number=number,
        outcome=outcome,
        curve=curve,
        values={"model.width": 8},
        granularities=["1", "4"],
        parameters=1000,
        **changes,
    )


def test_the_report_shows_every_trial_and_escapes_what_failed() -> None:
    trials = [
        row(0, [(1, 0.1), (3, 0.2), (4, 0.3)], seconds=2.0, steps=100),
        row(1, [(1, 0.05)], "stopped", reason="behind at epoch 1"),
        row(2, [], "failed", reason="<script>alert(1)</script>"),
    ]
    assert epochs_saved(report(trials)) == 1 - (4 + 1) / 8
    page = render_search(report(trials))
    assert "3 trials: 1 finished, 1 stopped, 1 failed. The best, trial 0, reached" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") == 2, "cost and curves; one granularity and no importance are told in words"
    assert "http" not in page.replace("http-equiv", ""), "nothing is requested"
    assert yaml.safe_load(report(trials).best_yaml) == {"model": {"width": 8}}


def test_a_report_of_one_failed_trial_beside_one_good_one_draws() -> None:
    page = render_search(report([row(0, [(1, 0.1)])], rungs=[], importance={"model.width": 1.0}))
    assert "Nothing was stopped for being behind" in page
    assert "100%" in page
