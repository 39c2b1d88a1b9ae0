"""The registered model as MLflow loads it: this file is copied into the model ("models from code"), so nothing is
unpickled, and the mgray package travels beside it, so nothing but its pip requirements must be installed.
"""

import logging
from collections.abc import Sequence
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from mgray.errors import InputError
from mgray.serve.recommender import Reasons, Recommendations, Recommender
from mgray.serve.request import Lists, id_list

logger = logging.getLogger("mgray")

Choice = tuple[tuple[str, ...], tuple[str, ...]]  # candidates, blocked
DEFAULT_K = 10


class RequestError(InputError, MlflowException):
    """A mistake in a client's request: MLflow's server answers HTTP 400 with this one line."""

    def __init__(self, error: InputError) -> None:
        MlflowException.__init__(self, str(error), error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        self.message = str(self)  # the server puts the whole request before it
        return super().serialize_as_json()


class InterestModel(PythonModel):
    """DataFrame with a column `history` (lists of raw item ids, oldest first) -> `items`, `scores` (best first).

    An id is text or a whole number: 123 and 123.0 are `123`. Where the model reads more of an event than its item,
    columns beside history, such as `timestamps` or `ratings` (the signature names them), each a list as long as the
    history's. A row's null is an empty list. Columns and params of other names are not read: MLflow takes them out.

    A model with a rating head also takes `targets`, lists of raw item ids, and gives `ratings`: what the user would
    give each of them.

    params: `k` [10], the items of a list. `remove_seen` [as the model was measured]: leave out what is in the history.
    `candidates` [all]: the items that may be recommended, where there is one at least; `blocked` [none]: items that may
    not. These hold text alone, as MLflow wants it; columns `candidates` and `blocked` take numbers too, a list a row: a
    row's own candidates stand in place of the params', its own blocked items beside them.
    `explain` [false]: say why the first item of each list is there, in four more columns, all in units of the score and
    empty where the list is the popular items: `granularities`, finest first, then those of memory (`pairs: 2`), and
    `granularity_scores`, what each adds to the score (biases add the rest); `events`, the items of the last events (20
    at most), oldest first, and `event_scores`, by how much the score would fall without that event.

    Raises RequestError, in one line, for what is none of this.
    """

    def load_context(self, context: Any) -> None:
        self.recommender = Recommender(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        # A param that is null is not given.
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            return self._answer(model_input, given)
        except InputError as error:
            raise RequestError(error) from error

    def _answer(self, model_input: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        columns = {str(name): _cells(model_input[name]) for name in model_input.columns}
        histories = columns["history"]
        result = self._recommend(histories, columns, params)
        unknown, total = sum(result.num_unknown), sum(len(h) for h in histories if h is not None)
        if unknown:
            logger.warning("%d of %d history items are unknown to this model and were skipped", unknown, total)
        frame = pd.DataFrame({"items": result.items, "scores": result.scores}, index=model_input.index)
        if "targets" in columns:
            frame["ratings"] = self.recommender.rate(histories, columns["targets"], columns)
        if params.get("explain", False):
            reasons = self.recommender.explain(histories, result, beside=columns)
            why = pd.DataFrame(reasons, columns=list(Reasons._fields), index=model_input.index)
            frame = pd.concat([frame, why], axis=1)
        frame.attrs["num_unknown"] = result.num_unknown
        return frame

    def _recommend(self, histories: Sequence[Any], columns: Lists, params: dict[str, Any]) -> Recommendations:
        """Every row's list. Rows of the same candidates and blocked items are ranked at once."""
        groups: dict[Choice, list[int]] = {}
        for row in range(len(histories)):
            groups.setdefault(_choice(columns, params, row), []).append(row)
        if len(groups) > 1:  # so that an error names the request's row, and not that of a group
            self.recommender.encoder.encode_all(histories, columns)
        answers: dict[int, tuple[Any, ...]] = {}
        for (candidates, blocked), rows in groups.items():
            answer = self.recommender.recommend(
                [histories[row] for row in rows],
                params.get("k", DEFAULT_K),
                params.get("remove_seen"),
                {name: [lists[row] for row in rows] for name, lists in columns.items()},
                candidates or None,
                blocked,
            )
            answers |= dict(zip(rows, zip(*answer, strict=True), strict=True))
        fields = zip(*(answers[row] for row in range(len(histories))), strict=True)
        return Recommendations(*map(list, fields)) if answers else Recommendations([], [], [])


def _cells(column: pd.Series) -> list[Any]:
    """A request's column; None where a row has nothing, which pandas makes NaN."""
    return [None if pd.api.types.is_scalar(cell) and pd.isna(cell) else cell for cell in column]


def _choice(columns: Lists, params: dict[str, Any], row: int) -> Choice:
    """A row's candidates, all items where there are none, and its blocked items."""

    def own(name: str) -> list[str]:
        return id_list(columns[name][row] if name in columns else None, f"row {row}: {name}")

    def shared(name: str) -> list[str]:
        return id_list(params.get(name), name)

    return tuple(own("candidates") or shared("candidates")), tuple(shared("blocked") + own("blocked"))


mlflow.models.set_model(InterestModel())
