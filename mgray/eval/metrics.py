"""Ranking metrics as (sum, count) pairs over targets, so that any number of workers gives the same figure.

A target's rank is over the full catalogue, items already seen removed unless told otherwise; ties count against the
model, and so does a target outside the vocabulary or already seen (it cannot be recommended).
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator
from torch import Tensor

from mgray.distributed import sum_over_ranks
from mgray.eval.slices import (
    HISTORY_LENGTH,
    ITEM_POPULARITY,
    LENGTH_EDGES,
    POPULARITY_EDGES,
    SliceFigures,
    slice_labels,
)
from mgray.schema import UNKNOWN
from mgray.serve.catalogue import MISS

# In a record that goes through JSON, which has no NaN: pydantic writes null, and this reads it back as what it was.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
Metrics = dict[str, Number]  # metric key (`hr@10`) -> value

RMSE, MAE, ACCURACY = "rmse", "mae", "accuracy"
LOWER_IS_BETTER = (RMSE, MAE)


def lower_is_better(metric: str) -> bool:
    """True for errors, such as rmse; False for hr@10 and its like."""
    return metric.split("@")[0] in LOWER_IS_BETTER


def is_better(metric: str, value: float, than: float | None) -> bool:
    """True if `value` is better than the earlier `than`, or there is none.

    If the earlier value is NaN (no queries), the new one wins.
    """
    if than is None or math.isnan(than):
        return True
    return value < than if lower_is_better(metric) else value > than


def ranking_names(k: int) -> tuple[str, str, str]:
    """Names of the columns of `query_metrics`."""
    return f"hr@{k}", f"ndcg@{k}", f"mrr@{k}"


def query_metrics(ranks: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    """Ranks from 1 [T] -> hr@k, ndcg@k and mrr@k of each query with its one relevant item, [T, 3]."""
    hit = ranks <= k
    # NDCG with one relevant item: 1 / log2(rank + 1) (Järvelin & Kekäläinen 2002).
    return np.stack([hit, np.where(hit, 1 / np.log2(ranks + 1.0), 0.0), hit / ranks], axis=1)


class RankingMetrics:
    """Accumulates hr@k, ndcg@k, mrr@k over targets and coverage@k over the catalogue, whole and by slice.

    State is one float64 tensor of sums, so a reduction over workers is one addition.
    """

    def __init__(self, k: int, item_counts: npt.NDArray[np.int64], with_coverage: bool = True) -> None:
        """with_coverage: the lists of the best k are given too; else no coverage@k comes out."""
        self.k = k
        self.item_counts = item_counts  # [V + 1] training events
        self.with_coverage = with_coverage
        self.names = ranking_names(k)
        self.labels = {
            HISTORY_LENGTH: slice_labels(LENGTH_EDGES),
            ITEM_POPULARITY: slice_labels(POPULARITY_EDGES),
        }
        rows = 1 + sum(len(labels) for labels in self.labels.values())
        self.sums = torch.zeros(rows, 1 + len(self.names), dtype=torch.float64)  # count, then a sum for each name
        self.recommended = torch.zeros(len(item_counts) if with_coverage else 0, dtype=torch.float64)
        self.removed = torch.zeros(1, dtype=torch.float64)

    def update(self, ranks: Tensor, top: Tensor | None, lengths: Sequence[int], targets: Tensor) -> None:
        """ranks: [T], top: [T, k] recommended item numbers, lengths: T history lengths, targets: [T]."""
        ranks, targets = ranks.cpu(), targets.cpu()
        measured = torch.from_numpy(query_metrics(ranks.numpy(), self.k))
        values = torch.cat([torch.ones_like(measured[:, :1]), measured], dim=1)
        self.sums[0] += values.sum(0)
        popularity = np.where(targets.numpy() == UNKNOWN, 0, self.item_counts[targets.clamp(min=0).numpy()])
        offset = 1
        for edges, amounts in ((LENGTH_EDGES, np.asarray(lengths)), (POPULARITY_EDGES, popularity)):
            bucket = torch.from_numpy(np.searchsorted(edges, amounts, side="left"))
            self.sums[offset : offset + len(edges) + 1].index_add_(0, bucket, values)
            offset += len(edges) + 1
        if top is not None and self.with_coverage:
            self.recommended[top.flatten().cpu()] = 1
        self.removed += ((ranks == MISS) & (targets != UNKNOWN)).sum()

    def all_reduce(self) -> None:
        """Add up over the ranks of the process group, where there is one."""
        packed = sum_over_ranks(torch.cat([self.removed, self.sums.flatten(), self.recommended]))
        removed, sums, recommended = packed.split([1, self.sums.numel(), len(self.recommended)])
        self.removed, self.sums, self.recommended = removed, sums.view_as(self.sums), recommended.clamp(max=1)

    def compute(self) -> dict[str, float]:
        """Metric name -> value; NaN where there was no target."""
        count = self.sums[0, 0]
        result = {name: float(total / count) for name, total in zip(self.names, self.sums[0, 1:], strict=True)}
        if self.with_coverage:
            result[f"coverage@{self.k}"] = float(self.recommended[1:].sum() / max(1, len(self.recommended) - 1))
        return result

    @property
    def num_targets(self) -> int:
        return int(self.sums[0, 0])

    @property
    def num_removed(self) -> int:
        """Targets that were no candidates though they are known: items that the user has, where those are removed."""
        return int(self.removed)

    def slices(self) -> dict[str, list[SliceFigures]]:
        """Slice kind -> its buckets in order; empty ones are left out."""
        result: dict[str, list[SliceFigures]] = {}
        offset = 1
        for kind, labels in self.labels.items():
            rows: list[SliceFigures] = []
            for label, sums in zip(labels, self.sums[offset : offset + len(labels)], strict=True):
                if sums[0] > 0:
                    metrics = {name: float(s / sums[0]) for name, s in zip(self.names, sums[1:], strict=True)}
                    rows.append(SliceFigures(label, int(sums[0]), metrics))
            result[kind] = rows
            offset += len(labels)
        return result


class RatingMetrics:
    """Errors of predicted ratings: rmse and mae in the log's units, accuracy after rounding to the scale.

    State is one float64 tensor of sums, so a reduction over workers is one addition.
    """

    def __init__(self, scale: Sequence[float]) -> None:
        """scale: the values that a rating may have, rising, to which predictions are clipped; empty: no accuracy."""
        self.scale = torch.tensor(scale, dtype=torch.float64)
        self.sums = torch.zeros(4, dtype=torch.float64)  # count, squared errors, absolute errors, right values

    def update(self, predicted: Tensor, given: Tensor) -> None:
        """predicted, given: [T] ratings."""
        predicted, given = predicted.double().cpu(), given.double().cpu()
        right = torch.zeros_like(given)
        if len(self.scale):
            predicted = predicted.clamp(self.scale[0], self.scale[-1])
            middles = (self.scale[1:] + self.scale[:-1]) / 2
            right = (self.scale[torch.bucketize(predicted, middles, right=True)] == given).double()
        error = predicted - given
        self.sums += torch.stack([torch.ones_like(error), error.square(), error.abs(), right]).sum(1)

    def all_reduce(self) -> None:
        """Add up over the ranks of the process group, where there is one."""
        self.sums = sum_over_ranks(self.sums)

    def compute(self) -> dict[str, float]:
        """Metric name -> value; NaN where there was no rating."""
        count, squared, absolute, right = self.sums.tolist()
        count = count or float("nan")
        result = {RMSE: (squared / count) ** 0.5, MAE: absolute / count}
        return result | ({ACCURACY: right / count} if len(self.scale) else {})

    @property
    def num_targets(self) -> int:
        return int(self.sums[0])
