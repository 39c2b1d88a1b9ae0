"""Scorers: the scores of all items for a batch of histories, by a model or by a rule.

Legend: `T` histories, `L` positions, `V` items (1..V; 0 is padding), `G` granularities.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mgray.data.columns import Columns
from mgray.data.inputs import Inputs, read_columns
from mgray.data.padding import left_pad
from mgray.distributed import sum_over_ranks
from mgray.model.ensemble import Model
from mgray.model.fusion import AttentionFusion
from mgray.model.memory import Memory
from mgray.schema import PAD
from mgray.serve.score_blocks import AddedScores, ModelScores, ScoreBlocks

HistoryList = Sequence[Columns]
Scorer = Callable[[HistoryList], ScoreBlocks | Tensor]  # T histories -> their scores, by blocks or whole [T, V + 1]


class ModelScorer:
    """Scores histories with a model; an empty history is ranked by popularity, [V + 1]."""

    def __init__(
        self,
        model: Model,
        popularity: npt.NDArray[np.number],
        max_length: int,
        device: torch.device,
        memory: Memory | None = None,
    ) -> None:
        """memory: what is looked up beside what the model has learned; None: nothing."""
        self.model, self.max_length, self.device, self.memory = model, max_length, device, memory
        self.columns = read_columns(model.config)
        self.popularity = popularity_row(popularity, device)
        # Allocated now, not by the first batch: a rank without a batch must join the all-reduce too.
        self._share: Tensor | None = None
        fusion = model.members[0].fusion
        if isinstance(fusion, AttentionFusion):
            shape = (len(model.config.granularities), len(model.members) * fusion.heads)
            self._share = torch.zeros(shape, dtype=torch.float64, device=device)
        self._num_shares = 0

    @torch.no_grad()
    def __call__(self, histories: HistoryList) -> ScoreBlocks:
        """Score T histories, which have the columns that the model reads."""
        return self.score_padded(left_pad(histories, self.max_length, self.columns))

    @torch.no_grad()
    def score_padded(self, inputs: Inputs) -> ScoreBlocks:
        """Score T padded histories, [T, L]."""
        learned = self.learned_scores(inputs)
        return learned if self.memory is None else AddedScores(learned, self.memory.scores(inputs))

    @torch.no_grad()
    def learned_scores(self, inputs: Inputs) -> ModelScores:
        """Score T padded histories, [T, L], by the model alone."""
        self.model.eval()
        inputs = inputs.map(lambda tensor: tensor.to(self.device))
        interest, share = self.model.fuse(inputs, only_last=True)
        empty = inputs.items[:, -1] == PAD
        if share is not None and self._share is not None:
            self._share += share[~empty, -1].double().sum(0)
            self._num_shares += int((~empty).sum())
        return ModelScores(self.model, interest[:, -1], self.popularity, empty.nonzero()[:, 0])

    def attention_share(self) -> list[list[float]] | None:
        """Mean attention of each granularity, by head [G][heads], over all histories scored; None without attention.

        Collective: call it on every rank.
        """
        if self._share is None:
            return None
        packed = sum_over_ranks(torch.cat([self._share.flatten(), self._share.new_tensor([float(self._num_shares)])]))
        mean = (packed[:-1] / packed[-1].clamp(min=1)).view_as(self._share)
        return [[float(value) for value in heads] for heads in mean]


def popularity_row(popularity: npt.NDArray[np.number], device: torch.device | None = None) -> Tensor:
    """Scores of an empty history, from counts [V + 1] -> [V + 1] float32; padding scores minus infinity."""
    row = torch.from_numpy(popularity).to(device, torch.float32, copy=True)
    row[PAD] = -torch.inf
    return row
