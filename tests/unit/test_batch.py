"""The training feed: every event a target once, the same batches whatever the number of workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgray.data.columns import Columns
from mgray.data.dataset import Histories
from mgray.data.feed import collate, cut_windows, deal, feed, num_events, num_targets, plan_epoch
from mgray.data.padding import left_pad, padded_length


def make_histories(lengths: list[int]) -> Histories:
    """Items count up from 1 over the whole shard, so a tensor shows where each came from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    ends = np.asarray(lengths, dtype=np.int64)
    return Histories([str(i) for i in range(len(lengths))], offsets, Columns(items), ends, ends)


lengths_strategy = st.lists(st.integers(0, 60), min_size=1, max_size=40)


@settings(deadline=None, max_examples=100)
@given(lengths_strategy, st.integers(2, 16))
def test_each_event_is_a_target_once_with_context(lengths: list[int], max_length: int) -> None:
    windows = cut_windows(0, np.asarray(lengths), max_length)
    targets = [(w["row"], t) for w in windows for t in range(w["first_target"], w["stop"])]
    assert sorted(targets) == [(row, t) for row, n in enumerate(lengths) for t in range(1, n)]
    assert (num_events(windows) <= max_length).all()
    for window in windows:
        context = window["first_target"] - window["start"]
        assert context >= min(window["first_target"], max_length // 2)


@settings(deadline=None, max_examples=50)
@given(lengths_strategy, st.integers(1, 200), st.integers(1, 5))
def test_deal_loses_nothing_and_balances(lengths: list[int], budget: int, world: int) -> None:
    for windows in (w for group in plan_epoch([np.asarray(lengths)], 0, 0, budget, 1000) for w in group):
        parts = deal(windows, world)
        assert sorted(np.concatenate(parts).tolist()) == sorted(windows.tolist())
        loads = [int(num_events(part).sum()) for part in parts]
        # Longest first to the least loaded: loads differ by at most one window.
        assert max(loads) - min(loads) <= int(num_events(windows).max())


def test_plan_is_a_pure_function_of_seed_and_epoch() -> None:
    lengths = [np.arange(2, 40), np.arange(5, 80)]

    def flat(seed: int, epoch: int) -> list:
        return [w.tolist() for group in plan_epoch(lengths, seed, epoch, 100, 50) for w in group]

    assert flat(1, 2) == flat(1, 2)
    assert flat(1, 2) != flat(1, 3)
    assert flat(1, 2) != flat(2, 2)


def test_plan_trains_on_every_event_and_fills_by_events() -> None:
    lengths = [np.arange(2, 40), np.arange(5, 80)]
    batches = [w for group in plan_epoch(lengths, 0, 0, 100, 50) for w in group]
    assert sum(num_targets(w) for w in batches) == sum(int((part - 1).sum()) for part in lengths)
    assert all(num_events(w).sum() <= 100 + 50 for w in batches)


def test_like_lengths_go_together() -> None:
    lengths = [np.random.default_rng(0).integers(2, 500, 400)]
    batches = [w for group in plan_epoch(lengths, 0, 0, 4096, 500) for w in group]
    padded = sum(int(num_events(w).max()) * len(w) for w in batches)
    real = sum(int(num_events(w).sum()) for w in batches)
    # Lengths are blurred by 10%, so about that is padding; without sorting it would be half.
    assert real / padded > 0.85


def test_collate_aligns_targets_with_inputs() -> None:
    histories = {0: make_histories([4, 3])}
    batch = collate(cut_windows(0, np.asarray([4, 3]), 100), histories)
    assert batch.inputs.items.tolist() == [[1, 2, 3], [0, 5, 6]]
    assert batch.targets.tolist() == [[2, 3, 4], [0, 6, 7]]


def test_long_batches_share_their_shapes_and_short_ones_are_not_padded() -> None:
    assert [padded_length(longest) for longest in (0, 1, 3, 8, 9, 16, 17)] == [1, 1, 3, 8, 16, 16, 24]


def test_collate_of_a_later_window_has_context_without_targets() -> None:
    windows = cut_windows(0, np.asarray([8]), 4)
    batch = collate(windows, {0: make_histories([8])})
    assert batch.inputs.items[1, -4:].tolist() == [3, 4, 5, 6]
    assert batch.targets[1, -4:].tolist() == [0, 0, 6, 7]


def test_an_idle_rank_gets_padding() -> None:
    batch = collate(cut_windows(0, np.asarray([1]), 4), {})
    assert batch.inputs.items.sum() == batch.targets.sum() == 0


@pytest.mark.parametrize("start", [0, 3, 7])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_feed_resumes_anywhere_and_ranks_add_up(start: int, world: int) -> None:
    lengths = [[5, 9, 30], [12, 2, 44, 7]]
    shards = [make_histories(part) for part in lengths]
    groups = plan_epoch([np.asarray(part) for part in lengths], 3, 1, 16, 20)
    total = sum(len(group) for group in groups)
    whole = {b.number: b for b in feed(shards.__getitem__, groups, 1, 0, 0, 1)}
    ranks = [list(feed(shards.__getitem__, groups, 1, start, rank, world)) for rank in range(world)]
    for steps in zip(*ranks, strict=True):
        number = steps[0].number
        assert {step.number for step in steps} == {number}
        dealt = sorted(t for step in steps for t in step.batch.targets[step.batch.targets > 0].tolist())
        expected = whole[number].batch.targets
        assert dealt == sorted(expected[expected > 0].tolist())
        assert len(dealt) == steps[0].global_targets
    assert [step.number for step in ranks[0]] == list(range(start, total))


@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_knows_the_items_of_the_global_batch(world: int) -> None:
    lengths = [[5, 9, 30], [12, 2, 44, 7]]
    shards = [make_histories(part) for part in lengths]
    groups = plan_epoch([np.asarray(part) for part in lengths], 3, 1, 16, 20)
    ranks = [list(feed(shards.__getitem__, groups, 1, 0, rank, world, with_items=True)) for rank in range(world)]
    for steps in zip(*ranks, strict=True):
        dealt = [table for step in steps for table in (step.batch.inputs.items, step.batch.targets)]
        expected = sorted({item for table in dealt for item in table.flatten().tolist()} - {0})
        for step in steps:
            assert step.items is not None
            assert step.items.tolist() == expected


def test_left_pad_keeps_the_newest() -> None:
    items = left_pad([Columns(np.asarray([1, 2, 3], dtype=np.int32)), Columns(np.asarray([], dtype=np.int32))], 2).items
    assert items[0, -2:].tolist() == [2, 3]
    assert items[0, :-2].sum() == 0
    assert items[1].sum() == 0
