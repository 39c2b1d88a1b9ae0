"""Raw item ids in, raw item ids with scores out: the model as a service, a notebook or a batch job sees it."""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mgray.batch import left_pad
from mgray.checkpoint import load_model
from mgray.engine import ModelScorer, max_score_rows
from mgray.errors import InputError
from mgray.explain import explain
from mgray.metrics import remove_seen_
from mgray.rating import ModelRater, RatingQuery
from mgray.raw_history import HistoryEncoder, Lists
from mgray.schema import UNKNOWN


def number_map(from_ids: Sequence[str], to_ids: Sequence[str]) -> npt.NDArray[np.int32]:
    """Item numbers of one vocabulary in another, by raw id: [len(from_ids) + 2], to be indexed by item number.

    UNKNOWN where the other has no such item, at PAD, and at UNKNOWN itself (index -1 is the last element).
    """
    number = {item_id: i for i, item_id in enumerate(to_ids, start=1)}
    numbers = [number.get(item_id, UNKNOWN) for item_id in from_ids]
    return np.asarray([UNKNOWN, *numbers, UNKNOWN], dtype=np.int32)


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
    """A saved model with its vocabulary. An empty history is answered with the most popular items."""

    def __init__(self, folder: str | Path, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model, self.info, self.vocabulary = load_model(folder, self.device)
        self.encoder = HistoryEncoder(self.vocabulary.item_ids, self.info.config, self.info.inputs)
        self.scorer = ModelScorer(self.model, self.vocabulary.counts, self.info.max_length, self.device)

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
        k = min(k, self.info.num_items)
        result = Recommendations([], [], [])
        rows = max_score_rows(self.info.num_items)
        for begin in range(0, len(histories), rows):
            end = min(begin + rows, len(histories))
            encoded = [self.encoder.encode(histories, beside, row) for row in range(begin, end)]
            known = [columns for columns, _ in encoded]
            scores = self.scorer(known)
            if self.info.remove_seen if remove_seen is None else remove_seen:
                remove_seen_(scores, [columns.items for columns in known])
            top = scores.topk(k, dim=1)
            for values, indices, (_, unknown) in zip(top.values.tolist(), top.indices.tolist(), encoded, strict=True):
                kept = [(i, v) for i, v in zip(indices, values, strict=True) if v > -np.inf]
                result.items.append([self.vocabulary.item_ids[i - 1] for i, _ in kept])
                result.scores.append([v for _, v in kept])
                result.num_unknown.append(unknown)
        return result

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
        rated = []
        for row, asked in enumerate(targets):
            columns, _ = self.encoder.encode(histories, beside, row)
            numbers = np.asarray([self.encoder.item_numbers.get(item, UNKNOWN) for item in asked], dtype=np.int64)
            rated.append(rater([RatingQuery(columns, numbers, np.zeros(len(numbers), np.float32))]).tolist())
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
