"""Ranking by blocks of items equals a plain ranking of whole rows, to the last digit."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch import Tensor

from mgray.data.columns import Columns
from mgray.eval.baselines import CooccurrenceScorer
from mgray.model.ensemble import make_model
from mgray.schema import PAD, UNKNOWN
from mgray.serve.catalogue import (
    MISS,
    BlockSize,
    LeftOut,
    block_size,
    borders,
    max_rows,
    rank_catalogue,
    target_ranks,
    top_k,
)
from mgray.serve.score_blocks import ModelScores, WholeScores, whole
from tests.models import model_config

INF = float("inf")
SMALL = BlockSize(items=64, scores=64 * 5)  # 5 rows at once, of 64 items
SIZES = (SMALL, BlockSize(items=192, scores=192 * 3))


def plain_scores(scores: Tensor, left_out: LeftOut) -> Tensor:
    """Whole rows with minus infinity for what may not be recommended."""
    scores = scores.clone()
    scores[left_out.rows, left_out.items.astype(np.int64)] = -INF
    if left_out.blocked is not None:
        scores[:, left_out.blocked] = -INF
    return scores


def plain_ranks(scores: Tensor, targets: Tensor) -> list[int]:
    """One comparison after another: every score that is not smaller counts."""
    ranks = []
    for row, target in zip(scores, targets.tolist(), strict=True):
        own = row[max(target, 0)]
        ranks.append(int((~(row < own)).sum()) if target > PAD and own > -INF else MISS)
    return ranks


def plain_top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of distinct scores, NaN first."""
    top = scores.sort(dim=1, descending=True, stable=True)
    values = top.values[:, :k]
    return torch.where(values > -INF, top.indices[:, :k], PAD), values


def draw_left_out(random: np.random.Generator, num_rows: int, num_items: int, share: float) -> LeftOut:
    seen = [random.integers(1, num_items + 1, random.integers(0, 1 + int(share * num_items))) for _ in range(num_rows)]
    blocked = random.choice(num_items, int(share * num_items), replace=False) + 1 if random.random() < 0.7 else None
    return LeftOut.of(seen, blocked)


def draw_targets(random: np.random.Generator, num_rows: int, num_items: int) -> Tensor:
    return torch.from_numpy(
        np.where(random.random(num_rows) < 0.1, UNKNOWN, random.integers(1, num_items + 1, num_rows))
    )


BORDER_SIZES = (1, 2, 40, 63, 64, 94, 95, 96, 97, 127, 128, 129, 160, 191, 192, 300, 500)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(BORDER_SIZES), st.integers(0, 17), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_whole_rows_of_any_scores(num_items: int, num_rows: int, k: int, seed: int) -> None:
    """Distinct scores, ties, infinities and NaN; what is seen, blocked or unknown; V around the borders of blocks."""
    random = np.random.default_rng(seed)
    scores = random.permuted(np.tile(np.arange(num_items + 1, dtype=np.float32), (num_rows, 1)), axis=1)
    kind, size = seed % 4, SIZES[seed // 4 % 2]
    if kind == 1:
        scores = np.floor(scores / 9)  # ties
    if kind == 2:
        scores[random.random(scores.shape) < 0.02] = np.nan
    if kind == 3:
        scores[random.random(scores.shape) < 0.5] = -np.inf
    scores[:, PAD] = -np.inf
    given, targets = torch.from_numpy(scores), draw_targets(random, num_rows, num_items)
    left_out = draw_left_out(random, num_rows, num_items, random.choice([0.0, 0.1, 0.9]))
    expected = plain_scores(given, left_out)
    both = rank_catalogue(given, targets, k, left_out, size)
    assert both.ranks is not None
    assert both.ranks.tolist() == plain_ranks(expected, targets)
    assert torch.equal(target_ranks(given, targets, left_out, size), both.ranks)
    items, values = top_k(given, k, left_out, size)
    assert both.items is not None
    assert both.scores is not None
    assert torch.equal(both.items, items)
    best, best_values = plain_top(expected, k)
    torch.testing.assert_close(values[:, : num_items + 1], best_values, rtol=0, atol=0, equal_nan=True)
    assert (values[:, num_items + 1 :] == -INF).all()
    if kind in (0, 3):
        assert torch.equal(items[:, : num_items + 1], best)
    listed = (values > -INF) & (values != 0)
    rows = torch.arange(num_rows)[:, None].expand_as(items)
    assert torch.equal(expected[rows[listed], items[listed]], values[listed]), "each item with its own score"
    assert all(len(set(row[row != PAD].tolist())) == int((row != PAD).sum()) for row in items)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("num_items", [63, 95, 96, 159, 160, 1000])
def test_a_model_with_items_twice_and_users_without_events(members: int, num_items: int) -> None:
    """Equal item vectors tie in whatever blocks they are; a row without an event is ranked by popularity."""
    torch.manual_seed(num_items)
    random = np.random.default_rng(num_items)
    model = make_model(model_config(width=16, granularities=(1,), heads=2, members=members), num_items)
    copies = random.permutation(num_items) + 1
    for member in model.members:
        with torch.no_grad():
            member.embedding.weight[1:] = member.embedding.weight[copies // 2 + 1]
    popularity = torch.arange(num_items, -1, -1.0).div(3).floor()
    popularity[PAD] = -INF
    for num_rows in (1, 2, 3, 5, 8, 40):
        empty = torch.tensor([row for row in (0, 3, 39) if row < num_rows])
        scores = ModelScores(model, torch.randn(num_rows, 16 * members), popularity, empty)
        size = BlockSize(64, 96 * 40)  # 40 rows in one run
        targets = draw_targets(random, num_rows, num_items)
        left_out = draw_left_out(random, num_rows, num_items, 0.1)
        dense = _by_blocks(scores, size)
        assert torch.equal(dense[empty], popularity.expand(len(empty), -1))
        torch.testing.assert_close(dense[num_rows // 2 :], whole(scores)[num_rows // 2 :], rtol=1e-5, atol=1e-6)
        expected = plain_scores(dense, left_out)
        ranked = rank_catalogue(scores, targets, 7, left_out, size)
        assert ranked.ranks is not None
        assert ranked.ranks.tolist() == plain_ranks(expected, targets)
        assert ranked.scores is not None
        assert torch.equal(ranked.scores, expected.sort(dim=1, descending=True).values[:, :7])


def _by_blocks(scores: ModelScores, size: BlockSize) -> Tensor:
    """Whole rows of the products that the ranking makes: a product's rounding may hang on its shape."""
    parts = []
    for begin, end in pairwise(borders(scores.num_columns, scores.num_rows, size)):
        parts.append(torch.empty(scores.num_rows, end - begin))
        scores.fill(parts[-1], slice(begin, end))
    return torch.cat(parts, dim=1)


class _Rounded(WholeScores):
    """Scores whose products round otherwise when they are asked for by item numbers."""

    def rows(self, chosen: slice) -> "_Rounded":
        return _Rounded(self.scores[chosen])

    def fill(self, out: Tensor, items: slice | Tensor) -> None:
        super().fill(out, items)
        if isinstance(items, Tensor):
            out += torch.randn(len(out), 1) * 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_first_guess_that_rounds_otherwise_changes_nothing(seed: int) -> None:
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    scores = torch.randn(9, 300).mul(4).round()
    scores[:, PAD] = -INF
    targets, left_out = draw_targets(random, 9, 299), draw_left_out(random, 9, 299, 0.1)
    expected = plain_ranks(plain_scores(scores, left_out), targets)
    ranked = rank_catalogue(_Rounded(scores), targets, 10, left_out, SMALL)
    assert ranked.ranks is not None
    assert ranked.ranks.tolist() == expected
    assert ranked.items is not None
    assert torch.equal(ranked.items, top_k(scores, 10, left_out, SMALL)[0])


@pytest.mark.parametrize("num_rows", [1, 2, 9])
def test_equal_scores_come_by_item_number_after_the_first_ones(num_rows: int) -> None:
    """Whatever the batch, and so the borders; where the first items are barred, too."""
    scores = torch.zeros(num_rows, 500)
    scores[:, PAD] = -INF
    scores[:, [70, 130, 131, 250, 400]] = 1.0
    assert top_k(scores, 3, size=SMALL)[0].tolist() == [[70, 130, 131]] * num_rows
    assert top_k(scores, 3, LeftOut(blocked=np.asarray([130])), SMALL)[0].tolist() == [[70, 131, 250]] * num_rows
    blocked = LeftOut(blocked=np.arange(1, 100))
    assert top_k(scores, 6, blocked, SMALL)[0].tolist() == [[130, 131, 250, 400, 100, 101]] * num_rows


def test_one_block_is_ranked_as_torch_ranks_it() -> None:
    """Ties in the lists of a catalogue of one block are as they always were: torch.topk's of the whole row."""
    scores = torch.randn(40, 3000).mul(3).round()
    items, values = top_k(scores, 10)
    top = scores.topk(10, dim=1)
    assert torch.equal(items, top.indices)
    assert torch.equal(values, top.values)


def test_scores_in_double_precision_are_compared_in_it() -> None:
    scores = torch.tensor([[-INF, 1.0, 1.0 + 1e-12, 1.0 - 1e-12]], dtype=torch.float64)
    assert target_ranks(scores, torch.tensor([1])).tolist() == [2]


def test_blocks_cover_the_catalogue_and_none_is_short() -> None:
    for num_columns in range(1, 700):
        for num_rows, expected in ((1, 192), (2, 64), (3, 64)):
            edges = borders(num_columns, num_rows, SMALL)
            widths = [end - begin for begin, end in pairwise(edges)]
            assert (edges[0], edges[-1]) == (0, num_columns)
            assert all(width == expected for width in widths[:-1])
            assert len(widths) == 1 or expected / 2 <= widths[-1] < expected * 1.5
            assert num_rows > max_rows(num_columns, SMALL) or num_rows * max(widths) <= SMALL.scores
    assert (max_rows(60, SMALL), max_rows(700, SMALL)) == (5, 3)


def test_the_buffer_keeps_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rows and items are asked for, no more scores than the bound are held at once."""
    asked: list[int] = []

    class Watched(WholeScores):
        def rows(self, chosen: slice) -> "Watched":
            return Watched(self.scores[chosen])

        def fill(self, out: Tensor, items: slice | Tensor) -> None:
            asked.append(out.numel())
            super().fill(out, items)

    row = torch.randn(1, 5000)
    ranked = rank_catalogue(
        Watched(row.expand(333, -1)), torch.ones(333, dtype=torch.int64), 5, size=BlockSize(512, 4096)
    )
    assert max(asked) <= 4096
    assert ranked.ranks is not None
    assert ranked.ranks.unique().tolist() == plain_ranks(row, torch.tensor([1]))
    assert block_size(torch.device("cpu")) == BlockSize(2**14, 2**22)
    assert block_size(torch.device("cuda")).scores * 4 == 512 * 2**20


def test_cooccurrence_by_blocks_is_its_whole_rows() -> None:
    random = np.random.default_rng(5)
    counts = sparse.random(300, 300, 0.05, "csr", random_state=5)
    popularity = random.integers(0, 50, 300)
    scorer = CooccurrenceScorer(counts, popularity)
    histories = [Columns(np.asarray(items, np.int32)) for items in ([3], [7, 250], [], [299, 1])]
    expected = whole(scorer(histories))
    assert torch.equal(expected[:, PAD], torch.full((4,), -torch.inf))
    targets = torch.tensor([9, 270, 130, UNKNOWN])
    assert target_ranks(scorer(histories), targets, size=SMALL).tolist() == plain_ranks(expected, targets)


@pytest.mark.parametrize("histories", [[], [[]], [[1, 2], [], [2]]])
def test_pairs_of_what_is_left_out(histories: Sequence[Sequence[int]]) -> None:
    left_out = LeftOut.of(histories)
    pairs = [(row, item) for row, own in enumerate(histories) for item in own]
    assert list(zip(left_out.rows.tolist(), left_out.items.tolist(), strict=True)) == pairs
    assert list(left_out.of_rows(1, 3).rows) == [row - 1 for row, _ in pairs if 1 <= row < 3]
