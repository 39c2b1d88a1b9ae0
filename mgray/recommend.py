"""Raw item ids in, raw item ids with scores out: the model as a service, a notebook or a batch job sees it."""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from mgray.batch import left_pad, plan_batches
from mgray.checkpoint import load_model
from mgray.columns import concatenate
from mgray.engine import ModelScorer
from mgray.errors import InputError
from mgray.explain import explain
from mgray.rating import ModelRater, RatingQuery
from mgray.raw_history import HistoryEncoder, Lists
from mgray.schema import UNKNOWN
from mgray.scoring import BATCH_EVENTS, rank_lists


class Recommendations(NamedTuple):
    items: list[list[str]]  # best first; shorter than k only where the catalogue is
    scores: list[list[float]]
    num_unknown: list[int]  # history items outside the vocabulary, skipped


class Reasons(NamedTuple):
    """Why a list's first item is there; all empty where no known event led to it. In units of the score."""

    granularities: list[str]  # as the config spells them, finest first
    granularity_scores: list[float]  # what each adds to the score; biases add the rest
    events: list[str]  # items of the last events, oldest first
    event_scores: list[float]  # the score less the score without the event


class Recommender:
    """A saved model with its vocabulary. An empty history is answered with what is popular of late."""

    def __init__(self, folder: str | Path, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model, self.info, self.vocabulary = load_model(folder, self.device)
        self.encoder = HistoryEncoder(self.vocabulary.item_ids, self.info.config, self.info.inputs)
        self.scorer = ModelScorer(self.model, self.vocabulary.popularity, self.info.max_length, self.device)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        remove_seen: bool | None = None,
        beside: Lists = MappingProxyType({}),
    ) -> Recommendations:
        """Top k of the full catalogue for each history of raw item ids, oldest first.

        remove_seen: leave out what is in the history; None: as the model was measured. beside: `encoder.names` -> a
        list for each history, a value for each of its items. Raises InputError where k is
        not at least 1, and where what the model reads beside item ids is missing or not what it should be.
        """
        if k < 1:
            raise InputError(f"k: {k} is not a number of items to recommend; give at least 1")
        self.encoder.check(len(histories), beside)
        encoded = [self.encoder.encode(histories, beside, row) for row in range(len(histories))]
        offsets = np.cumsum([0, *(len(columns) for columns, _ in encoded)])
        without_seen = self.info.remove_seen if remove_seen is None else remove_seen
        lists = rank_lists(self.scorer, concatenate([columns for columns, _ in encoded]), offsets, k, without_seen)
        ids, lengths = self.vocabulary.item_ids, lists.lengths.tolist()
        return Recommendations(
            [[ids[i - 1] for i in row[:length]] for row, length in zip(lists.items.tolist(), lengths, strict=True)],
            [row[:length] for row, length in zip(lists.scores.tolist(), lengths, strict=True)],
            [unknown for _, unknown in encoded],
        )

    def empty_request(self) -> dict[str, list[list[Any]]]:
        """One user without a history, in every column that the model reads."""
        return {name: [[]] for name in ("history", *self.encoder.names)}

    def rate(
        self,
        histories: Sequence[Sequence[str]],
        targets: Sequence[Sequence[str]],
        beside: Lists = MappingProxyType({}),
    ) -> list[list[float]]:
        """The rating that each history's user would give each of its target items, in the log's units.

        An item outside the vocabulary gets the user's mean. Raises InputError where the model has no rating head, and
        as `recommend` does.
        """
        if self.model.rating_head is None:
            raise InputError("targets: this model does not rate; train one with --model.outputs both")
        if len(targets) != len(histories):
            raise InputError(f"targets: {len(targets)} lists for {len(histories)} histories; give one for each")
        self.encoder.check(len(histories), beside)
        rater = ModelRater(self.model, self.info.max_length, self.device)
        known = [self.encoder.encode(histories, beside, row)[0] for row in range(len(histories))]
        lengths = np.asarray([len(columns) for columns in known], dtype=np.int64)
        rated: list[list[float]] = [[] for _ in known]
        for rows in plan_batches(np.minimum(lengths, self.info.max_length), BATCH_EVENTS, len(known)):
            queries = []
            for row in rows:
                numbers = [self.encoder.item_numbers.get(item, UNKNOWN) for item in targets[row]]
                blank = np.zeros(len(numbers), np.float32)  # what the rater is to tell
                queries.append(RatingQuery(known[row], np.asarray(numbers, dtype=np.int64), blank))
            ends = np.cumsum([len(query.targets) for query in queries])[:-1]
            for row, ratings in zip(rows, np.split(rater(queries).numpy(), ends), strict=True):
                rated[row] = ratings.tolist()
        return rated

    def explain(
        self,
        histories: Sequence[Sequence[str]],
        recommended: Recommendations,
        beside: Lists = MappingProxyType({}),
    ) -> list[Reasons]:
        """Why the first item of each list that `recommend` gave for these histories is in it; see mgray.explain."""
        found = []
        for row, items in enumerate(recommended.items):
            columns, _ = self.encoder.encode(histories, beside, row)
            if not items or not len(columns):
                found.append(Reasons([], [], [], []))
                continue
            inputs = left_pad([columns], self.info.max_length, self.scorer.columns)
            inputs = inputs.map(lambda column: column.to(self.device))
            explained = explain(self.model, inputs, self.encoder.item_numbers[items[0]])
            last = columns.items[len(columns) - len(explained.events) :]
            found.append(
                Reasons(
                    [str(granularity) for granularity in self.info.config.granularities],
                    explained.levels,
                    [self.vocabulary.item_ids[item - 1] for item in last],
                    explained.events,
                )
            )
        return found
