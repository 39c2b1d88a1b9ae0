"""Augmented batches: what is taken out is so as input and as target, and no position sees its own target."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.config import TrainConfig
from mgray.data.feed import Batch
from mgray.data.inputs import Inputs
from mgray.schema import PAD
from mgray.train.augment import augment, is_augmented


def batch_of(lengths: list[int], first_targets: list[int] | None = None) -> Batch:
    """Row `r` of n inputs holds items 1..n and targets 2..n+1, the rating of item i is i, its time 10 i.

    first_targets: the targets before are none, as in the overlap of a window with the one before.
    """
    length = max(lengths)
    place = torch.arange(length) - length + torch.tensor(lengths)[:, None] + 1  # 1..n on the right
    items = place.clamp(min=PAD)
    first = torch.tensor(first_targets or [2] * len(lengths))[:, None]
    targets = torch.where((items != PAD) & (items + 1 >= first), items + 1, PAD)
    ratings = torch.where(items != PAD, items.float(), torch.nan)
    inputs = Inputs(items, items.double() * 10, items, ratings, items.float()[:, :, None].repeat(1, 1, 2))
    return Batch(inputs, targets, torch.where(targets != PAD, targets.float(), torch.nan))


def run(batch: Batch, seed: int = 0, **options: float) -> Batch:
    return augment(batch, TrainConfig(**options), np.random.default_rng(seed))


def rows(tensor: torch.Tensor) -> list[list[int]]:
    return [[int(x) for x in row if x != PAD] for row in tensor]


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any),
    options=st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.5, 0.9]) for name in ("augment_crop", "augment_reorder", "augment_drop")}
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_targets_follow_their_inputs_and_columns_stay_together(lengths: list[int], options: dict, seed: int) -> None:
    before = batch_of(lengths)
    after = run(before, seed, **options)
    items = after.inputs.items
    for row, targets, length in zip(items, after.targets, lengths, strict=True):
        kept = [int(x) for x in row if x != PAD]
        assert row.tolist() == [PAD] * (len(row) - len(kept)) + kept, "padding is on the left"
        assert len(set(kept)) == len(kept)
        assert (len(kept) > 0) == (length > 0)
        if kept:
            # The first event of a history was never a target, so it is none where it was moved back.
            follow = [*kept[1:], length + 1]
            assert targets.tolist()[-len(kept) :] == [PAD if item == 1 else item for item in follow]
    there = items != PAD
    assert torch.equal(after.inputs.event_types, items)
    assert torch.equal(after.inputs.ratings.nan_to_num(0), items.float())
    assert torch.equal(after.inputs.features, items.float()[:, :, None].expand(-1, -1, 2))
    assert torch.equal(after.target_ratings.nan_to_num(0), after.targets.float())
    # Times are those of the events kept, in order.
    for time, row, real in zip(after.inputs.times, items, there, strict=True):
        assert time[real].tolist() == sorted(row[real].double().mul(10).tolist())
        assert not time[~real].any()


def test_dropping_by_hand() -> None:
    """Whatever is dropped of 1 2 3 4 -> 5, the rest is 1 2 3 4 without it, and the last input and target stay."""
    seen = set()
    for seed in range(40):
        after = run(batch_of([4]), seed, augment_drop=0.5)
        kept = rows(after.inputs.items)[0]
        assert rows(after.targets)[0] == [*kept[1:], 5]
        seen.add(tuple(kept))
    assert {(4,), (1, 4), (2, 4), (3, 4), (1, 2, 4), (1, 3, 4), (2, 3, 4), (1, 2, 3, 4)} == seen


def test_overlap_of_windows_gives_no_target_twice() -> None:
    """Targets 2 and 3 belong to the window before, whatever is dropped or moved."""
    for seed in range(20):
        after = run(batch_of([6], [4]), seed, augment_drop=0.4, augment_reorder=1.0)
        assert not {2, 3} & set(rows(after.targets)[0])


def test_crop_begins_in_the_first_half() -> None:
    firsts = {rows(run(batch_of([8]), seed, augment_crop=1.0).inputs.items)[0][0] for seed in range(60)}
    assert firsts == {1, 2, 3, 4}


def test_reorder_shuffles_a_fifth_in_a_row() -> None:
    """Four in a row of 20 inputs are reordered; the others stay in place."""
    moved = 0
    for seed in range(20):
        items = rows(run(batch_of([20]), seed, augment_reorder=1.0).inputs.items)[0]
        assert sorted(items) == list(range(1, 21))
        places = [place for place, item in enumerate(items, start=1) if item != place]
        assert not places or max(places) - min(places) < 4
        moved += bool(places)
    assert moved > 10


def test_mask_hides_items_and_keeps_targets() -> None:
    before = batch_of([200])
    after = run(before, augment_mask=0.3)
    assert torch.equal(after.targets, before.targets)
    hidden = (after.inputs.items == PAD).float().mean().item()
    assert hidden == pytest.approx(0.3, abs=0.1)  # three deviations of 200 draws
    there = after.inputs.items != PAD
    assert torch.equal(after.inputs.items[there], before.inputs.items[there])
    assert torch.equal(after.inputs.times, before.inputs.times)


def test_off_is_off() -> None:
    assert not is_augmented(TrainConfig())
    before = batch_of([3, 5])
    after = run(before)
    assert torch.equal(after.inputs.items, before.inputs.items)
    assert torch.equal(after.targets, before.targets)


def test_items_alone_are_enough() -> None:
    before = batch_of([5])
    after = run(Batch(Inputs(before.inputs.items), before.targets), augment_drop=0.5)
    assert after.inputs.times is None
    assert after.target_ratings is None
