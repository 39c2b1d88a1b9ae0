"""Time to rank a user by blocks of items, over the time of the matrix product alone in the same blocks.

`python benchmarks/_ranking_blocks.py --against FOLDER` measures the code of another checkout beside it (by its
`ModelScorer`, `rank_batch` and `rank_lists`, in a process of its own).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from mgray.config import ResolvedModelConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Query
from mgray.data.padding import left_pad
from mgray.eval.ranking import rank_batch
from mgray.model.ensemble import Model, make_model
from mgray.serve.scorer import ModelScorer
from mgray.serve.top_k import rank_lists

NUM_ITEMS = 1_000_000
WIDTH = 64
USERS = 256
EVENTS = 10  # of a user's history
K = 10
ROUNDS = 3  # the least of which counts

Figures = dict[str, float]


def make_scorer(num_items: int, width: int) -> ModelScorer:
    """A model of random weights; its item vectors' lengths fall with the number, as those of trained ones do."""
    torch.manual_seed(0)
    config = ResolvedModelConfig(width=width, granularities=(1,), dropout=0.0, norm="layer", inputs=())
    model: Model = make_model(config, num_items)
    with torch.no_grad():
        model.members[0].embedding.weight *= torch.linspace(1, 0.5, num_items + 1)[:, None]
    return ModelScorer(model, np.arange(num_items, -1, -1), EVENTS, torch.device("cpu"))


def make_queries(num_users: int, num_items: int) -> list[Query]:
    random = np.random.default_rng(0)
    items = random.integers(1, num_items + 1, (num_users, EVENTS + 1))
    return [Query(f"u{user}", Columns(own[:-1].astype(np.int32)), int(own[-1])) for user, own in enumerate(items)]


def ms_a_user(work: Callable[[], object], num_users: int, rounds: int = ROUNDS) -> float:
    """CPU time of this process, which a busy machine lengthens less than the clock's."""
    work()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times) / num_users * 1000


def time_body(scorer: ModelScorer, queries: list[Query]) -> Callable[[], object]:
    """What reads the histories, which is no part of the ranking."""
    inputs = left_pad([query.history for query in queries], EVENTS)
    return torch.no_grad()(lambda: scorer.model.fuse(inputs, only_last=True))


def time_code(scorer: ModelScorer, queries: list[Query], rows: int) -> Figures:
    """ms a user of the code at hand: ranks as validation has them, the lists of the best K as prediction has them."""
    batches = [queries[begin : begin + rows] for begin in range(0, len(queries), rows)]
    items = np.concatenate([query.history.items for query in queries])
    offsets = np.arange(0, len(items) + 1, EVENTS)
    return {
        "ranks": ms_a_user(lambda: [rank_batch(scorer, batch, remove_seen=True) for batch in batches], len(queries)),
        "top": ms_a_user(lambda: rank_lists(scorer, Columns(items), offsets, K), len(queries)),
        "body": ms_a_user(time_body(scorer, queries), len(queries)),
    }


def time_products(scorer: ModelScorer, num_users: int) -> float:
    """ms a user of the matrix products alone, in the blocks and rows that the ranking has."""
    from mgray.serve.catalogue import block_size, borders, max_rows  # the checkout beside need not have it

    table, size = scorer.model.item_table().detach(), block_size(torch.device("cpu"))
    runs = torch.randn(num_users, table.shape[1]).chunk(-(-num_users // max_rows(len(table), size)))
    edges = borders(len(table), len(runs[0]), size)
    buffer = torch.empty(len(runs[0]) * max(end - begin for begin, end in pairwise(edges)))

    def work() -> None:
        for interest in runs:
            for begin, end in pairwise(edges):
                out = buffer[: len(interest) * (end - begin)].view(len(interest), end - begin)
                torch.mm(interest, table[begin:end].T, out=out)

    return ms_a_user(work, num_users)


def time_against(folder: Path, num_items: int) -> Figures:
    """time_code by another checkout's code, as many rows at once as that allows."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, __file__, "--code_only", "true", "--items", str(num_items)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: Figures = json.loads(done.stdout)
    return found


def measure(num_items: int = NUM_ITEMS, against: Path | None = None) -> dict[str, object]:
    """Figures of one thread, ms a user: products alone, ranks, lists; `*_vs_limit` are over the products alone."""
    torch.set_num_threads(1)
    scorer, queries = make_scorer(num_items, WIDTH), make_queries(USERS, num_items)
    limit, code = time_products(scorer, USERS), time_code(scorer, queries, USERS)
    found: dict[str, object] = {
        "items": num_items,
        "width": WIDTH,
        "users": USERS,
        "product_ms": limit,
        "ms": code,
        "rank_time_vs_limit": (code["ranks"] - code["body"]) / limit,
        "top_time_vs_limit": (code["top"] - code["body"]) / limit,
    }
    if against is not None:
        found["against_ms"] = time_against(against, num_items)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=NUM_ITEMS)
    parser.add_argument("--against", type=Path, help="a checkout of other code to measure in the same run")
    parser.add_argument("--code_only", help="measure the code that is imported alone: what --against runs")
    options = parser.parse_args()
    if options.code_only is None:
        print(json.dumps(measure(options.items, options.against), indent=1))
        return
    torch.set_num_threads(1)
    rows = min(USERS, max(1, 2**25 // (options.items + 1)))  # the bound of 2026-12: 128 MiB of scores
    print(json.dumps(time_code(make_scorer(options.items, WIDTH), make_queries(USERS, options.items), rows)))


if __name__ == "__main__":
    main()
