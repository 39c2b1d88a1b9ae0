"""Negatives: which items the objective counts as one."""

import pytest
import torch
from torch.nn import functional as F

from mgray.config import ResolvedModelConfig, TrainConfig
from mgray.data.inputs import Inputs
from mgray.model.mgdsc import MGDSC
from mgray.train.negatives import draw_uniform
from mgray.train.objective import Objective
from mgray.train.resolve import resolve_exclude_seen

CPU = torch.device("cpu")
ITEMS = torch.tensor([[0, 1, 2, 1], [3, 1, 4, 5]])
TARGETS = torch.tensor([[0, 2, 1, 3], [0, 4, 5, 3]])  # a repeat, and a history whose first event is no target


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
@pytest.mark.parametrize("ranking_removes_seen", [True, False])
def test_seen_items_are_no_negatives_where_the_ranking_removes_them(loss: str, ranking_removes_seen: bool) -> None:
    config = TrainConfig.model_validate({"loss": loss, "loss_precision": "fp32", "gbce_calibration": 0.0})
    model = MGDSC(ResolvedModelConfig(width=8, dropout=0.0, norm="layer"), num_items=6)
    objective = Objective(model, config, CPU, exclude_seen=resolve_exclude_seen(config, ranking_removes_seen))
    negatives = None if loss == "softmax" else draw_uniform(6, 10, torch.Generator())
    expected = torch.zeros(())
    for row, place in TARGETS.nonzero().tolist():
        scores = model.score(model(Inputs(ITEMS))[row, place][None])[:, 1:]
        target = TARGETS[row, place] - 1
        if ranking_removes_seen:
            seen = {item - 1 for item in ITEMS[row, : place + 1].tolist() if item} - {int(target)}
            scores[:, sorted(seen)] = -torch.inf
        if loss == "gbce":
            signs = torch.ones_like(scores).index_fill(1, target[None], -1)
            expected = expected + F.softplus(signs * scores).sum() / 7  # the 6 drawn and the target
        else:
            expected = expected + F.cross_entropy(scores, target[None])
    torch.testing.assert_close(objective(Inputs(ITEMS), TARGETS, negatives), expected, rtol=1e-4, atol=1e-4)


def test_what_is_said_of_seen_items_wins() -> None:
    assert resolve_exclude_seen(TrainConfig(), ranking_removes_seen=True)
    assert not resolve_exclude_seen(TrainConfig(), ranking_removes_seen=False)
    assert not resolve_exclude_seen(TrainConfig(label_smoothing=0.1), ranking_removes_seen=True)
    assert resolve_exclude_seen(TrainConfig(exclude_seen=True), ranking_removes_seen=False)
    assert not resolve_exclude_seen(TrainConfig(exclude_seen=False), ranking_removes_seen=True)
