"""Models that were registered before mgray had packages still load: their code names modules of the flat layout."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from mgray.serve.recommender import Recommender
from tests.models import write_model

ROOT = Path(__file__).parents[2]

ITEMS = ["a", "b", "c", "d"]
HISTORIES = [["a", "b"], ["d"], []]
# What served_model.py imported of mgray in each version that models were registered by, newest first.
IMPORTS = {
    "request": """\
from mgray.errors import InputError
from mgray.raw_history import Lists, id_list
from mgray.recommend import Reasons, Recommendations, Recommender
""",
    "explain": """\
from mgray.errors import InputError
from mgray.recommend import Reasons, Recommender
""",
    "first": """\
from mgray.errors import InputError
from mgray.recommend import Recommender
""",
}
SERVED = """\
import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

{imports}

class InterestModel(PythonModel):
    def load_context(self, context):
        self.recommender = Recommender(context.artifacts["model"])

    def predict(self, context, model_input: pd.DataFrame, params=None):
        result = self.recommender.recommend(list(model_input["history"]), 2)
        return pd.DataFrame({{"items": result.items, "scores": result.scores}})


mlflow.models.set_model(InterestModel())
"""
# An mgray in the flat layout, whose lists tell that it is this one.
TRAVELLING = {
    "__init__.py": "",
    "errors.py": "class InputError(ValueError): ...\n",
    "raw_history.py": "Lists = dict\ndef id_list(value, name): return list(value)\n",
    "recommend.py": """\
from typing import NamedTuple

class Recommendations(NamedTuple):
    items: list
    scores: list

class Reasons(NamedTuple):
    events: list

class Recommender:
    def __init__(self, folder): ...
    def recommend(self, histories, k):
        return Recommendations([["its", "own"]] * len(histories), [[2.0, 1.0]] * len(histories))
""",
}
LOAD = """\
import json, sys
{before}
import mlflow, pandas as pd
frame = mlflow.pyfunc.load_model(sys.argv[1]).predict(pd.DataFrame({{"history": json.loads(sys.argv[2])}}))
print(json.dumps([list(row) for row in frame["items"]]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), ITEMS, [4, 3, 2, 1])


@pytest.fixture(scope="module", params=IMPORTS)
def old_model(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as MLflow saved it when mgray was flat: served_model.py, a flat mgray, and the model folder."""
    home = tmp_path_factory.mktemp("old")
    (home / "served_model.py").write_text(SERVED.format(imports=IMPORTS[request.param]))
    (home / "mgray").mkdir()
    for name, text in TRAVELLING.items():
        (home / "mgray" / name).write_text(text)
    mlflow.pyfunc.save_model(
        path=str(home / "model"),
        python_model=str(home / "served_model.py"),
        artifacts={"model": str(folder)},
        code_paths=[str(home / "mgray")],
    )
    return home / "model"


def lists_of(model: Path, before: str, cwd: Path) -> list[list[str]]:
    command = [sys.executable, "-c", LOAD.format(before=before), str(model), json.dumps(HISTORIES)]
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_its_own_code_answers_in_a_fresh_process(old_model: Path, tmp_path: Path) -> None:
    assert lists_of(old_model, "", tmp_path) == [["its", "own"]] * len(HISTORIES)


def test_the_code_here_answers_where_it_is_imported_already(old_model: Path, folder: Path, tmp_path: Path) -> None:
    found = lists_of(old_model, f"sys.path.insert(0, {str(ROOT)!r})\nimport mgray.serve.recommender", tmp_path)
    assert found == Recommender(folder).recommend(HISTORIES, 2).items
