"""Stage of a training run after its model is published: the baselines' figures, which no failure of theirs undoes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from mgray.config import ResolvedTrainJobConfig
from mgray.data.dataset import Dataset
from mgray.eval.measured_baselines import MeasuredBaselines, evaluate_baselines
from pipelines.runtime import cluster

RANKS_FROM_EVENTS = 2**22  # training events from which ranks are worth the seconds in which they start
STAGE_SUFFIX = "-baselines"  # of the run's name for Ray Train

logger = logging.getLogger(__name__)


class StageInput(NamedTuple):
    """Input of every rank; plain values, so that it travels to any node."""

    config: str  # a ResolvedTrainJobConfig as JSON
    dataset: str  # folder of the dataset version


def measure_baselines(
    dataset: Dataset,
    config: ResolvedTrainJobConfig,
    plan: cluster.WorkerPlan,
    make_trainer: Callable[..., TorchTrainer],
    runs: Path,
    run_id: str,
) -> MeasuredBaselines:
    """Figures of the baselines on the test part: of a large log by the ranks, else here. It never raises."""
    given = StageInput(config.model_dump_json(), str(dataset.folder.absolute()))
    try:
        if plan.num_workers == 1 or dataset.manifest.train_events < RANKS_FROM_EVENTS:
            return _measure(given)
        trainer = make_trainer(
            baseline_worker,
            train_loop_config=given._asdict(),
            # They rank on CPUs, whatever the training took.
            torch_config=TorchConfig(backend="gloo", timeout_s=config.scale.collective_timeout_s),
            scaling_config=ScalingConfig(
                num_workers=plan.num_workers, use_gpu=plan.use_gpu, resources_per_worker=plan.resources_per_worker
            ),
            run_config=RunConfig(
                name=run_id + STAGE_SUFFIX,
                storage_path=str(runs),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=3),
            ),
        )
        measured: MeasuredBaselines = trainer.fit().return_value
        return measured
    except Exception as error:  # the model is published: a run does not fail for what stands beside it
        logger.warning("the baselines were not measured", exc_info=True)
        return MeasuredBaselines(failures={"all": f"{type(error).__name__}: {error}"})


def baseline_worker(given: dict[str, Any]) -> MeasuredBaselines:
    """Run one rank, as Ray Train calls it. given: StageInput's fields."""
    return _measure(StageInput(**given))


def _measure(given: StageInput) -> MeasuredBaselines:
    config = ResolvedTrainJobConfig.model_validate_json(given.config)
    return evaluate_baselines(Dataset(given.dataset), "test", config.evaluate, config.model.outputs)
