"""Negatives: drawn as said, and worth as many items as they stand for."""

import math

import numpy as np
import pytest
import torch

from mgray.config import TrainConfig
from mgray.schema import PAD
from mgray.train.negatives import (
    MixedSampler,
    Negatives,
    StepNegatives,
    draw_items,
    draw_uniform,
    seen_items,
    take_hardest,
)

COUNTS = np.asarray([0, 400, 200, 100, 50, 20, 10, 4, 2, 1, 0])  # V = 10, the last never trained on


def weights(negatives: Negatives) -> torch.Tensor:
    """[N] how many items each stands for."""
    ratio = torch.zeros(len(negatives.items)) if negatives.log_ratio is None else negatives.log_ratio
    return negatives.weight * ratio.exp()


@pytest.mark.parametrize(("items", "negatives"), [(10, 20), (100, 20), (100_000, 20)])
def test_negatives_are_distinct_items(items: int, negatives: int) -> None:
    drawn = draw_items(items, negatives, torch.Generator().manual_seed(0))
    assert drawn.unique().numel() == drawn.numel() <= negatives or drawn.tolist() == list(range(1, items + 1))
    assert drawn.min() >= 1
    assert drawn.max() <= items


def test_negatives_are_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_items(10, 5, generator) for _ in range(4000)])
    # Each item is in half of the 4,000 draws; the deviation is sqrt(4000 / 4) = 32.
    assert (torch.bincount(drawn)[1:] - 2000).abs().max() < 5 * 32


def test_uniform_negatives_stand_for_the_catalogue() -> None:
    drawn = draw_uniform(100, 20, torch.Generator().manual_seed(0))
    assert weights(drawn).tolist() == [5.0] * 20


@pytest.mark.parametrize(("popular", "in_batch"), [(3, False), (0, True), (2, True)])
def test_mixed_negatives_estimate_any_sum_over_all_items(popular: int, in_batch: bool) -> None:
    """The mean over draws of sum(weight * value) is the sum of the values over the whole catalogue."""
    sampler = MixedSampler(COUNTS, 2, popular, in_batch)
    generator = torch.Generator().manual_seed(0)
    popularity = torch.from_numpy(COUNTS).double()
    values = torch.linspace(1, 2, 11)
    estimates = []
    for _ in range(4000):
        targets = torch.multinomial(popularity, 6, replacement=True, generator=generator)
        drawn = sampler.draw(targets, generator)
        assert drawn.items.unique().numel() == len(drawn.items)
        estimates.append((weights(drawn) * values[drawn.items]).sum())
    error = torch.stack(estimates).std() / math.sqrt(len(estimates))
    assert abs(torch.stack(estimates).mean() - values[1:].sum()) < 4 * error
    assert error < 0.2


def test_popular_items_stand_for_few() -> None:
    sampler = MixedSampler(COUNTS, 2, 8, False)
    drawn = sampler.draw(torch.zeros(0, dtype=torch.int64), torch.Generator().manual_seed(0))
    # Two uniform draws of ten: 1 - (1 - 2/10) (1 - p)^8 for popularity p.
    expected = 1 / (1 - 0.8 * (1 - torch.from_numpy(COUNTS / COUNTS.sum())[drawn.items]) ** 8)
    torch.testing.assert_close(weights(drawn).double(), expected, rtol=1e-5, atol=0)


def pool_of(size: int, seed: int) -> Negatives:
    items = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:size] + 1
    return Negatives(items, 40 / size)


def test_hardest_are_the_likeliest_that_are_no_targets() -> None:
    """One position of interest 1: an item's score is its embedding; the target, item 40, scores highest."""
    embedding = torch.arange(41.0)[:, None] / 10
    pool = pool_of(40, 0)
    drawn = take_hardest(pool, 10, 0.5, torch.ones(1, 1), embedding, torch.tensor([40]))
    assert sorted(drawn.items[:5].tolist()) == [35, 36, 37, 38, 39]
    assert drawn.items.unique().numel() == 10
    # The hard stand for themselves, each of the five others for 7 of the 35 left.
    torch.testing.assert_close(weights(drawn), torch.tensor([1.0] * 5 + [7.0] * 5))


def test_hard_negatives_estimate_the_sum_over_all_items() -> None:
    torch.manual_seed(0)
    embedding, interest, targets = torch.randn(41, 4), torch.randn(30, 4), torch.randint(1, 41, (30,))
    values = (embedding @ interest[0]).exp()
    estimates = torch.stack(
        [
            (weights(drawn) * values[drawn.items]).sum()
            for drawn in (take_hardest(pool_of(24, s), 8, 0.5, interest, embedding, targets) for s in range(4000))
        ]
    )
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - values[1:].sum()) < 4 * error
    assert error < 0.02 * values[1:].sum()


def test_a_pool_too_small_gives_what_it_has() -> None:
    drawn = take_hardest(pool_of(5, 0), 10, 0.5, torch.ones(1, 4), torch.ones(41, 4), torch.tensor([1]))
    assert weights(drawn).tolist() == [8.0] * 5


def test_a_step_draws_by_its_generator_alone() -> None:
    """What a resumed run and every rank rely on."""
    targets = torch.tensor([[0, 1, 2], [3, 3, 1]])
    options = [
        {},
        {"popular_negatives": 4},
        {"in_batch_negatives": True},
        {"hard_negatives": 0.5},
        {"loss": "gbce"},
    ]
    for option in options:
        step = StepNegatives(TrainConfig(num_negatives=3, **option), COUNTS)
        drawn = [step.draw(targets, torch.Generator().manual_seed(7)) for _ in range(2)]
        assert drawn[0] is not None
        assert drawn[1] is not None
        assert torch.equal(drawn[0].items, drawn[1].items)
        assert drawn[0].items.min() >= 1
    assert StepNegatives(TrainConfig(loss="softmax"), COUNTS).draw(targets, torch.Generator()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "softmax", "hard_negatives": 0.5}, "hard_negatives needs loss: sampled_softmax"),
        ({"loss": "gbce", "popular_negatives": 5}, "popular_negatives needs loss: sampled_softmax"),
        ({"hard_negatives": 0.5, "in_batch_negatives": True}, "turn in_batch_negatives off"),
        ({"loss": "gbce", "label_smoothing": 0.1}, "label_smoothing needs a softmax loss"),
    ],
)
def test_draws_that_do_not_go_together(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def dense_mask(items: torch.Tensor, is_target: torch.Tensor, num_items: int) -> torch.Tensor:
    """[T, V + 1]: what each target's user had by then, a position at a time."""
    rows = []
    for row, at in is_target.nonzero().tolist():
        mask = torch.zeros(num_items + 1, dtype=torch.bool)
        mask[items[row, : at + 1]] = True
        rows.append(mask)
    found = torch.stack(rows)
    found[:, PAD] = False
    return found


@pytest.mark.parametrize("step", [1, 3])
def test_seen_is_every_item_up_to_the_position_of_the_target(step: int) -> None:
    torch.manual_seed(0)
    items = torch.randint(1, 20, (5, 9))  # with repeats
    items[0, :4] = items[3, :8] = PAD
    is_target = (items != PAD) & (torch.rand(items.shape) < 0.8)  # of an overlapping window the first are no targets
    candidates = torch.tensor([3, 7, 19, 11, 2, 5, 8, 13, 1, 17])
    column_of = torch.full((20,), -1)
    column_of[candidates] = torch.arange(10)
    expected = dense_mask(items, is_target, 19)[::step][:, candidates]
    seen = seen_items(items, is_target).every(step)
    found_whole = found_place = False
    for targets in (slice(0, len(expected)), slice(2, 7), slice(3, 5)):
        for block in (slice(0, 10), slice(2, 7)):
            part = expected[targets, block]
            columns, places = seen.within(column_of[seen.items], targets, block)
            actual = torch.zeros(part.shape, dtype=torch.bool)
            actual[:, columns] = True
            actual.view(-1)[places] = True
            assert torch.equal(actual, part)
            assert len(places.unique()) == len(places), "an item seen twice is listed once"
            found_whole, found_place = found_whole or len(columns) > 0, found_place or len(places) > 0
    assert found_place
    assert found_whole == (step == 1)  # every third target leaves a row too few


def test_what_was_seen_is_no_hard_negative() -> None:
    """Item 5 scores highest at every target, and is a mistake until it is seen."""
    embedding = torch.zeros(11, 2)
    embedding[5] = torch.tensor([9.0, 0.0])
    interest, targets = torch.tensor([[1.0, 0.0]]).expand(6, -1), torch.full((6,), 1)
    pool = Negatives(torch.tensor([2, 3, 4, 6, 7, 8, 9, 5]), 10 / 8)
    items, is_target = torch.tensor([[5, 2, 3, 4, 6, 7]]), torch.ones(1, 6, dtype=torch.bool)
    hardest = take_hardest(pool, 2, 0.5, interest, embedding, targets)
    assert 5 in hardest.items
    hardest = take_hardest(pool, 2, 0.5, interest, embedding, targets, seen_items(items, is_target))
    assert 5 not in hardest.items
