"""The user that a report shows: what was recommended to them, and what it came from."""

from pathlib import Path

from mgray.serve.recommender import Reasons, Recommender
from mgray.testing.synthetic import make_log
from pipelines.train.publish import (
    EXAMPLE_EVENTS,
    EXAMPLE_FILMS,
    example_query,
    example_request,
    explain_example,
    make_example,
)
from tests.datasets import write_dataset
from tests.models import MODEL, model_config, write_model


def test_the_example_is_explained_by_its_own_history(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "version", make_log(30, 40))
    recommender = Recommender(
        write_model(tmp_path / "model", dataset.item_ids, dataset.item_counts[1:].tolist()),
    )
    query = example_query(dataset, recommender.scorer.columns)
    assert query is not None
    example = make_example(dataset, query, recommender)
    assert len(example.recommended) == EXAMPLE_FILMS
    assert example.why is not None
    assert [label for label, _ in example.why.granularities] == [str(level) for level in MODEL.granularities]
    assert len(example.why.events) == EXAMPLE_EVENTS
    assert {title for title, _ in example.why.events} <= {dataset.titles[item - 1] for item in query.history.items}


def test_events_are_by_title_and_the_largest_effect_first() -> None:
    titles = {"a": "Alien", "b": "Brazil", "c": "Heat"}
    why = explain_example(titles, Reasons(["1"], [2.0], ["a", "b", "c"], [0.5, -1.0, 0.25]))
    assert why.granularities == [("1", 2.0)]
    assert why.events == [("Brazil", -1.0), ("Alien", 0.5), ("Heat", 0.25)]


def test_the_request_has_every_column_though_there_is_no_example(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "version", make_log(30, 40))
    model = model_config(width=8, granularities=(1, "session:30m"))
    counts = dataset.item_counts[1:].tolist()
    recommender = Recommender(write_model(tmp_path / "model", dataset.item_ids, counts, config=model))
    assert example_request(dataset, None, recommender) == {"history": [[]], "timestamps": [[]]}
