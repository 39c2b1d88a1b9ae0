"""What a step and a ranking cost by the size of the catalogue, and that the item table by rows is dense AdamW's.

python benchmarks/catalogue.py [--steps 60] [--items 5000000] [--ranked_items 1000000]
python benchmarks/catalogue.py --parts million [--million_items 10000000 --million_events 50000000]
python benchmarks/catalogue.py --parts large [--large_items 1000000 5000000]
python benchmarks/catalogue.py --parts positions [--positions_time_s 120 --rounds 2]
python benchmarks/catalogue.py --parts peer --log LOG.parquet [--minutes 5]

Both sides run in turn, a step each, in one process of one thread; a figure is the ratio of medians of CPU seconds.
Writes results/catalogue.json: step_time_5m_vs_3k, bytes_a_step, equals_dense, and of a ranking rank_time_vs_limit (the
ranks, as validation needs them) and top_time_vs_limit (the best 10, as prediction does), over the time of the matrix
product alone. Some five minutes, and 4 GB at five million items.

The part `million` is the whole job over a million items and 20 million events (20 minutes), or as many as asked for:
its peak memory, and the seconds of its phases. The part `large` has memory and seconds of what a model of very many
items is used for, each in a process of its own (10 minutes).

The part `positions` is positions_s_54k_vs_1k7: positions a second of a whole training by two workers, validations
included, over a made-up sparse log of 54,542 items and over one of 1,682 (12 minutes). The part `peer` trains on a
given log with mgray's item table, torch.optim.AdamW's dense one and torch.optim.SparseAdam's, for equal minutes of one
thread: time a step and quality on the validation part, without a target (17 minutes).
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import _catalogue_peer
import _catalogue_positions
import _large_catalogue
import _million_items
import numpy as np
import torch
from _ranking_blocks import NUM_ITEMS, measure
from _results import check, environment, read, write
from torch import Tensor, nn

from mgray.config import ResolvedModelConfig, ResolvedTrainConfig
from mgray.data.dataset import Dataset
from mgray.data.feed import Batch
from mgray.data.inputs import Inputs
from mgray.model.ensemble import make_model
from mgray.model.mgdsc import MGDSC
from mgray.train.item_table import ItemTables, item_weights, take_out_tables_
from mgray.train.objective import Objective
from mgray.train.optim import ADAM_EPS, BETAS, learning_rate
from mgray.train.trainer import Trainer

CPU = torch.device("cpu")
FEW_ITEMS = 3_400
ROWS, LENGTH = 128, 32  # 4,096 events
WIDTH = 64
TRAIN = ResolvedTrainConfig(global_batch_events=ROWS * LENGTH, num_negatives=2048, max_time_s=None)
WARM_UP_STEPS = 5  # not timed
RATE = 1e-3
PARTS = ("one", "million", "large", "positions", "peer")  # one: a step and a ranking
EQUAL_ITEMS, EQUAL_STEPS = 400, 2000


class MadeUpLog:
    """What a Trainer asks of a dataset before it is run: here its steps are given their batches."""

    def __init__(self, num_items: int) -> None:
        self.item_counts = np.ones(num_items + 1, dtype=np.int64)

    def train_lengths(self, *_: Any) -> list[Any]:
        return []

    def read_training(self, *_: Any, **__: Any) -> None:
        raise AssertionError("no epoch is read")


class Side:
    """A training over a catalogue of some size, a step at a time. Items are uniform: the fewest repeats."""

    def __init__(self, num_items: int) -> None:
        torch.manual_seed(0)
        config = ResolvedModelConfig(width=WIDTH, dropout=0.25, norm="layer")
        model = make_model(config, num_items)
        take_out_tables_(model, TRAIN)
        objective = Objective(model, TRAIN, CPU, exclude_seen=True)
        self.trainer = Trainer(objective, model, cast(Dataset, MadeUpLog(num_items)), TRAIN, CPU)
        self.random = np.random.default_rng(0)
        self.num_items = num_items
        model.train()

    def batch(self) -> tuple[Batch, Tensor]:
        events = torch.from_numpy(self.random.integers(1, self.num_items + 1, (ROWS, LENGTH + 1)))
        return Batch(Inputs(events[:, :-1].contiguous()), events[:, 1:].contiguous()), events.unique()

    def step(self) -> float:
        """CPU seconds of a step."""
        batch, items = self.batch()
        began = time.process_time()
        self.trainer.step(batch, items, ROWS * LENGTH, RATE)
        self.trainer.progress.step += 1
        return time.process_time() - began


def measure_steps(many_items: int, steps: int) -> dict[str, Any]:
    sides = {"few": Side(FEW_ITEMS), "many": Side(many_items)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in range(WARM_UP_STEPS + steps):
        for name, side in sides.items():
            spent = side.step()
            if step >= WARM_UP_STEPS:
                times[name].append(spent)
    median = {name: statistics.median(found) for name, found in times.items()}
    many = sides["many"].trainer
    print(
        f"{FEW_ITEMS:,} items: {1e3 * median['few']:.1f} ms of CPU a step; {many_items:,}: {1e3 * median['many']:.1f}"
    )
    return {
        "items": {"few": FEW_ITEMS, "many": many_items},
        "by_rows": {name: bool(side.trainer.tables) for name, side in sides.items()},
        "cpu_s_a_step": times,
        "bytes_a_step": many.gradient_bytes,
        "ratio": median["many"] / median["few"],
    }


def random_touches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Items of a step, by probabilities from 1 to once in a thousand steps, and gradients, from eps / 100 to 1."""
    source = torch.Generator().manual_seed(seed)
    probability = torch.logspace(0, -3, EQUAL_ITEMS + 1)
    scale = torch.logspace(-10, 0, EQUAL_ITEMS + 1)[torch.randperm(EQUAL_ITEMS + 1, generator=source)][:, None]
    while True:
        items = (torch.rand(EQUAL_ITEMS + 1, generator=source) < probability).nonzero()[:, 0]
        yield items[items > 0], torch.randn(EQUAL_ITEMS + 1, WIDTH, generator=source) * scale


def largest_difference(seed: int) -> float:
    """Largest difference from torch.optim.AdamW's table, over its root mean square: 2,000 steps of the default schedule
    and weight decay.
    """
    model = MGDSC(ResolvedModelConfig(width=WIDTH, dropout=0.0, norm="layer"), EQUAL_ITEMS)
    ((_, weight),) = item_weights(model)
    weight.requires_grad_(False)
    tables, dense = ItemTables(model, model, TRAIN), nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([dense], betas=BETAS, eps=ADAM_EPS, weight_decay=TRAIN.weight_decay, fused=True)
    for step, (items, gradient) in zip(range(EQUAL_STEPS), random_touches(seed), strict=False):
        rate = learning_rate(TRAIN, step / EQUAL_STEPS)
        rows = tables.gather(items, None)
        (own,) = rows.tables.values()
        own.weight.grad = gradient[rows.items]
        tables.update(rows, rate)
        optimizer.param_groups[0]["lr"] = rate
        dense.grad = torch.zeros_like(dense).index_copy(0, rows.items, gradient[rows.items])
        optimizer.step()
    tables.catch_up()
    whole = dense.detach()
    return float((weight - whole).abs().max() / whole.square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each side")
    parser.add_argument("--items", type=int, default=5_000_000, help="items of the large catalogue")
    parser.add_argument("--ranked_items", type=int, default=NUM_ITEMS, help="items of the catalogue that is ranked")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["one"], help="what to measure")
    parser.add_argument("--million_items", type=int, default=1_000_000, help="items of the whole job's log")
    parser.add_argument("--million_events", type=int, default=20_000_000, help="its events")
    parser.add_argument("--max_time_s", type=float, default=600, help="seconds that the whole job trains")
    parser.add_argument("--workers", type=int, default=2, help="training workers of the whole job")
    parser.add_argument("--large_items", type=int, nargs="+", default=[1_000_000, 5_000_000], help="of part `large`")
    positions = _catalogue_positions.ASKED_ITEMS
    parser.add_argument("--positions_items", type=int, nargs=2, default=positions, help="small and large catalogue")
    parser.add_argument("--positions_users", type=int, default=40_000, help="users of part `positions`, of 8.8 events")
    parser.add_argument("--positions_time_s", type=float, default=120, help="seconds of each of its trainings")
    parser.add_argument("--rounds", type=int, default=2, help="its trainings of each catalogue")
    parser.add_argument("--log", type=Path, help="log of part `peer`")
    parser.add_argument("--minutes", type=float, default=5, help="of each of its trainings")
    parser.add_argument("--work", type=Path, help="folder that keeps made-up logs and datasets; else a temporary one")
    options = parser.parse_args()
    if "peer" in options.parts and (options.log is None or not options.log.exists()):
        parser.error("--parts peer: give a log that exists by --log")
    earlier = read("catalogue") or {"raw": {}, "checks": []}
    raw, checks = dict(earlier["raw"]), list[dict[str, Any]]()
    if "one" in options.parts:
        found, checks = measure_steps_and_ranking(options)
        raw |= found
    if "million" in options.parts:
        job = _million_items.measure(
            options.million_items, options.million_events, options.max_time_s, options.workers, options.work
        )
        raw.setdefault("jobs", {})[str(options.million_items)] = job | environment()
        checks += _million_items.checks(job)
    if "large" in options.parts:
        for num_items in options.large_items:
            found = _large_catalogue.measure(num_items, options.work)
            raw.setdefault("large", {})[str(num_items)] = found | environment()
    if "positions" in options.parts:
        found = _catalogue_positions.measure(
            options.positions_users, options.positions_items, options.positions_time_s, options.rounds
        )
        raw["positions"] = found | environment()
        checks += _catalogue_positions.checks(found)
    if "peer" in options.parts:
        raw["peer"] = _catalogue_peer.measure(options.log, options.minutes) | environment()
    names = {one["name"] for one in checks}
    write("catalogue", raw=raw, checks=[*checks, *(one for one in earlier["checks"] if one["name"] not in names)])


def measure_steps_and_ranking(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(raw figures, checks) of a step, a ranking, and the equality with dense AdamW."""
    torch.set_num_threads(1)
    differences = [largest_difference(seed) for seed in range(3)]
    steps = measure_steps(options.items, options.steps)
    ranking = measure(options.ranked_items)
    checks = [
        check("step_time_5m_vs_3k", steps["ratio"], 1.15, "<="),
        check("bytes_a_step", steps["bytes_a_step"], 2e6, "<="),
        check("equals_dense", max(differences), 1e-4, "<="),
        check("rank_time_vs_limit", cast(float, ranking["rank_time_vs_limit"]), 1.5, "<="),
        check("top_time_vs_limit", cast(float, ranking["top_time_vs_limit"]), 1.5, "<="),
    ]
    return {"step": steps, "equals_dense": differences, "ranking": ranking}, checks


if __name__ == "__main__":
    main()
