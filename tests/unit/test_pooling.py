"""Every pooling over every kind of span equals a plain loop over the events that the span holds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mgray.config.granularity import Decay, Session, Span, Stride
from mgray.model.pooling import MeanPool, make_pool
from mgray.model.spans import make_clock

DAY = 86_400.0
WIDTH = 3
# Two days and a session of two equal times within the first: 23:00, 23:00, 23:20, 00:10, 02:00, 02:00, 02:31.
TIMES = torch.tensor([-3600.0, -3600.0, -2400.0, 600.0, 7200.0, 7200.0, 9060.0], dtype=torch.float64) + 20_000 * DAY
SPANNED = {  # events that each position sees
    Stride(3): [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]],
    Span(DAY): [[0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [3, 4, 5, 6]],
    Span(7 * DAY): [list(range(t + 1)) for t in range(7)],
    Session(1800): [[0], [0, 1], [0, 1, 2], [3], [4], [4, 5], [6]],
    Session(3000): [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [4], [4, 5], [4, 5, 6]],
}
KINDS = pytest.mark.parametrize("kind", SPANNED, ids=str)


def pool(kind: Stride | Span | Session, pooling: str, x: Tensor, padding: int = 0) -> Tensor:
    """x: [L, D] -> [L, D], with as much padding ahead as is asked for and cut off again."""
    torch.manual_seed(0)
    module = make_pool(kind, pooling, WIDTH)
    assert module is not None
    padded = torch.cat([torch.full((padding, WIDTH), 9.0), x])
    mask = torch.cat([torch.zeros(padding, 1), torch.ones(len(x), 1)])
    clock = make_clock(torch.cat([torch.zeros(padding, dtype=torch.float64), TIMES])[None])
    return module(padded[None], mask[None], clock, None)[0][0, padding:]


def looped(kind: Stride | Span | Session, x: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([reduce(x[events]) for events in SPANNED[kind]])


@KINDS
@pytest.mark.parametrize("padding", [0, 4])
def test_mean_and_max(kind: Stride | Span | Session, padding: int) -> None:
    x = torch.randn(7, WIDTH)
    torch.testing.assert_close(pool(kind, "mean", x, padding), looped(kind, x, lambda seen: seen.mean(0)))
    torch.testing.assert_close(pool(kind, "max", x, padding), looped(kind, x, lambda seen: seen.amax(0)))


@KINDS
def test_learned_is_a_weighted_mean(kind: Stride | Span | Session) -> None:
    torch.manual_seed(0)
    module = make_pool(kind, "learned", WIDTH)
    assert isinstance(module, MeanPool)
    assert module.weigh is not None
    weigh, x = module.weigh, torch.randn(7, WIDTH)

    def weighted(seen: Tensor) -> Tensor:
        weight = torch.sigmoid(weigh(seen))
        return (weight * seen).sum(0) / weight.sum()

    torch.testing.assert_close(pool(kind, "learned", x), looped(kind, x, weighted))


@KINDS
@pytest.mark.parametrize("padding", [0, 4])
def test_decay_weighs_by_age(kind: Stride | Span | Session, padding: int) -> None:
    """e^-1 for an event that is one span old: in events where the span is a stride, else in seconds."""
    x = torch.randn(7, WIDTH)
    ages = torch.arange(7.0) if isinstance(kind, Stride) else TIMES
    scale = {Stride(3): 3, Session(1800): 1800, Session(3000): 3000}.get(kind) or kind.seconds  # type: ignore[union-attr]
    expected = []
    for t in range(7):
        weight = torch.exp((ages[: t + 1] - ages[t]) / scale).float()[:, None]
        expected.append((weight * x[: t + 1]).sum(0) / weight.sum())
    torch.testing.assert_close(pool(kind, "decay", x, padding), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_one_event_is_not_pooled() -> None:
    assert make_pool(Stride(1), "max", WIDTH) is None
    assert make_pool(Decay(1, 9), "decay", WIDTH) is None


def test_the_weights_of_a_learned_mean_and_the_scales_of_a_decay_learn() -> None:
    x, mask, clock = torch.randn(1, 7, WIDTH), torch.ones(1, 7, 1), make_clock(TIMES[None])
    for pooling in ("learned", "decay"):
        for kind in SPANNED:
            module = make_pool(kind, pooling, WIDTH)
            assert module is not None
            module(x, mask, clock, None)[0].square().sum().backward()
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None, name
                assert math.isfinite(parameter.grad.abs().sum()), name
                if name != "weigh.bias":
                    assert bool((parameter.grad != 0).all()), name
