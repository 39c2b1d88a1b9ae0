"""The registered model as MLflow loads it: this file is copied into the model ("models from code"), so nothing is
unpickled, and the mgray package travels beside it, so nothing but its pip requirements must be installed.
"""

import logging
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from mgray.recommend import Reasons, Recommender

logger = logging.getLogger("mgray")


class InterestModel(PythonModel):
    """DataFrame with a column `history` (lists of raw item ids, oldest first) -> `items`, `scores` (best first).

    Where the model reads more of an event than its item, columns beside it: `timestamps`, `event_types`, `ratings`,
    `features`, each a list as long as the history's.

    A model with a rating head also takes `targets`, lists of raw item ids, and gives `ratings`: what the user would
    give each of them.

    params: `k` [10], the items of a list. `remove_seen` [as the model was measured]: leave out what is in the history.
    `candidates` [all]: the items that may be recommended, where there is one at least; `blocked` [none]: items that may
    not.
    `explain` [false]: say why the first item of each list is there, in four more columns, all in units of the score and
    empty where the list is the popular items: `granularities`, finest first, and `granularity_scores`, what each adds
    to the score (biases add the rest); `events`, the items of the last events (20 at most), oldest first, and
    `event_scores`, by how much the score would fall without that event.
    """

    def load_context(self, context: Any) -> None:
        self.recommender = Recommender(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        params = params or {}
        k = int(params.get("k", 10))
        histories = [[] if h is None else [str(item) for item in h] for h in model_input["history"]]
        beside = {str(name): list(model_input[name]) for name in model_input.columns}
        candidates, blocked = ([str(item) for item in params.get(name, ())] for name in ("candidates", "blocked"))
        # MLflow has no None for a list: an empty one is no choice.
        result = self.recommender.recommend(
            histories, k, params.get("remove_seen"), beside, candidates or None, blocked
        )
        unknown, total = sum(result.num_unknown), sum(len(h) for h in histories)
        if unknown:
            logger.warning("%d of %d history items are unknown to this model and were skipped", unknown, total)
        frame = pd.DataFrame({"items": result.items, "scores": result.scores}, index=model_input.index)
        if "targets" in beside:
            targets = [[] if asked is None else [str(item) for item in asked] for asked in beside["targets"]]
            frame["ratings"] = self.recommender.rate(histories, targets, beside)
        if params.get("explain", False):
            reasons = self.recommender.explain(histories, result, beside=beside)
            why = pd.DataFrame(reasons, columns=list(Reasons._fields), index=model_input.index)
            frame = pd.concat([frame, why], axis=1)
        frame.attrs["num_unknown"] = result.num_unknown
        return frame


mlflow.models.set_model(InterestModel())
