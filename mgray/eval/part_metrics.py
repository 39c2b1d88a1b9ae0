"""A model's figures on a part of its dataset: the ranking of items, the error of ratings, or both, by its outputs."""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache, partial
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mgray.config import EvaluateConfig
from mgray.data.dataset import Dataset, Part
from mgray.eval.metrics import RMSE, RankingMetrics, RatingMetrics
from mgray.eval.ranking import evaluate_batches, part_batches
from mgray.eval.rating import evaluate_ratings, rating_batches
from mgray.eval.slices import SliceFigures
from mgray.eval.valid_share import max_users_share
from mgray.model.ensemble import Model
from mgray.model.memory import Memory
from mgray.schema import OptionalColumn
from mgray.serve.rater import ModelRater
from mgray.serve.scorer import ModelScorer

Batch = TypeVar("Batch")
Batches = Callable[[], Iterable[Batch]]


class PartMetrics(NamedTuple):
    ranking: RankingMetrics | None
    rating: RatingMetrics | None

    def compute(self) -> dict[str, float]:
        """Metric name -> value."""
        return {name: value for one in self._measured() for name, value in one.compute().items()}

    @property
    def num_targets(self) -> int:
        return self._measured()[0].num_targets

    def slices(self) -> dict[str, list[SliceFigures]]:
        return {} if self.ranking is None else self.ranking.slices()

    def _measured(self) -> list[RankingMetrics | RatingMetrics]:
        return [one for one in self if one is not None]


class PartEvaluation:
    """Evaluation of a model on a part. `run` is collective: call it on every rank.

    Queries are read from the shards as they are asked; those of validation, which are few, are kept from the first
    time on. Validation is by ranks alone: coverage@k, which needs the lists, is measured on the test part.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        part: Part,
        max_length: int,
        device: torch.device,
        config: EvaluateConfig,
        popularity: npt.NDArray[np.number],
        valid_users: float | None = None,
        memory: Memory | None = None,
    ) -> None:
        """popularity: [V + 1] what an empty history is ranked by; valid_users: share of the users that validation is
        by, None: what evaluate.max_valid_users allows; memory: what is looked up beside what the model has learned.
        """
        self.with_coverage = part != "valid"
        self.config, self.item_counts, self.scale = config, dataset.item_counts, model.spec.rating_scale
        share = 1.0
        if part == "valid":
            share = max_users_share(config, dataset.manifest.users) if valid_users is None else valid_users

        def batches(read: Callable[..., Iterator[Batch]], columns: Collection[OptionalColumn]) -> Batches[Batch]:
            given = partial(read, dataset, part, columns, config, max_length, share)
            return cache(lambda: list(given())) if part == "valid" else given

        self.scorer = self.rater = None
        if model.config.outputs != "rating":
            self.scorer = ModelScorer(model, popularity, max_length, device, memory)
            self.ranking_batches = batches(part_batches, self.scorer.columns)
        if model.config.outputs != "next_item":
            self.rater = ModelRater(model, max_length, device)
            self.rating_batches = batches(rating_batches, self.rater.columns)

    def run(self) -> PartMetrics:
        ranking = rating = None
        if self.scorer is not None:
            ranking = evaluate_batches(
                self.scorer, self.ranking_batches(), self.item_counts, self.config, self.with_coverage
            )
        if self.rater is not None:
            rating = evaluate_ratings(self.rater, self.rating_batches(), self.scale)
        return PartMetrics(ranking, rating)

    @property
    def chief_metric(self) -> str:
        """Metric that the best model is chosen by."""
        return RMSE if self.scorer is None else f"ndcg@{self.config.k}"
