"""Champion and challenger on the same newest events, for the gate.

The window is the test part of a dataset version: the newest events of the log (temporal split), or each user's last
(leave_one_out). Each model is scored with its own vocabulary, by raw ids: an item that a model does not know is a
miss for it, as it would be for a user.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch

from mgray.config import EvaluateConfig, GateConfig
from mgray.dataset import Dataset, Query
from mgray.engine import Scorer, max_score_rows, part_queries, rank_batch, score_batches
from mgray.errors import InputError
from mgray.gate import Cost, GateDecision, IntArray, Window, decide, rank_metrics
from mgray.manifest import Manifest
from mgray.raw_history import raw_lists
from mgray.recommend import Recommender
from mgray.schema import UNKNOWN
from pipelines.evaluate import RemappedScorer

LATENCY_HISTORIES = 30


class Comparison(NamedTuple):
    window: dict[str, Any]  # what it is: from, to, queries, users
    champion: dict[str, float] | None  # hr@k, ndcg@k, mrr@k
    challenger: dict[str, float]
    cost: Cost
    decision: GateDecision
    cautions: list[str]  # what makes the window unfair

    @property
    def reasons(self) -> list[str]:
        return [*self.decision.reasons, *self.cautions]


def query_ranks(scorer: Scorer, queries: list[Query], num_items: int, config: EvaluateConfig) -> IntArray:
    """Rank of each query's target [T], in the order of `describe_queries`."""
    batches = _batches(queries, num_items, config)
    ranks = [rank_batch(scorer, batch, config.remove_seen)[2].cpu() for batch in batches]
    return torch.cat(ranks).numpy() if ranks else np.zeros(0, dtype=np.int64)


def _batches(queries: list[Query], num_items: int, config: EvaluateConfig) -> list[list[Query]]:
    return list(score_batches(queries, config.batch_events, max_score_rows(num_items)))


def describe_queries(queries: list[Query], dataset: Dataset, config: EvaluateConfig) -> Window:
    """User, history length and target's popularity of each query, in the order of `query_ranks`."""
    ordered = [query for batch in _batches(queries, dataset.num_items, config) for query in batch]
    users = [query.user_id for query in ordered]
    number = {user: i for i, user in enumerate(dict.fromkeys(users))}
    targets = np.asarray([query.target for query in ordered], dtype=np.int64)
    popularity = np.where(targets == UNKNOWN, 0, dataset.item_counts[np.maximum(targets, 0)])
    lengths = [len(query.history) for query in ordered]
    return Window(
        np.asarray([number[user] for user in users], dtype=np.int64), np.asarray(lengths, dtype=np.int64), popularity
    )


def measure_cost(model: Recommender, queries: list[Query], dataset: Dataset) -> Cost:
    """Parameters, and the median time from one history of raw ids to its list, over real histories of the window."""
    step = max(1, len(queries) // LATENCY_HISTORIES)
    chosen = queries[::step][:LATENCY_HISTORIES]
    requests = [raw_lists([query.history], dataset, model.info.inputs) for query in chosen]
    model.recommend(requests[0]["history"], beside=requests[0])
    times = []
    for request in requests:
        started = time.perf_counter()
        model.recommend(request["history"], beside=request)
        times.append(time.perf_counter() - started)
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    return Cost(parameters, float(np.median(times)) * 1000)


def compare(
    dataset: Dataset,
    champion: Recommender | None,
    challenger: Recommender,
    evaluation: EvaluateConfig,
    gate: GateConfig,
    trained_on: Iterable[Manifest | None],
) -> Comparison:
    """Score both on the window and ask the gate. trained_on: the models' own datasets, as far as they are known.

    Raises InputError where the window is empty.
    """
    old = RemappedScorer(champion, dataset) if champion else None
    new = RemappedScorer(challenger, dataset)
    queries = part_queries(dataset, "test", new.columns | (old.columns if old else frozenset()))
    if not queries:
        raise InputError(f"{dataset.folder}: the test part is empty, so models cannot be compared; give a longer log")
    described = describe_queries(queries, dataset, evaluation)

    before = query_ranks(old, queries, dataset.num_items, evaluation) if old else None
    after = query_ranks(new, queries, dataset.num_items, evaluation)
    cost = measure_cost(challenger, queries, dataset)
    manifest, k = dataset.manifest, evaluation.k
    split = manifest.split
    return Comparison(
        window={
            "split": split.kind,
            "from": _iso(split.test_from) if split.test_from is not None else None,
            "to": _iso(manifest.last_timestamp),
            "queries": len(queries),
            "users": len(np.unique(described.user)),
        },
        champion=None if before is None else rank_metrics(before, k),
        challenger=rank_metrics(after, k),
        cost=cost,
        decision=decide(gate, k, described, before, after, cost),
        cautions=[caution for one in trained_on if one and (caution := _caution(one, manifest))],
    )


def _caution(trained_on: Manifest, window: Manifest) -> str | None:
    """What a model was trained on reaches into the window where its dataset is newer or split in another way."""
    if trained_on.fingerprint == window.fingerprint:
        return None
    test_from = window.split.test_from
    trained_to = trained_on.split.valid_from or trained_on.last_timestamp
    if test_from is None or trained_to <= test_from:
        return None
    return (
        f"caution: dataset {trained_on.fingerprint[:16]} trains on events of the window, so its model's figures "
        "may flatter it"
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
