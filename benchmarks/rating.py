"""The rating head on MovieLens-100K beside biases and matrix factorizations, all run here on the same parts.

    .venv/bin/pip install --no-deps -r benchmarks/requirements.txt    # Surprise
    python benchmarks/rating.py            # about 7 minutes on one idle core

Five random folds, as published figures have them (RMSE of SVD++ 0.919, of a bias 0.944, of SVD 0.934), and a global
temporal split, the last tenth of the ratings to test. mgray's raters know the same of a user when they rate: in the
random folds the user's whole training part, in time all that the user rated before. Surprise's bias, SVD and SVD++, at
its own defaults, learn users by id and cannot be told more of one: in time they learn from the validation part too.
Hyper-parameters, those of jobs/configs/rating.yaml, are the same in both; they were chosen on one fold of another draw
of the folds, which shares ratings with these, and on the temporal split's validation part.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import surprise
import torch
from _datasets import ingest
from _results import check, write

sys.path.insert(0, str(Path(__file__).parent.parent))

from mgray.config import EvaluateConfig, TrainConfig, TrainJobConfig
from mgray.config.command_line import parse_args
from mgray.data.dataset import Dataset, Histories
from mgray.eval.metrics import RatingMetrics
from mgray.eval.part_metrics import PartEvaluation
from mgray.eval.rating import evaluate_ratings, rating_batches
from mgray.eval.rating_baselines import make_rating_baselines
from mgray.model.mgdsc import MGDSC
from mgray.schema import TEST, TRAIN, UNKNOWN, OptionalColumn
from mgray.train.objective import Objective
from mgray.train.resolve import resolve_job
from mgray.train.trainer import Trainer

NUM_FOLDS = 5
CONFIG_FILE = Path(__file__).parent.parent / "jobs" / "configs" / "rating.yaml"
CONFIG = parse_args(TrainJobConfig, "rating", ["--config", str(CONFIG_FILE)])
TRAINING = CONFIG.train
CPU = torch.device("cpu")


class Fold(Dataset):
    """A version with a random split, its parts drawn anew: one event in five tests, the others train.

    Items without an event in the version's own training part stay unknown: a few that were rated once or twice.
    """

    def __init__(self, folder: Path, fold: int) -> None:
        super().__init__(folder)
        self.fold = fold

    def read(
        self, shard: int, columns: Collection[OptionalColumn] = (), with_users: bool = True, whole: bool = False
    ) -> Histories:
        histories = super().read(shard, columns, with_users, whole)
        number = np.random.default_rng([0, shard]).permutation(len(histories.columns.items)) % NUM_FOLDS
        return replace(histories, parts=np.where(number == self.fold, TEST, TRAIN).astype(np.int8))


def train(dataset: Dataset, training: TrainConfig) -> dict[str, float]:
    """-> the test part's errors, after the last epoch: no epoch is chosen."""
    torch.manual_seed(training.seed)
    config = resolve_job(CONFIG.model_copy(update={"train": training}), dataset.manifest)
    model = MGDSC(config.model, dataset.num_items, dataset.input_spec(config.model))
    trainer = Trainer(Objective(model, training, CPU, exclude_seen=False), model, dataset, config.train, CPU)
    test = PartEvaluation(model, dataset, "test", training.max_length, CPU, EvaluateConfig(), dataset.item_counts)
    for _ in trainer.run(lambda: test.run().compute(), test.chief_metric, 10**9):
        pass
    return test.run().compute()


def rated_events(dataset: Dataset) -> pd.DataFrame:
    """user_id, item (UNKNOWN outside the vocabulary), rating and part of every event."""

    def shards() -> Iterator[pd.DataFrame]:
        for shard in range(dataset.num_shards):
            histories = dataset.read(shard, ["ratings"])
            owner = np.repeat(np.asarray(histories.user_ids), np.diff(histories.offsets))
            columns, part = histories.columns, histories.part_of
            yield pd.DataFrame({"user": owner, "item": columns.items, "rating": columns.ratings, "part": part})

    return pd.concat(shards(), ignore_index=True)


def measure_surprise(dataset: Dataset, seed: int) -> dict[str, dict[str, float]]:
    """Each of Surprise's algorithms -> its errors on the test part, learned from all that is not in it."""
    events, scale = rated_events(dataset), dataset.rating_scale()
    is_test = events.part == TEST
    # An item without an event in the version's own training part is as unknown here as to mgray.
    known = events[~is_test & (events.item != UNKNOWN)]
    reader = surprise.Reader(rating_scale=(min(scale), max(scale)))
    learned = surprise.Dataset.load_from_df(known[["user", "item", "rating"]], reader).build_full_trainset()
    asked = events[is_test]
    algorithms = {
        "surprise_bias": surprise.BaselineOnly(verbose=False),
        "surprise_svd": surprise.SVD(random_state=seed),
        "surprise_svd++": surprise.SVDpp(random_state=seed),
    }
    found = {}
    for name, algorithm in algorithms.items():
        algorithm.fit(learned)
        pairs = zip(asked.user, asked.item, strict=True)
        rated = torch.tensor([algorithm.predict(user, item).est for user, item in pairs])
        metrics = RatingMetrics(scale)
        metrics.update(rated, torch.from_numpy(asked.rating.to_numpy(np.float32)))
        found[name] = metrics.compute()
    return found


def measure(dataset: Dataset, training: TrainConfig) -> dict[str, dict[str, float]]:
    """System -> its errors on the test part."""
    batches, scale = list(rating_batches(dataset, "test", (), EvaluateConfig())), dataset.rating_scale()
    found = {"mg-dsc": train(dataset, training)}
    for name, rater in make_rating_baselines(dataset).items():
        found[name] = evaluate_ratings(rater, batches, scale).compute()
    return found | measure_surprise(dataset, training.seed)


def show(title: str, figures: dict[str, dict[str, float]]) -> None:
    print(title)
    for system, row in figures.items():
        print(f"  {system:<22}" + "".join(f"{name} {value:.4f}   " for name, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of the temporal split; a fold has one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        random, temporal = (ingest(Path(home), "--data.split", split) for split in ("random", "temporal"))
        # A random split says nothing of an order, and knows a user's later ratings: histories are shuffled each epoch.
        shuffled = TRAINING.model_copy(update={"augment_shuffle": 1.0})
        folds = []
        for fold in range(NUM_FOLDS):
            folds.append(measure(Fold(random, fold), shuffled))
            show(f"fold {fold + 1} of {NUM_FOLDS}", folds[-1])
        in_time = []
        for seed in range(args.seeds):
            in_time.append(measure(Dataset(temporal), TRAINING.model_copy(update={"seed": seed})))
            show(f"temporal split, seed {seed}", in_time[-1])
    means = {title: mean(runs) for title, runs in (("random_5fold", folds), ("temporal", in_time))}
    for title, figures in means.items():
        show(f"mean, {title}", figures)
    folded, later = means["random_5fold"], means["temporal"]
    checks = [
        check("rating_rmse_5fold", folded["mg-dsc"]["rmse"], 0.919, "<="),
        check("rating_5fold_vs_bias", folded["mg-dsc"]["rmse"] / folded["user_item_bias"]["rmse"], 1.0, "<"),
        check("rating_5fold_vs_mf", folded["mg-dsc"]["rmse"] / folded["matrix_factorization"]["rmse"], 1.0, "<"),
        check("rating_5fold_vs_svdpp", folded["mg-dsc"]["rmse"] / folded["surprise_svd++"]["rmse"], 1.0, "<"),
        check("rating_temporal_vs_bias", later["mg-dsc"]["rmse"] / later["user_item_bias"]["rmse"], 1.0, "<"),
        check("rating_temporal_vs_mf", later["mg-dsc"]["rmse"] / later["matrix_factorization"]["rmse"], 1.0, "<"),
        check("rating_temporal_vs_svdpp", later["mg-dsc"]["rmse"] / later["surprise_svd++"]["rmse"], 1.0, "<"),
    ]
    print(write("rating", {"means": means, "folds": folds, "temporal": in_time}, checks))


def mean(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """System -> the mean of each error over the runs."""
    return {
        system: {name: statistics.mean(run[system][name] for run in runs) for name in row}
        for system, row in runs[0].items()
    }


if __name__ == "__main__":
    main()
