"""Two small trainings of one configuration, by two workers and by one, and what the tests of training do to them."""

import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mgray.config import TrainJobConfig

USERS, ITEMS, EPOCHS = 80, 40, 6
NAME = "mgray-interest"


class Runs(NamedTuple):
    """The same configuration twice, by two workers and then by one."""

    home: Path
    two_workers: dict[str, Any]
    one_worker: dict[str, Any]
    client: MlflowClient

    def run(self, result: dict[str, Any]) -> Run:
        return self.client.get_run(result["run_id"])


def settings(home: Path, **scale: Any) -> TrainJobConfig:
    return TrainJobConfig.model_validate(
        {
            "home": str(home),
            "data": {"source": str(home.parent / "log.csv"), "num_shards": 2},
            # Without dropout, whose masks differ by rank, one worker and two compute the same.
            "model": {"width": 16, "granularities": (1, 4), "heads": 2, "dropout": 0.0},
            "train": {
                "epochs": EPOCHS,
                "max_time_s": None,
                "global_batch_events": 300,
                "num_negatives": 15,
                "validate_every_epochs": 1,
            },
            # Two batches of queries or more, so that both ranks score.
            "evaluate": {"batch_events": 600},
            "scale": {"num_workers": 2, "collective_timeout_s": 60} | scale,
            "tracking": {"log_every_steps": 2},
        }
    )


CLIENT = """
import json, sys
sys.modules["ray"] = None  # an import of ray fails
import logging
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/mgray-interest@champion")
known = json.loads(sys.argv[2])
histories = [known, [known[0], "never seen", *known[1:]], []]
answer = model.predict(pd.DataFrame({"history": histories}), params={"k": 3})
whole = model.predict(pd.DataFrame({"history": [known]}))
import mgray
print(json.dumps({
    "columns": list(answer.columns),
    "items": answer["items"].tolist(),
    "scores": answer["scores"].tolist(),
    "default": len(whole["items"][0]),
    "code": mgray.__file__,
    "inputs": model.metadata.signature.inputs.to_dict(),
    "outputs": model.metadata.signature.outputs.to_dict(),
    "example": model.metadata.saved_input_example_info is not None,
}))
"""


def kill_a_worker_after_a_checkpoint(folder: Path, killed: list[int]) -> None:
    """SIGKILL to one rank of this session's Ray as soon as a checkpoint under `folder` is on record."""
    until = time.monotonic() + 100
    while time.monotonic() < until and not killed:
        time.sleep(0.02)
        states = [path.read_text() for path in folder.glob("*/checkpoint_manager_snapshot.json")]
        if not any("checkpoint_dir_name" in state for state in states):
            continue
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in process.name() or "RayTrainWorker" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                break
