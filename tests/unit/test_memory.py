"""Memory: what is looked up equals a plain loop, is the same one event at a time, and is fitted where it helps."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mgray.config import EvaluateConfig, ModelConfig, TrainJobConfig
from mgray.data.inputs import Inputs
from mgray.data.pair_table import PairTable
from mgray.errors import InputError
from mgray.model.memory import PAIR_SCALE, KindNumbers, Memory, MemoryNumbers, kernels_of
from mgray.serve.catalogue import BlockSize, top_k
from mgray.serve.explain import explain
from mgray.serve.model_folder import load_info, save_table
from mgray.serve.recommender import Recommender
from mgray.serve.score_blocks import AddedScores, WholeScores, whole
from tests.models import model_config, write_model
from tests.perturbed import make_model

NUM_ITEMS = 6
# What followed 1: 2 (weight 3) and 4 (weight 1); what followed 3: 2 (weight 0.5).
TABLE = PairTable(
    np.asarray([0, 0, 2, 2, 3, 3, 3, 3]), np.asarray([2, 4, 2], np.int32), np.asarray([3.0, 1.0, 0.5], np.float32)
)
PAIRS = KindNumbers(kernels=(2, "1h"), weight=1.5, scales=(0.7, 20.0))
REPEATS = KindNumbers(kernels=(2, 10, "1h"), weight=0.5, scales=(2.0, 0.0, 1.0))
MEMORY = Memory(MemoryNumbers(kinds={"pairs": PAIRS, "repeats": REPEATS}), NUM_ITEMS, TABLE)
HISTORY, TIMES = [3, 1, 5, 1], [0.0, 1800.0, 3600.0, 3600.0]
IDS = ["a", "b", "c", "d", "e", "f"]


def inputs_of(items: list[int], times: list[float], padding: int = 0) -> Inputs:
    return Inputs(
        torch.tensor([[0] * padding + items]), times=torch.tensor([[0.0] * padding + times], dtype=torch.float64)
    )


def plain_scores(items: list[int], times: list[float]) -> list[float]:
    """The formula of mgray/model/memory.py, written out."""
    added = [0.0] * (NUM_ITEMS + 1)
    rows = TABLE.csr().toarray()
    for kind, fitted in (("pairs", PAIRS), ("repeats", REPEATS)):
        for item in range(1, NUM_ITEMS + 1):
            total = 0.0
            for kernel, scale in zip(fitted.kernels, fitted.scales, strict=True):
                for place, (own, time) in enumerate(zip(items, times, strict=True)):
                    age, elapsed = len(items) - 1 - place, times[-1] - time
                    weight = math.exp(-elapsed / 3600 if kernel == "1h" else -age / kernel)
                    brought = math.log1p(rows[own, item] * NUM_ITEMS / PAIR_SCALE)
                    total += scale * weight * (brought if kind == "pairs" else float(own == item))
            added[item] += fitted.weight * math.log1p(total)
    return added


@pytest.mark.parametrize("padding", [0, 3])
def test_scores_are_the_formula(padding: int) -> None:
    found = MEMORY.scores(inputs_of(HISTORY, TIMES, padding)).toarray()[0]
    assert found == pytest.approx(plain_scores(HISTORY, TIMES), abs=1e-6)
    assert found[2] > found[4] > 0, "what followed more often"
    assert found[1] > 0, "what the user had"
    assert found[6] == 0, "neither"


def test_padding_alone_brings_nothing_to_mind() -> None:
    assert MEMORY.scores(inputs_of([0], [0.0])).nnz == 0


def test_kernels_longer_than_what_is_looked_up_are_left_out() -> None:
    assert kernels_of("pairs", (2, 10, 50, 300, "7d")) == (2, 10, "7d")
    assert kernels_of("repeats", (2, 10, 50, 300)) == (2, 10, 50, 300)
    assert kernels_of("pairs", (300,)) == (300,), "one at least"


@pytest.mark.parametrize("size", [BlockSize(2, 4), BlockSize(3, 100), BlockSize(100, 100)])
def test_blocks_give_the_whole_rows(size: BlockSize) -> None:
    learned = torch.randn(5, NUM_ITEMS + 1, generator=torch.Generator().manual_seed(0))
    learned[:, 0] = -torch.inf
    events = Inputs(
        torch.tensor([[0, 1], [3, 1], [0, 0], [5, 5], [1, 3]]), times=torch.zeros(5, 2, dtype=torch.float64)
    )
    added = MEMORY.scores(events)
    scores = AddedScores(WholeScores(learned), added)
    expected = learned + torch.from_numpy(added.toarray())
    assert torch.equal(whole(scores), expected)
    chosen = torch.tensor([4, 0, 2])
    out = torch.empty(5, 3)
    scores.fill(out, chosen)
    assert torch.equal(out, expected[:, chosen])
    items, values = top_k(scores, 3, size=size)
    assert torch.equal(values, expected.topk(3).values)
    assert torch.equal(expected.gather(1, items), values)


def test_an_explanation_adds_up_and_says_what_an_event_gave() -> None:
    model = make_model(model_config(width=8, heads=2, granularities=(1, 4)))
    inputs = inputs_of(HISTORY, TIMES)
    alone, joined = explain(model, inputs, 2), explain(model, inputs, 2, memory=MEMORY)
    assert joined.score == pytest.approx(alone.score + plain_scores(HISTORY, TIMES)[2], abs=1e-5)
    parts = sum(joined.levels) + joined.rest + sum(one.score for one in joined.recalled)
    assert parts == pytest.approx(joined.score, abs=1e-5)
    assert [one.label for one in joined.recalled] == [
        "pairs: 2",
        "pairs: 1h",
        "repeats: 2",
        "repeats: 10",
        "repeats: 1h",
    ]
    assert [one.score for one in joined.recalled[2:]] == [0, 0, 0], "2 was never had"
    lost = plain_scores(HISTORY, TIMES)[2] - plain_scores(HISTORY[:-1], TIMES[:-1])[2]
    assert joined.events[-1] - alone.events[-1] == pytest.approx(lost, abs=1e-5)


def recommender_of(folder: Path) -> Recommender:
    config = model_config(
        width=8, heads=2, granularities=(1, "decay:1..9"), memory=("pairs", "repeats"), memory_kernels=(2, 10, "1h")
    )
    write_model(folder, IDS, [6, 5, 4, 3, 2, 1], config=config, memory=MEMORY.numbers, remove_seen=False)
    save_table(folder, TABLE)
    return Recommender(folder)


def test_a_saved_model_remembers(tmp_path: Path) -> None:
    recommender = recommender_of(tmp_path)
    history, times = [IDS[item - 1] for item in HISTORY], {"timestamps": [TIMES]}
    found = recommender.recommend([history], 6, beside=times)
    with_memory = dict(zip(found.items[0], found.scores[0], strict=True))
    recommender.scorer.memory = None
    found = recommender.recommend([history], 6, beside=times)
    added = {item: with_memory[item] - score for item, score in zip(found.items[0], found.scores[0], strict=True)}
    expected = plain_scores(HISTORY, TIMES)
    assert added == pytest.approx({IDS[item - 1]: expected[item] for item in range(1, 7)}, abs=1e-5)
    with pytest.raises(InputError, match="the model reads timestamps"):
        recommender.recommend([history], 6)


def test_an_index_with_the_remembered_items_gives_the_list_of_the_whole_catalogue(tmp_path: Path) -> None:
    recommender = recommender_of(tmp_path)
    history, times = [IDS[item - 1] for item in HISTORY], {"timestamps": [TIMES]}
    (remembered,) = recommender.remembered([history], times)
    assert sorted(remembered) == ["a", "b", "c", "d", "e"], "had a, c and e; b and d followed"
    assert recommender.remembered([[]], {"timestamps": [[]]}) == [[]]
    learned = recommender.interests([history], times) @ recommender.item_vectors().T
    for k in (1, 2, 6):
        index = [IDS[number] for number in np.argsort(-learned[0])[:k]]
        found = recommender.recommend([history], k, beside=times, candidates=[*index, *remembered])
        assert found == recommender.recommend([history], k, beside=times)
    recommender.memory = None
    assert recommender.remembered([history], times) == [[]]


def test_one_event_at_a_time_is_the_whole_history(tmp_path: Path) -> None:
    recommender = recommender_of(tmp_path)
    source = np.random.default_rng(0)
    history = [IDS[number] for number in source.integers(0, 6, 700)]
    times = np.cumsum(source.integers(0, 600, 700)).astype(float).tolist()
    recommender.info = recommender.info.model_copy(update={"max_length": 1024})
    recommender.scorer.max_length = 1024
    user = recommender.begin()
    sizes = []
    for first in range(0, 700, 70):
        chosen = slice(first, first + 70)
        user = recommender.extend(user, history[chosen], {"timestamps": times[chosen]})
        sizes.append(len(user.recent.items))
    assert sizes[-3:] == [500, 500, 500], "the state does not grow"
    apart = recommender.recommend_next([user, recommender.begin()], 6)
    whole_history = recommender.recommend([history, []], 6, beside={"timestamps": [times, []]})
    assert apart.items == whole_history.items
    assert apart.scores[0] == pytest.approx(whole_history.scores[0], abs=1e-4)


def test_the_description_keeps_the_numbers(tmp_path: Path) -> None:
    recommender_of(tmp_path)
    assert load_info(tmp_path).memory == MEMORY.numbers


@pytest.mark.parametrize("kernel", ["session:30m", "0d", "monthly", 0])
def test_a_wrong_kernel_is_refused(kernel: int | str) -> None:
    with pytest.raises(ValueError, match="memory_kernels"):
        ModelConfig(memory_kernels=(kernel,))


def test_a_rating_model_has_no_memory() -> None:
    with pytest.raises(ValueError, match="memory needs outputs"):
        ModelConfig(outputs="rating", memory=("pairs",))


def test_auto_follows_the_ranking() -> None:
    assert TrainJobConfig().model.memory == "auto"
    assert EvaluateConfig().remove_seen
