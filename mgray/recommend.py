"""Raw item ids in, raw item ids with scores out: the model as a service, a notebook or a batch job sees it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mgray.checkpoint import load_model
from mgray.engine import ModelScorer, max_score_rows
from mgray.errors import InputError
from mgray.metrics import remove_seen_
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


class Recommender:
    """A saved model with its vocabulary. An empty history is answered with the most popular items."""

    def __init__(self, folder: str | Path, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model, self.info, self.vocabulary = load_model(folder, self.device)
        self._number = {item_id: i for i, item_id in enumerate(self.vocabulary.item_ids, start=1)}
        self.scorer = ModelScorer(self.model, self.vocabulary.counts, self.info.max_length, self.device)

    def encode(self, history: Sequence[str]) -> tuple[np.ndarray, int]:
        """Item numbers of the known ids, in order, and how many were unknown."""
        numbers = [self._number[item] for item in history if item in self._number]
        return np.asarray(numbers, dtype=np.int32), len(history) - len(numbers)

    def recommend(self, histories: Sequence[Sequence[str]], k: int = 10, remove_seen: bool = True) -> Recommendations:
        """Top k of the full catalogue for each history of raw item ids, oldest first.

        Raises InputError where k is not at least 1.
        """
        if k < 1:
            raise InputError(f"k: {k} is not a number of items to recommend; give at least 1")
        k = min(k, self.info.num_items)
        result = Recommendations([], [], [])
        rows = max_score_rows(self.info.num_items)
        for begin in range(0, len(histories), rows):
            encoded = [self.encode(history) for history in histories[begin : begin + rows]]
            numbers = [items for items, _ in encoded]
            scores = self.scorer(numbers)
            if remove_seen:
                remove_seen_(scores, numbers)
            top = scores.topk(k, dim=1)
            for values, indices, (_, unknown) in zip(top.values.tolist(), top.indices.tolist(), encoded, strict=True):
                kept = [(i, v) for i, v in zip(indices, values, strict=True) if v > -np.inf]
                result.items.append([self.vocabulary.item_ids[i - 1] for i, _ in kept])
                result.scores.append([v for _, v in kept])
                result.num_unknown.append(unknown)
        return result
