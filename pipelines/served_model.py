"""The registered model as MLflow loads it: this file is copied into the model ("models from code"), so nothing is
unpickled, and the mgray package travels beside it, so nothing but its pip requirements must be installed.
"""

import logging
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from mgray.recommend import Recommender

logger = logging.getLogger("mgray")


class InterestModel(PythonModel):
    """DataFrame with a column `history` (lists of raw item ids, oldest first) -> `items`, `scores` (best first)."""

    def load_context(self, context: Any) -> None:
        self.recommender = Recommender(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        k = int((params or {}).get("k", 10))
        histories = [[] if h is None else [str(item) for item in h] for h in model_input["history"]]
        result = self.recommender.recommend(histories, k)
        unknown, total = sum(result.num_unknown), sum(len(h) for h in histories)
        if unknown:
            logger.warning("%d of %d history items are unknown to this model and were skipped", unknown, total)
        frame = pd.DataFrame({"items": result.items, "scores": result.scores}, index=model_input.index)
        frame.attrs["num_unknown"] = result.num_unknown
        return frame


mlflow.models.set_model(InterestModel())
