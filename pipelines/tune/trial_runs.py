"""MLflow's runs of a search's trials, nested under the search's own. The driver makes and ends them, a trial logs."""

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Param
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from mgray.config import TrackingConfig
from pipelines.tracking import metric_key, param_text

logger = logging.getLogger(__name__)


class TrialRuns:
    """An outage of MLflow is told, and ends no search."""

    def __init__(self, config: TrackingConfig, uri: str, parent: str) -> None:
        self.client = MlflowClient(uri)
        self.parent = parent
        self.experiment_id = self.client.get_experiment_by_name(config.experiment).experiment_id

    def create(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """A new RUNNING run -> its id; an id that MLflow does not know where it is down."""
        run_id = f"untracked-{uuid.uuid4().hex}"
        try:
            given = {**tags, MLFLOW_RUN_NAME: name, MLFLOW_PARENT_RUN_ID: self.parent}
            run_id = str(self.client.create_run(self.experiment_id, tags=given).info.run_id)
            texts = {key: param_text(value)[:6000] for key, value in params.items()}
            self.client.log_batch(run_id, params=[Param(key, text) for key, text in texts.items()])
        except Exception as error:  # MLflow raises whatever its backend does
            logger.warning("MLflow took no run for %s, or not all of it: %s", name, error)
        return run_id

    def update(
        self,
        run_id: str,
        status: str,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """status: RUNNING, FINISHED, FAILED or KILLED."""
        try:
            for key, value in (tags or {}).items():
                self.client.set_tag(run_id, key, value[:5000])
            for key, figure in (metrics or {}).items():
                self.client.log_metric(run_id, metric_key(key), figure)
            if status == "RUNNING":
                self.client.update_run(run_id, status)
            else:
                self.client.set_terminated(run_id, status)
        except Exception as error:  # as above
            logger.warning("MLflow did not take that run %s is %s: %s", run_id, status, error)

    def end_leftovers(self, but: set[str], outcome: str = "killed with its driver") -> None:
        """KILLED for the runs under the search that a killed driver left RUNNING, `but` for those that go on."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent}' and attributes.status = 'RUNNING'"
        try:
            left = self.client.search_runs([self.experiment_id], query)
        except Exception as error:  # as above
            logger.warning("MLflow did not tell what a killed driver left running: %s", error)
            return
        for run in left:
            if run.info.run_id not in but:
                self.update(run.info.run_id, "KILLED", {"search.outcome": outcome})
