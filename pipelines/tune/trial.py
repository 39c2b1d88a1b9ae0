"""One trial of a search, in Tune's actor: trains as a run of its own does, and reports to Tune at each validation.

With one worker the training is in the actor itself, where a nested Train run would cost 13-20 s. With several it is
DDP on the cluster's workers, and the actor only waits for it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from mgray.config import ResolvedTrainJobConfig
from mgray.errors import InputError
from pipelines.runtime.cluster import WorkerPlan
from pipelines.train.job import Fitted, fit, fit_here, train_in_run
from pipelines.train.worker import RankInput
from pipelines.tune.study import EPOCH, FAILED, FINISHED, SCORE


class TrialInput(NamedTuple):
    """Input of a trial, from the driver; plain values, so that it travels to any node."""

    config: str  # a ResolvedTrainJobConfig as JSON
    dataset: str  # folder of the dataset version
    run_id: str  # of MLflow, and so of the trial's folder in `home`/runs
    uri: str
    home: str
    plan: WorkerPlan
    metric: str  # that makes the score, such as ndcg@10
    wrong_input: str | None  # why this point is no valid config


def scored(metrics: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Figures of a validation for Tune. The score is that of the best epoch so far, which is the one a run keeps."""
    return {SCORE: metrics[f"best_{metric}"], **{key: metrics[key] for key in (EPOCH, "step", "seconds")}}


class _ScoredReport(TuneReportCallback):
    """Passes rank 0's figures from the Train run's controller on to Tune; its checkpoints stay Train's."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        self.metric = metric

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if metrics[0]:  # a checkpoint alone has no figures
            super().after_report(run_context, [scored(metrics[0], self.metric)], None)


def run_trial(settings: dict[str, Any]) -> None:
    """settings: TrialInput's fields. Always ends by itself: a failure is a report with its reason."""
    given = TrialInput(**{name: settings[name] for name in TrialInput._fields})
    try:
        if given.wrong_input:
            raise InputError(given.wrong_input)
        trained = _train(given).trained
    except Exception as error:  # whatever it is, it ends this trial and not the search
        cause = _cause(error)
        wrong_input = isinstance(cause, InputError)
        reason = str(cause) if wrong_input else f"{type(cause).__name__}: {cause}"
        tune.report({FAILED: reason[:2000], "wrong_input": wrong_input})
        return
    last = trained.curve[-1]
    figures = {EPOCH: last.epoch, "step": last.step, "seconds": last.seconds}
    tune.report({SCORE: trained.best_valid[given.metric], FINISHED: True, **figures})


def _train(given: TrialInput) -> Fitted:
    config = ResolvedTrainJobConfig.model_validate_json(given.config)
    plan, home = given.plan, Path(given.home)

    def train(rank: RankInput) -> Fitted:
        if plan.num_workers > 1:
            return fit(rank, config, plan, home / "runs", [_ScoredReport(given.metric)])
        if not plan.use_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return fit_here(rank, home / "runs", lambda metrics: tune.report(scored(metrics, given.metric)))

    return train_in_run(config, Path(given.dataset), given.run_id, given.uri, home, train)


def _cause(error: BaseException) -> BaseException:
    """The worker's own error out of Ray Train's wrappings."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return _cause(next(iter(failures.values())))
    inner = getattr(error, "controller_failure", None) or getattr(error, "cause", None) or error.__cause__
    return _cause(inner) if isinstance(inner, BaseException) and inner is not error else error
