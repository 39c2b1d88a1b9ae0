"""RecTools' SASRec and two models without training, in an environment of their own; called by benchmarks/peer.py.

    PYTHON _peer_rectools.py '{"folder": "...", "width": 64, ...}'      # prints one JSON line

The folder has train.csv, valid.csv and test.csv: user_id, item_id, place (within the user's history). After
every epoch all users' validation events are ranked among all items, those that a user has taken out; the clock stands
still meanwhile. The test events are ranked once, at the end, with the weights that were best by validation, after the
validation events have joined the histories. Of fp32 and bf16 autocast the faster is taken, by a few batches of each.
"""

import copy
import json
import logging
import math
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from implicit.nearest_neighbours import CosineRecommender
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset, Interactions
from rectools.models import ImplicitItemKNNWrapperModel, PopularModel, SASRecModel
from rectools.models.base import ModelBase

K = 10
PRECISIONS = ("32-true", "bf16-mixed")
TRIAL_STEPS, WARM_UP_STEPS = 12, 4
MODELS: list[SASRecModel] = []  # the trainer deep-copies its callbacks, so they cannot hold the model


class Pace(Callback):
    """Seconds of a training step."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP_STEPS:
            self.begun = time.perf_counter()
        self.step_s = (time.perf_counter() - getattr(self, "begun", 0.0)) / max(1, trainer.global_step - WARM_UP_STEPS)


class Curve(Callback):
    """Quality by minutes of training; ends the fit when the metric or the time is reached."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.trained_s, self.resumed = 0.0, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.trained_s + time.perf_counter() - self.resumed > self.settings["max_time_s"]:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.trained_s += time.perf_counter() - self.resumed
        training = module.training
        model = MODELS[0]
        model.is_fitted = True  # it is asked in the middle of its fit
        metrics = evaluate(model, self.settings["known"], self.settings["valid"])
        module.train(training)
        self.curve.append({"epoch": trainer.current_epoch + 1, "seconds": self.trained_s, **metrics})
        print(f"  {self.trained_s:7.0f} s: {self.curve[-1]}", file=sys.stderr, flush=True)
        if metrics["ndcg@10"] >= max(point["ndcg@10"] for point in self.curve):
            self.best = copy.deepcopy(module.state_dict())
        if metrics["ndcg@10"] >= self.settings["stop_at"]:
            trainer.should_stop = True
        self.resumed = time.perf_counter()


def evaluate(model: ModelBase, known: Dataset, targets: pd.DataFrame) -> dict[str, float]:
    """known: what the users have so far; targets: one event a user."""
    users = targets[targets[Columns.User].isin(known.user_id_map.external_ids)]
    listed = model.recommend(users[Columns.User].to_numpy(), known, k=K, filter_viewed=True)
    hits = listed.merge(targets, on=[Columns.User, Columns.Item])
    gain = sum(1 / math.log2(rank + 1) for rank in hits[Columns.Rank])
    return {"hr@10": len(hits) / len(targets), "ndcg@10": gain / len(targets)}


def read_events(path: Path) -> pd.DataFrame:
    names = {"user_id": Columns.User, "item_id": Columns.Item, "place": Columns.Datetime}
    events = pd.read_csv(path).rename(columns=names)
    events[Columns.Datetime] = pd.to_datetime(events[Columns.Datetime], unit="s")  # only their order counts
    events[Columns.Weight] = 1.0
    return events


def make_model(settings: dict[str, Any], callback: Callback, precision: str, max_steps: int = -1) -> SASRecModel:
    def make_trainer() -> Trainer:
        return Trainer(
            max_epochs=1000,
            max_steps=max_steps,
            precision=precision,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback],
        )

    return SASRecModel(
        n_factors=settings["width"],
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        session_max_len=settings["max_length"],
        batch_size=settings["batch_size"],
        loss=settings["loss"],
        lr=settings["learning_rate"],
        dropout_rate=settings["dropout"],
        get_trainer_func=make_trainer,
        recommend_batch_size=512,
    )


def measure_pace(settings: dict[str, Any], known: Dataset) -> dict[str, float]:
    """Seconds of a training step by precision, from a few batches of each."""
    pace = {}
    for precision in PRECISIONS:
        tried = make_model(settings, Pace(), precision, TRIAL_STEPS).fit(known)
        pace[precision] = next(one for one in tried.fit_trainer.callbacks if isinstance(one, Pace)).step_s
        print(f"  {precision}: {pace[precision]:.2f} s a step", file=sys.stderr)
    return pace


def main() -> None:
    settings = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(settings["threads"])
    seed_everything(settings["seed"])
    parts = {name: read_events(Path(settings["folder"]) / f"{name}.csv") for name in ("train", "valid", "test")}
    known = Dataset.construct(parts["train"])
    settings |= {"known": known, "valid": parts["valid"]}
    pace = measure_pace(settings, known)
    fastest = min(PRECISIONS, key=lambda precision: pace[precision])
    model = make_model(settings, Curve(settings), fastest)
    MODELS.append(model)
    model.fit(known)
    done = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, Curve))
    model.lightning_model.load_state_dict(done.best)
    # The same numbers for the same users and items: the models without training know them by these alone.
    joined = pd.concat([parts["train"], parts["valid"]])
    joined = joined[joined[Columns.Item].isin(known.item_id_map.external_ids)]
    interactions = Interactions.from_raw(joined, known.user_id_map, known.item_id_map)
    later = Dataset(known.user_id_map, known.item_id_map, interactions)
    models = {
        "SASRec": model,
        "popularity": PopularModel().fit(known),
        "nearest neighbours": ImplicitItemKNNWrapperModel(CosineRecommender(K=settings["neighbours"])).fit(known),
    }
    lengths = parts["train"].groupby(Columns.User).size() - 1
    positions = int(lengths.clip(upper=settings["max_length"]).sum())
    steps_an_epoch = math.ceil(int((lengths > 0).sum()) / settings["batch_size"])
    seconds = done.curve[-1]["seconds"]
    print(
        json.dumps(
            {
                "curve": done.curve,
                "precision": fastest,
                "step_s": pace,
                "test": {name: evaluate(one, later, parts["test"]) for name, one in models.items()},
                "seconds": seconds,
                "positions_an_epoch": positions,
                "positions_s": positions * model.fit_trainer.global_step / steps_an_epoch / seconds,
                "parameters": sum(parameter.numel() for parameter in model.torch_model.parameters()),
                "versions": {name: version(name) for name in ("rectools", "torch", "numpy", "pytorch-lightning")},
            }
        )
    )


if __name__ == "__main__":
    main()
