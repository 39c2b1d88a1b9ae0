"""Champion and challenger on the same newest events, for the gate.

The test period is the test part of a dataset version: the newest events of the log (temporal split), or each user's
last (leave_one_out). Each model reads all that it knows of a history and ranks all its own items, by raw ids, as it
would for a user: an item that it does not know is a miss for it.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from torch import Tensor

from mgray.config import EvaluateConfig, GateConfig
from mgray.data.dataset import Dataset, Query, Turn
from mgray.data.manifest import Manifest, short_key
from mgray.errors import InputError
from mgray.eval.gate import Cost, GateDecision, IntArray, PeriodQueries, decide, rank_metrics
from mgray.eval.ranking import own_batches, rank_batch
from mgray.model.ensemble import num_parameters
from mgray.schema import PAD, UNKNOWN, OptionalColumn
from mgray.serve.recommender import Recommender
from mgray.serve.request import raw_lists
from mgray.serve.translation import Translation

LATENCY_HISTORIES = 30


class TestPeriod(NamedTuple):
    """The queries that the models were compared on."""

    split: str
    start: str | None  # ISO 8601, UTC; None: the dataset is not split in time
    end: str | None  # None: the log has no times
    queries: int
    users: int

    def as_json(self) -> dict[str, str | int | None]:
        """The period as a result line has it."""
        return {
            "split": self.split,
            "from": self.start,
            "to": self.end,
            "queries": self.queries,
            "users": self.users,
        }


class Comparison(NamedTuple):
    period: TestPeriod
    champion: dict[str, float] | None  # hr@k, ndcg@k, mrr@k
    challenger: dict[str, float]
    cost: Cost
    decision: GateDecision
    cautions: list[str]  # what makes the comparison unfair

    @property
    def reasons(self) -> list[str]:
        return [*self.decision.reasons, *self.cautions]


class _Answers:
    """Columns that the gate needs of each query and of the models' answers, gathered batch by batch.

    Queries are of a whole read; lengths and popularity count the events on items of the dataset's vocabulary.
    """

    def __init__(self, item_counts: IntArray) -> None:
        self.item_counts = item_counts
        self.numbers: dict[str, int] = {}  # of the users
        self._columns: defaultdict[str, list[IntArray]] = defaultdict(list)

    def add(self, batch: Sequence[Query], ranks: Mapping[str, Tensor]) -> None:
        """ranks: model -> of each target, [T]."""
        num_items = len(self.item_counts) - 1
        targets = np.asarray([query.target for query in batch], dtype=np.int64)
        targets[targets > num_items] = UNKNOWN
        lengths = [int(((query.history.items > PAD) & (query.history.items <= num_items)).sum()) for query in batch]
        users = [self.numbers.setdefault(query.user_id, len(self.numbers)) for query in batch]
        self._columns["user"].append(np.asarray(users, dtype=np.int64))
        self._columns["length"].append(np.asarray(lengths, dtype=np.int64))
        self._columns["count"].append(np.where(targets == UNKNOWN, 0, self.item_counts[np.maximum(targets, 0)]))
        for model, rank in ranks.items():
            self._columns[model].append(rank.cpu().numpy())

    def __getitem__(self, name: str) -> IntArray:
        """The column over all queries, [T]."""
        return np.concatenate([np.zeros(0, np.int64), *self._columns[name]])


def measure_cost(model: Recommender, dataset: Dataset, columns: Collection[OptionalColumn]) -> Cost:
    """Parameters, and the median time from one history of raw ids to its list, over real histories."""
    queries = next(filter(None, (list(dataset.queries("test", columns, [n])) for n in range(dataset.num_shards))))
    step = max(1, len(queries) // LATENCY_HISTORIES)
    chosen = queries[::step][:LATENCY_HISTORIES]
    requests = [raw_lists([query.history], dataset, model.info.inputs) for query in chosen]
    model.recommend(requests[0]["history"], beside=requests[0])
    times = []
    for request in requests:
        started = time.perf_counter()
        model.recommend(request["history"], beside=request)
        times.append(time.perf_counter() - started)
    parameters = num_parameters(model.model)
    return Cost(parameters, float(np.median(times)) * 1000)


def compare(
    dataset: Dataset,
    champion: Recommender | None,
    challenger: Recommender,
    evaluation: EvaluateConfig,
    gate: GateConfig,
    trained_on: Iterable[Manifest | None],
) -> Comparison:
    """Score both on the test period and ask the gate. trained_on: the models' own datasets, as far as they are known.

    Raises InputError where the period is empty.
    """
    models = {"challenger": challenger} | ({} if champion is None else {"champion": champion})
    translations = {name: Translation(dataset, model.vocabulary.item_ids, model.info) for name, model in models.items()}
    columns = frozenset[OptionalColumn]().union(*(translation.columns for translation in translations.values()))
    answers = _Answers(dataset.item_counts)

    def ask(shard: int, turn: Turn) -> Iterator[Query]:
        return dataset.queries("test", columns, [shard], turn=turn, whole=True)

    for batch in own_batches(dataset, ask, evaluation.batch_events, None):
        ranks = {}
        for name, model in models.items():
            translated = [translations[name].query(query) for query in batch]
            ranks[name] = rank_batch(model.scorer, translated, evaluation.remove_seen)[1]
        answers.add(batch, ranks)
    queries = PeriodQueries(answers["user"], answers["length"], answers["count"])
    before, after = answers["champion"] if champion is not None else None, answers["challenger"]
    if not len(after):
        raise InputError(f"{dataset.folder}: the test part is empty, so models cannot be compared; give a longer log")
    cost = measure_cost(challenger, dataset, translations["challenger"].columns)
    manifest, k = dataset.manifest, evaluation.k
    split = manifest.split
    return Comparison(
        period=TestPeriod(
            split=split.kind,
            start=_iso(split.test_from) if split.test_from is not None else None,
            end=_iso(manifest.last_timestamp) if manifest.has_times else None,
            queries=len(after),
            users=len(answers.numbers),
        ),
        champion=None if before is None else rank_metrics(before, k),
        challenger=rank_metrics(after, k),
        cost=cost,
        decision=decide(gate, k, queries, before, after, cost),
        cautions=[caution for one in trained_on if one and (caution := _caution(one, manifest))],
    )


def _caution(trained_on: Manifest, compared_on: Manifest) -> str | None:
    """A warning where the model was trained on events of the test period: its dataset is newer, or split otherwise."""
    if trained_on.fingerprint == compared_on.fingerprint:
        return None
    test_from = compared_on.split.test_from
    trained_to = trained_on.split.valid_from or trained_on.last_timestamp
    if test_from is None or trained_to <= test_from:
        return None
    return (
        f"caution: dataset {short_key(trained_on.fingerprint)} trains on events of the test period, so its model's "
        "figures may flatter it"
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
