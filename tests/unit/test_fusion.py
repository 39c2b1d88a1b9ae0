"""Every fusion is the sum of its levels' parts, and a dropped level has none."""

import pytest
import torch

from mgray.model.fusion import ConcatFusion, make_fusion
from tests.models import model_config
from tests.perturbed import make_inputs, make_model

FUSIONS = pytest.mark.parametrize("fusion", ["sum", "concat", "gate", "attention"])


@FUSIONS
def test_parts_add_up(fusion: str) -> None:
    torch.manual_seed(0)
    module = make_fusion(model_config(width=8, granularities=(1, 2, 4), heads=2, fusion=fusion))
    levels, mask = [torch.randn(2, 5, 8) for _ in range(3)], torch.ones(2, 5, 1)
    fused, _ = module(levels, mask, None)
    bias = module.project.bias if isinstance(module, ConcatFusion) else 0
    parts = module.parts(levels, mask)
    assert parts.shape == (2, 5, 3, 8)
    torch.testing.assert_close(parts.sum(2) + bias, fused)


@FUSIONS
def test_a_dropped_level_is_not_felt(fusion: str) -> None:
    torch.manual_seed(0)
    module = make_fusion(model_config(width=8, granularities=(1, 2, 4), heads=2, fusion=fusion))
    levels, mask = [torch.randn(2, 5, 8) for _ in range(3)], torch.ones(2, 5, 1)
    kept = torch.tensor([[True, True, False], [True, True, True]])
    before, _ = module(levels, mask, kept)
    after, _ = module([*levels[:2], levels[2] + 1], mask, kept)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_attention_shares_sum_to_one() -> None:
    _, share = make_model(model_config(width=16, granularities=(1, 4, 16), heads=4)).fuse(make_inputs(10))
    assert share is not None
    assert share.shape == (2, 10, 3, 4)
    torch.testing.assert_close(share.sum(2), torch.ones(2, 10, 4))
