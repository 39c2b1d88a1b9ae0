"""The fused losses against PyTorch's own, in value and gradient."""

import math

import pytest
import torch
from torch.nn import functional as F

from mgray.train import losses
from mgray.train.losses import gbce_loss, sampled_softmax_loss, softmax_loss
from mgray.train.negatives import Negatives, Seen

NUM_ITEMS = 29


def inputs(targets: int = 37, width: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    interest = torch.randn(targets, width, requires_grad=True)
    embedding = torch.randn(NUM_ITEMS + 1, width, requires_grad=True)
    return interest, embedding, torch.randint(1, NUM_ITEMS + 1, (targets,))


def uniform(items: torch.Tensor) -> Negatives:
    return Negatives(items, NUM_ITEMS / len(items))


def plain_sampled(
    interest: torch.Tensor, embedding: torch.Tensor, targets: torch.Tensor, negatives: Negatives, smoothing: float = 0.0
) -> torch.Tensor:
    """The formula, a tensor of logits at a time."""
    is_hit = targets[:, None] == negatives.items
    scores = interest @ embedding[negatives.items].T
    log_weights = math.log(negatives.weight) + (0 if negatives.log_ratio is None else negatives.log_ratio)
    logits = (scores + log_weights).masked_fill(is_hit, -torch.inf)
    positive = (interest * embedding[targets]).sum(1)
    log_mass = torch.logaddexp(positive, logits.logsumexp(1))
    mean = (positive + scores.masked_fill(is_hit, 0).sum(1)) / (1 + (~is_hit).sum(1))
    return (log_mass - (1 - smoothing) * positive - smoothing * mean).sum()


def assert_same(actual: torch.Tensor, expected: torch.Tensor, *leaves: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
    # The factor shows that the incoming gradient is used.
    for a, b in zip(
        torch.autograd.grad(actual * 0.5, leaves), torch.autograd.grad(expected * 0.5, leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=["whole", "rows", "rows and blocks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All logits at once, a few rows at a time, and the candidates in blocks too: the last ones are not full."""
    if request.param != "whole":
        monkeypatch.setitem(losses.CHUNK_LOGITS, "cpu", 64)
    if request.param == "rows and blocks":
        monkeypatch.setattr(losses, "MAX_COLUMNS", 8)


@pytest.fixture(params=["bounded", "unbounded"])
def scale(request: pytest.FixtureRequest) -> float:
    """Of the interest: logits that need no shift, and logits of hundreds whose exp2 is beyond fp32."""
    return 1.0 if request.param == "bounded" else 40.0


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_is_cross_entropy(scale: float, smoothing: float) -> None:
    interest, embedding, targets = inputs()
    logits = scale * interest @ embedding[1:].T
    expected = F.cross_entropy(logits, targets - 1, reduction="sum", label_smoothing=smoothing)
    actual = softmax_loss(scale * interest, embedding, targets, label_smoothing=smoothing)
    assert_same(actual, expected, interest, embedding)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_sampled_softmax_is_its_formula(scale: float, smoothing: float, weighted: bool) -> None:
    interest, embedding, targets = inputs()
    negatives = uniform(torch.arange(1, 12))  # some targets among them: accidental hits
    if weighted:
        negatives = negatives._replace(log_ratio=torch.linspace(-2, 3, 11))
    actual = sampled_softmax_loss(scale * interest, embedding, targets, negatives, label_smoothing=smoothing)
    assert_same(actual, plain_sampled(scale * interest, embedding, targets, negatives, smoothing), interest, embedding)


def some_seen(num_targets: int) -> tuple[Seen, torch.Tensor]:
    """Items seen from a target on, up to the end of its user's targets, and the same as a mask [T, V + 1]."""
    torch.manual_seed(1)
    begin = torch.randint(0, num_targets, (60,))
    seen = Seen(torch.randint(1, NUM_ITEMS + 1, (60,)), begin, (begin // 10 * 10 + 10).clamp(max=num_targets))
    mask = torch.zeros(num_targets, NUM_ITEMS + 1, dtype=torch.bool)
    for item, first, last in zip(*seen, strict=True):
        mask[first:last, item] = True
    return seen, mask


def test_a_target_alone_costs_nothing_however_low_its_score() -> None:
    """With every other item seen the target's own weight is all that is left, and must not vanish."""
    embedding = torch.cat([torch.zeros(1, 4), -50 * torch.ones(1, 4), torch.ones(3, 4)]).requires_grad_()
    interest = torch.full((2, 4), 2.0, requires_grad=True)  # a score of -400: beyond what exp2 holds
    seen = Seen(torch.tensor([2, 3, 4]), torch.zeros(3, dtype=torch.int64), torch.full((3,), 2))
    loss = softmax_loss(interest, embedding, torch.tensor([1, 1]), seen=seen)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    for gradient in torch.autograd.grad(loss, (interest, embedding)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("kind", ["full", "sampled", "weighted"])
def test_what_was_seen_is_no_negative(scale: float, kind: str) -> None:
    interest, embedding, targets = inputs()
    seen, mask = some_seen(len(targets))
    assert mask[torch.arange(len(targets)), targets].any()  # a target that was seen still counts as target
    if scale > 1:  # far above all else where it was seen, and so must not be what the others are shifted by
        with torch.no_grad():
            embedding[17] *= 10
    items = torch.arange(1, NUM_ITEMS + 1) if kind == "full" else torch.arange(1, 22)
    is_out = mask[:, items] | (targets[:, None] == items)
    negatives = uniform(items)
    logits = scale * interest @ embedding[items].T + math.log(negatives.weight)
    if kind == "weighted":
        negatives = negatives._replace(log_ratio=torch.linspace(-2, 3, len(items)))
        logits = logits + negatives.log_ratio
    positive = scale * (interest * embedding[targets]).sum(1)
    mass = torch.logaddexp(positive, logits.masked_fill(is_out, -torch.inf).logsumexp(1))
    expected = (mass - positive).sum()
    if kind == "full":
        actual = softmax_loss(scale * interest, embedding, targets, seen=seen)
    else:
        actual = sampled_softmax_loss(scale * interest, embedding, targets, negatives, seen=seen)
    assert_same(actual, expected, interest, embedding)


@pytest.mark.usefixtures("chunks")
def test_what_was_seen_is_no_negative_of_gbce() -> None:
    interest, embedding, targets = inputs()
    seen, mask = some_seen(len(targets))
    negatives = torch.arange(1, 22)
    others = F.softplus(interest @ embedding[negatives].T)
    others = others.masked_fill(mask[:, negatives] | (targets[:, None] == negatives), 0)
    expected = (F.softplus(-(interest * embedding[targets]).sum(1)) + others.sum(1)).sum() / (len(negatives) + 1)
    actual = gbce_loss(interest, embedding, targets, uniform(negatives), 0.0, seen=seen)
    assert_same(actual, expected, interest, embedding)


def test_every_item_drawn_is_the_full_softmax() -> None:
    interest, embedding, targets = inputs()
    negatives = uniform(torch.randperm(NUM_ITEMS) + 1)
    for smoothing in (0.0, 0.1):
        actual = sampled_softmax_loss(interest, embedding, targets, negatives, label_smoothing=smoothing)
        expected = softmax_loss(interest, embedding, targets, label_smoothing=smoothing)
        assert_same(actual, expected, interest, embedding)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_is_its_formula(calibration: float) -> None:
    """Constants as in the paper: alpha = N / (V - 1), beta = alpha (t (1 - 1 / alpha) + 1 / alpha)."""
    interest, embedding, targets = inputs()
    negatives = torch.arange(1, 12)
    alpha = len(negatives) / (NUM_ITEMS - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    positive = torch.sigmoid((interest * embedding[targets]).sum(1)) ** beta
    others = torch.log1p(-torch.sigmoid(interest @ embedding[negatives].T))
    others = others.masked_fill(targets[:, None] == negatives, 0)
    expected = -(positive.log() + others.sum(1)).sum() / (len(negatives) + 1)
    assert_same(gbce_loss(interest, embedding, targets, uniform(negatives), calibration), expected, interest, embedding)


def test_two_items_by_hand() -> None:
    """Scores ln 3 and 0 for two items: the target's probability is 3/4, the loss ln(4/3)."""
    interest, embedding = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)], [0.0]])
    assert softmax_loss(interest, embedding, torch.tensor([1])).item() == pytest.approx(math.log(4 / 3))


def test_no_target_gives_zero_and_zero_gradients() -> None:
    """A rank whose part of a global batch is empty still takes part in the step."""
    for smoothing in (0.0, 0.1):
        interest, embedding, _ = inputs(targets=0)
        nothing = torch.zeros(0, dtype=torch.int64)
        loss = sampled_softmax_loss(
            interest, embedding, nothing, uniform(torch.arange(1, 5)), label_smoothing=smoothing
        )
        loss.backward()
        assert loss.item() == 0
        assert embedding.grad is not None
        assert embedding.grad.abs().sum().item() == 0


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("excludes", [True, False])
def test_bf16_products_stay_close(full: bool, excludes: bool) -> None:
    interest, embedding, targets = inputs(targets=500)
    seen = some_seen(len(targets))[0] if excludes else None
    negatives = uniform(torch.arange(1, 12))._replace(log_ratio=torch.linspace(-1, 1, 11))

    def loss(dtype: torch.dtype) -> torch.Tensor:
        if full:
            return softmax_loss(interest, embedding, targets, dtype, seen=seen)
        return sampled_softmax_loss(interest, embedding, targets, negatives, dtype, seen=seen)

    exact, half = loss(torch.float32), loss(torch.bfloat16)
    # bf16 keeps 8 bits: logits of size 3 err by about 0.01, and the mean of 500 errors by far less.
    assert half.item() == pytest.approx(exact.item(), rel=5e-3)
    for a, b in zip(
        torch.autograd.grad(half, (interest, embedding)), torch.autograd.grad(exact, (interest, embedding)), strict=True
    ):
        assert (a - b).norm() < 0.01 * b.norm()


def test_products_keep_their_dtype_under_autocast() -> None:
    interest, embedding, targets = inputs()
    exact = softmax_loss(interest, embedding, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert softmax_loss(interest, embedding, targets).item() == exact.item()


@pytest.mark.parametrize("length", [1.0, 30.0, 300.0])
def test_a_target_far_longer_than_every_negative(length: float) -> None:
    interest, embedding, _ = inputs()
    targets = torch.full((len(interest),), 1)
    with torch.no_grad():
        embedding[1] *= length
    negatives = uniform(torch.arange(5, 15))
    actual = sampled_softmax_loss(interest, embedding, targets, negatives)
    assert_same(actual, plain_sampled(interest, embedding, targets, negatives), interest, embedding)
