"""The fused losses against PyTorch's own, in value and gradient."""

import math

import pytest
import torch
from torch.nn import functional as F

from mgray import losses
from mgray.losses import draw_negatives, sampled_softmax_loss, softmax_loss


def inputs(targets: int = 37, width: int = 8, items: int = 29) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    interest = torch.randn(targets, width, requires_grad=True)
    embedding = torch.randn(items + 1, width, requires_grad=True)
    return interest, embedding, torch.randint(1, items + 1, (targets,))


def assert_same(actual: torch.Tensor, expected: torch.Tensor, *leaves: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
    # The factor shows that the incoming gradient is used.
    for a, b in zip(
        torch.autograd.grad(actual * 0.5, leaves), torch.autograd.grad(expected * 0.5, leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [2**18, 64])
def test_softmax_is_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setitem(losses.CHUNK_LOGITS, "cpu", chunk)
    interest, embedding, targets = inputs()
    expected = F.cross_entropy(interest @ embedding[1:].T, targets - 1, reduction="sum")
    assert_same(softmax_loss(interest, embedding, targets), expected, interest, embedding)


def test_every_item_drawn_is_the_full_softmax() -> None:
    interest, embedding, targets = inputs()
    negatives = torch.randperm(29) + 1
    actual = sampled_softmax_loss(interest, embedding, targets, negatives)
    assert_same(actual, softmax_loss(interest, embedding, targets), interest, embedding)


@pytest.mark.parametrize("chunk", [2**18, 32])
def test_sampled_softmax_is_its_formula(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setitem(losses.CHUNK_LOGITS, "cpu", chunk)
    interest, embedding, targets = inputs()
    negatives = torch.arange(1, 11)  # some targets among them: accidental hits
    logits = interest @ embedding[negatives].T + math.log(29 / 10)
    logits = logits.masked_fill(targets[:, None] == negatives, -torch.inf)
    positive = (interest * embedding[targets]).sum(1)
    expected = (torch.logaddexp(positive, logits.logsumexp(1)) - positive).sum()
    assert_same(sampled_softmax_loss(interest, embedding, targets, negatives), expected, interest, embedding)


def test_two_items_by_hand() -> None:
    """Scores ln 3 and 0 for two items: the target's probability is 3/4, the loss ln(4/3)."""
    interest, embedding = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)], [0.0]])
    assert softmax_loss(interest, embedding, torch.tensor([1])).item() == pytest.approx(math.log(4 / 3))


def test_no_target_gives_zero_and_zero_gradients() -> None:
    """A rank whose part of a global batch is empty still takes part in the step."""
    interest, embedding, _ = inputs(targets=0)
    loss = sampled_softmax_loss(interest, embedding, torch.zeros(0, dtype=torch.int64), torch.arange(1, 5))
    loss.backward()
    assert loss.item() == 0
    assert embedding.grad is not None
    assert embedding.grad.abs().sum().item() == 0


def test_bf16_products_stay_close() -> None:
    interest, embedding, targets = inputs(targets=500)
    exact = softmax_loss(interest, embedding, targets).item()
    # bf16 keeps 8 bits: logits of size 3 err by about 0.01, and the mean of 500 errors by far less.
    assert softmax_loss(interest, embedding, targets, torch.bfloat16).item() == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize(("items", "negatives"), [(10, 20), (100, 20), (100_000, 20)])
def test_negatives_are_distinct_items(items: int, negatives: int) -> None:
    drawn = draw_negatives(items, negatives, torch.Generator().manual_seed(0))
    assert drawn.unique().numel() == drawn.numel() <= negatives or drawn.tolist() == list(range(1, items + 1))
    assert drawn.min() >= 1
    assert drawn.max() <= items


def test_negatives_are_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_negatives(10, 5, generator) for _ in range(4000)])
    # Each item is in half of the 4,000 draws; the deviation is sqrt(4000 / 4) = 32.
    assert (torch.bincount(drawn)[1:] - 2000).abs().max() < 5 * 32
