"""Positions a second of a whole training by two workers, at a large catalogue and at a small one.

The logs are made up by one rule: the same users, lengths of histories and times, so that only the catalogue differs.
Every item has a training event, and an item's number is V u^SKEW of a uniform u: small numbers are popular.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from _datasets import ingest
from _ingest_runs import say
from _results import check
from _training import fit, run_folder

from mgray.config import TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.schema import ITEM_ID, TIMESTAMP, USER_ID

WORKERS = 2
ASKED_ITEMS = [1_682, 54_542]  # of the check that has a target by name
TARGET = 0.85
MEAN_EVENTS, MIN_EVENTS = 8.8, 3  # of a user
HELD_OUT = 2  # last events of a user: validation and test
SKEW = 1.5
FIRST_TIME, DAY_S = 1_600_000_000, 86_400
KEPT = ("positions_s", "seconds", "epochs", "steps", "best_epoch", "valid", "workers", "threads", "parameters")


def make_log(num_users: int, num_items: int, seed: int = 0) -> pl.DataFrame:
    """Columns user_id, item_id, timestamp (s since 1970). Users, lengths and times do not depend on num_items."""
    random = np.random.default_rng(seed)
    lengths = MIN_EVENTS - 1 + random.geometric(1 / (MEAN_EVENTS - MIN_EVENTS + 1), num_users)
    users = np.repeat(np.arange(num_users), lengths)
    place = np.arange(len(users)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = (num_items * random.random(len(users)) ** SKEW).astype(np.int64)
    # An item without a training event would be in no vocabulary.
    trained = np.flatnonzero(place < lengths[users] - HELD_OUT)
    items[random.choice(trained, num_items, replace=False)] = np.arange(num_items)
    return pl.DataFrame(
        {
            USER_ID: [f"u{user}" for user in users],
            ITEM_ID: [f"i{item}" for item in items],
            TIMESTAMP: FIRST_TIME + DAY_S * place + users,
        }
    )


def _ingest(folder: Path, num_users: int, num_items: int) -> Dataset:
    log = folder / f"positions-{num_users}-{num_items}.parquet"
    make_log(num_users, num_items).write_parquet(log)
    dataset = Dataset(ingest(folder / "home", "--data.source", str(log.absolute())))
    assert dataset.num_items == num_items, "every item has a training event"
    return dataset


def measure(num_users: int, catalogues: list[int], max_time_s: float, rounds: int) -> dict[str, Any]:
    """Train at each catalogue in turn, as often as `rounds` says -> raw figures. catalogues: [small, large], items."""
    sides: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="mgray-positions-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        datasets = [_ingest(work, num_users, num_items) for num_items in catalogues]
        for turn in range(rounds):
            for dataset in datasets if turn % 2 == 0 else datasets[::-1]:  # no side is always the first
                say(f"training over {dataset.num_items:,} items, round {turn + 1} of {rounds}")
                config = TrainJobConfig(train=TrainConfig(max_time_s=max_time_s))
                folder = run_folder(work, f"round{turn}", dataset, config, WORKERS)
                found = fit(dataset, config, folder, workers=WORKERS)
                say(f"{found['positions_s']:,.0f} positions a second in {found['seconds']:.0f} s")
                about = {"items": dataset.num_items, "train_events": dataset.manifest.train_events, "rounds": []}
                side = sides.setdefault(str(dataset.num_items), about)
                side["rounds"].append({name: found[name] for name in KEPT} | {"validations": len(found["curve"])})
    small, large = (
        statistics.median(one["positions_s"] for one in sides[str(num_items)]["rounds"]) for num_items in catalogues
    )
    return {"users": num_users, "items": catalogues, "max_time_s": max_time_s, "sides": sides, "ratio": large / small}


def checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Ratio of the medians; its name says the catalogues."""
    small, large = found["items"]
    name = "positions_s_54k_vs_1k7" if found["items"] == ASKED_ITEMS else f"positions_s_{large}_vs_{small}"
    return [check(name, found["ratio"], TARGET, ">=")]
