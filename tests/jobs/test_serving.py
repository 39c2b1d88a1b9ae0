"""The registered model over HTTP, by `mlflow models serve`: what JSON clients send, in each form of body."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
import requests

from mgray.config import TrackingConfig
from mgray.serve.model_folder import load_info
from mgray.serve.recommender import Recommendations, Recommender
from tests import models
from tests.heads import free_ports
from tests.jobs.processes import ROOT, environment
from tests.stores import give_store
from tests.unit.test_served_model import write_model

START_TIMEOUT_S, STOP_TIMEOUT_S, REQUEST_TIMEOUT_S = 120, 10, 30
Rows = list[dict[str, Any]]
Ask = Callable[..., requests.Response]

# As JavaScript writes them: whole numbers, null for what is not there.
FULL: dict[str, Any] = {
    "history": [1, "x", 2],
    "timestamps": [1600000000, 1600000005, 1600000060],
    "event_types": ["buy", None, "view"],
    "ratings": [5, 1, 3],
    "features": [[10], [20], [5]],
    "targets": ["b", 4, 4.0],
}
SHORT: dict[str, Any] = {
    "history": ["b"],
    "timestamps": [1700000000.5],
    "event_types": [None],
    "ratings": [None],
    "features": [None],
    "targets": [],
}
NEW: dict[str, Any] = {"history": []}  # a user without an event; the other columns are missing


def records(rows: Rows) -> dict[str, Any]:
    return {"dataframe_records": rows}


def split(rows: Rows) -> dict[str, Any]:
    names = list(rows[0])
    return {"dataframe_split": {"columns": names, "data": [[row.get(name) for name in names] for row in rows]}}


def inputs_by_row(rows: Rows) -> dict[str, Any]:
    return {"inputs": rows}


def inputs_by_column(rows: Rows) -> dict[str, Any]:
    return {"inputs": {name: [row.get(name) for row in rows] for name in rows[0]}}


def instances(rows: Rows) -> dict[str, Any]:
    return {"instances": rows}


@contextmanager
def server(command: str, port: int, cwd: Path) -> Iterator[str]:
    """A server of a shell's command line, answering; its URL. Ended with all that it started."""
    with (cwd / "server.log").open("w+") as log:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=cwd,
            env=environment(OMP_NUM_THREADS="1"),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_TIMEOUT_S
            while True:
                with suppress(requests.RequestException):
                    if requests.get(f"{url}/ping", timeout=5).ok:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command} did not come up:\n{Path(log.name).read_text()[-3000:]}")
                time.sleep(0.2)
            yield url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads all that there is, and rates; ids of digits among others."""
    inputs = ("event_type", "features", "rating", "time_gap")
    return write_model(tmp_path_factory.mktemp("model"), inputs, outputs="both", item_ids=["1", "2", "b", "4"])


@pytest.fixture(scope="module")
def ask(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """ask(body, content type): a request to the served model."""
    from pipelines import tracking

    place = tmp_path_factory.mktemp("served")
    example = Recommender(folder).empty_request()
    mlflow.pyfunc.save_model(
        str(place / "saved"),
        python_model=str(Path(tracking.__file__).with_name("served_model.py")),
        artifacts={"model": str(folder)},
        code_paths=[str(ROOT / "mgray")],
        signature=tracking.signature(example, load_info(folder)),
        input_example=pd.DataFrame(example),
        pip_requirements=[],
    )
    (port,) = free_ports(1)
    with server(f"exec mlflow models serve --env-manager local -m saved -p {port}", port, place) as url:

        def post(body: Any, kind: str = "application/json") -> requests.Response:
            data = body if isinstance(body, (str, bytes)) else json.dumps(body)
            return requests.post(
                f"{url}/invocations", data=data, headers={"Content-Type": kind}, timeout=REQUEST_TIMEOUT_S
            )

        yield post


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender(folder)


def by_hand(recommender: Recommender, rows: Rows, **options: Any) -> Recommendations:
    """Answers of the model for ids in text and numbers in floats."""
    columns: dict[str, list] = {name: [row.get(name) or [] for row in rows] for name in FULL}
    histories = [[str(item) for item in history] for history in columns.pop("history")]
    for name in ("timestamps", "ratings"):
        columns[name] = [[None if value is None else float(value) for value in own] for own in columns[name]]
    return recommender.recommend(histories, beside=columns, **options)


def check(answer: requests.Response, expected: Recommendations) -> Rows:
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    assert [row["items"] for row in rows] == expected.items
    for row, scores in zip(rows, expected.scores, strict=True):
        assert row["scores"] == pytest.approx(scores, abs=1e-5)
    return rows


PARAMS: list[tuple[dict[str, Any] | None, dict[str, Any]]] = [
    (None, {}),
    ({"k": 2}, {"k": 2}),
    (
        {"k": 3, "remove_seen": False, "candidates": ["1", "b", "no such item"], "blocked": ["b"], "explain": False},
        {"k": 3, "remove_seen": False, "candidates": ["1", "b"], "blocked": ["b"]},
    ),
    ({"k": None, "remove_seen": None}, {}),
]


@pytest.mark.parametrize(("params", "options"), PARAMS, ids=["none", "k", "all", "null"])
@pytest.mark.parametrize("form", [records, split, inputs_by_row, inputs_by_column])
def test_rows_of_different_lengths(
    form: Callable, params: dict | None, options: dict, ask: Ask, recommender: Recommender
) -> None:
    rows = [FULL, SHORT, NEW]
    body = form(rows) | ({} if params is None else {"params": params})
    found = check(ask(body), by_hand(recommender, rows, **options))
    (rated,) = recommender.rate(
        [["1", "x", "2"]], [["b", "4", "4"]], {name: [FULL[name]] for name in FULL if name != "targets"}
    )
    assert found[0]["ratings"] == pytest.approx(rated, abs=1e-5)
    assert [row["ratings"] for row in found[1:]] == [[], []]


@pytest.mark.parametrize(("params", "options"), PARAMS, ids=["none", "k", "all", "null"])
@pytest.mark.parametrize("rows", [[FULL], [FULL, FULL | {"history": [2, 4, 1]}]], ids=["one", "two"])
def test_instances_of_one_length(
    rows: Rows, params: dict | None, options: dict, ask: Ask, recommender: Recommender
) -> None:
    body = instances(rows) | ({} if params is None else {"params": params})
    check(ask(body), by_hand(recommender, rows, **options))


def test_parquet(ask: Ask, recommender: Recommender) -> None:
    rows = [FULL | {"history": ["1", "x", "2"], "targets": ["b"]}, SHORT]  # a column of Parquet has one type
    numbers = [{"history": [1, 3, 2]}, {"history": [4]}]
    for given in (rows, [row | own for row, own in zip(rows, numbers, strict=True)]):
        file = io.BytesIO()
        pd.DataFrame(given).to_parquet(file)
        check(ask(file.getvalue(), "application/vnd.apache.parquet"), by_hand(recommender, given))


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"history": []}]},
        {"dataframe_records": [{"history": None}]},
        {"inputs": {"history": [[]]}},
        {"inputs": {"history": []}},
        {"instances": [{"history": []}]},
    ],
    ids=json.dumps,
)
def test_a_user_without_an_event_needs_no_other_column(body: dict, ask: Ask, recommender: Recommender) -> None:
    check(ask(body), recommender.recommend([[]]))


def test_a_missing_column_is_named(ask: Ask) -> None:
    answer = ask(records([{name: FULL[name] for name in ("history", "timestamps", "ratings", "features")}]))
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("the model reads event_types, which are not given: put a column ")


def test_no_rows(ask: Ask) -> None:
    answer = ask({"dataframe_split": {"columns": list(FULL), "data": []}})
    assert (answer.status_code, answer.json()) == (200, {"predictions": []})


def test_each_row_has_its_own_candidates_and_blocked_items(ask: Ask, recommender: Recommender) -> None:
    own = [{"candidates": [1, "b", 4.0], "blocked": [1]}, {"blocked": [2]}, {"candidates": []}]
    rows = [row | mine for row, mine in zip([FULL, SHORT, NEW], own, strict=True)]
    answer = ask(records(rows) | {"params": {"candidates": ["2", "4"], "blocked": ["4"]}})
    assert [row["items"] for row in answer.json()["predictions"]] == [["b"], [], ["2"]]
    wrong = ask(records([FULL, SHORT, rows[0] | {"timestamps": [3, 2, 1]}]))
    assert wrong.json()["message"].startswith("row 2: timestamps must be")


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("text for a list", {"history": "1"}, "row 1: history must be a list of item ids, not '1'"),
    ("number for a list", {"history": 1}, "row 1: history must be a list of item ids, not 1"),
    ("object for a list", {"history": {"1": 2}}, "row 1: history must be a list of item ids, not {'1': 2}"),
    ("null id", {"history": [None]}, "row 1: history: null is neither text nor a whole number"),
    ("truth value for an id", {"history": [True]}, "row 1: history: True is neither text nor a whole number"),
    ("list for an id", {"history": [[1]]}, "row 1: history: [1] is neither text nor a whole number"),
    ("object for an id", {"history": [{"id": 1}]}, "row 1: history: {'id': 1} is neither text nor a whole number"),
    ("null target", {"targets": [1, None]}, "row 1: targets: null is neither text nor a whole number"),
    ("text for targets", {"targets": "1"}, "row 1: targets must be a list of item ids, not '1'"),
    ("text for candidates", {"candidates": "1"}, "row 1: candidates must be a list of item ids, not '1'"),
    ("object among blocked", {"blocked": [{}]}, "row 1: blocked: {} is neither text nor a whole number"),
    ("text for times", {"timestamps": "now"}, "row 1: timestamps must be a list, a value for each item of history"),
    ("text for a time", {"timestamps": ["1700000000"]}, "row 1: timestamps are not what they should be: seconds"),
    ("too many times", {"timestamps": [1, 2]}, "row 1: timestamps has 2 values for the 1 items of history"),
    ("no times", {"timestamps": None}, "row 1: timestamps has 0 values for the 1 items of history"),
    ("null time", {"timestamps": [None]}, "row 1: timestamps must be seconds since 1970"),
    ("unsorted", {**FULL, "timestamps": [3, 2, 1]}, "row 1: timestamps must be seconds since 1970, oldest first"),
    ("infinite time", {"timestamps": [float("inf")]}, "row 1: timestamps must be finite numbers"),
    ("integer beyond floats", {"timestamps": [10**400]}, "row 1: timestamps are not what they should be"),
    ("infinite rating", {"ratings": [float("-inf")]}, "row 1: ratings must be finite numbers"),
    ("rating beyond 32 bits", {"ratings": [1e300]}, "row 1: ratings must be finite numbers"),
    ("text for a rating", {"ratings": ["good"]}, "row 1: ratings are not what they should be: ratings, none where"),
    ("digits for a rating", {"ratings": ["5"]}, "'5' is no number"),
    ("truth value for a rating", {"ratings": [True]}, "row 1: ratings are not what they should be"),
    ("list for an event type", {"event_types": [["buy"]]}, "row 1: event_types are not what they should be: names"),
    ("text for a feature", {"features": [["1"]]}, "row 1: features are not what they should be: lists of numbers"),
    ("too many features", {"features": [[1, 2]]}, "row 1: features are not what they should be: lists of numbers"),
    ("infinite feature", {"features": [[float("inf")]]}, "row 1: features are not what they should be"),
]


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_gets_one_line(change: dict, says: str, ask: Ask) -> None:
    answer = ask(records([FULL, SHORT | change]))
    assert answer.status_code == 400
    error = answer.json()
    assert says in error["message"]
    assert "\n" not in error["message"]
    assert (error["error_code"], "stack_trace" in error) == ("INVALID_PARAMETER_VALUE", False)


def test_k_is_at_least_one(ask: Ask) -> None:
    answer = ask(records([FULL]) | {"params": {"k": 0}})
    assert answer.status_code == 400
    assert answer.json()["message"] == "k: 0 is not a number of items to recommend; give at least 1"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (records([{"timestamps": [1]}]), "Model is missing inputs ['history']"),
        (records([FULL]) | {"params": {"k": "ten"}}, "'k'"),
        (records([FULL]) | {"params": {"k": 2.5}}, "'k'"),
        (records([FULL]) | {"params": {"remove_seen": "no"}}, "'remove_seen'"),
        (records([FULL]) | {"params": {"blocked": "1"}}, "'blocked'"),
        (records([FULL]) | {"params": {"candidates": [1]}}, "'candidates'"),
        (records([FULL]) | {"params": [1]}, "Parameters must be a dictionary"),
        (instances([FULL, SHORT]), "inhomogeneous shape"),
        ([FULL], "Received a list"),
        ({"rows": [FULL]}, "exactly one of the input fields"),
    ],
)
def test_what_mlflow_refuses_by_itself(body: Any, says: str, ask: Ask) -> None:
    """Before the model is asked: 400, and the name; the line is MLflow's."""
    answer = ask(body)
    assert answer.status_code == 400
    assert says in answer.json()["message"]
    assert "stack_trace" not in answer.json()


def test_csv_has_no_lists(ask: Ask) -> None:
    answer = ask('history\n"[1, 2]"\n', "text/csv")
    assert answer.status_code == 400
    assert "some of the inputs types are not DataType" in answer.json()["message"]


def test_other_names_are_ignored(ask: Ask, recommender: Recommender) -> None:
    body = records([FULL | {"user": ["me"]}]) | {"params": {"top": 1}}
    check(ask(body), by_hand(recommender, [FULL]))


def test_the_reasons_are_json(ask: Ask) -> None:
    answer = ask(records([FULL, NEW]) | {"params": {"explain": True}})
    first, second = json.loads(answer.text, parse_constant=pytest.fail)["predictions"]
    assert (first["granularities"], first["events"]) == (["1"], ["1", "2"])
    assert second["events"] == []


def test_the_documented_command_lines(tmp_path: Path, mlflow_apart: None) -> None:
    from pipelines import tracking

    section = (ROOT / "docs" / "model-in-use.md").read_text().split("\n## HTTP\n")[1].split("\n## ")[0]
    serve, curl = re.findall(r"^```\n(.*?)```$", section, re.M | re.S)
    assert ":5001" in curl
    assert "-p 5001" in serve
    ids = ["50", "181", "172", "7", "8", "9", "10"]
    folder = models.write_model(tmp_path / "model", ids, [7, 6, 5, 4, 3, 2, 1])
    config = TrackingConfig(system_metrics=False)
    give_store(tmp_path / "var")
    tracking.open_tracking(config, tmp_path / "var")
    with tracking.start_run(config, {}, {}, "test"):
        assert tracking.register(config, folder, {"history": [["50"]]}, {}) == "1"
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (port,) = free_ports(1)
    with server(serve.replace("5001", str(port)), port, tmp_path):
        done = subprocess.run(
            ["bash", "-c", curl.replace("5001", str(port))], capture_output=True, text=True, timeout=60, check=True
        )
    expected = Recommender(folder).recommend([["50", "181", "172"], []], 5)
    answered = json.loads(done.stdout)["predictions"]
    assert [row["items"] for row in answered] == expected.items
