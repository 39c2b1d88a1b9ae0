"""The sketch reads a window and nothing else, learns what can be learnt, and is judged as the model is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks._sketch import Prefixes, Sketch, SketchRater, SketchScorer, train_sketch
from mgray.config import EvaluateConfig, TrainConfig
from mgray.data.columns import Columns
from mgray.data.dataset import Dataset
from mgray.data.inputs import Inputs, InputSpec
from mgray.eval.ranking import evaluate, part_queries
from mgray.eval.rating import evaluate_ratings, rating_batches
from mgray.eval.rating_baselines import make_rating_baselines
from mgray.testing.synthetic import make_log
from tests.datasets import write_dataset

NUM_ITEMS = 30
TRAINING = TrainConfig(epochs=2, learning_rate=2e-3, num_negatives=20, max_time_s=None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "version", make_log(120, NUM_ITEMS))


def make_sketch(num_items: int = NUM_ITEMS, length: int = 8, spec: InputSpec | None = None, seed: int = 0) -> Sketch:
    torch.manual_seed(seed)
    return Sketch(num_items, width=16, length=length, spec=spec)


def random_items(rows: int, length: int) -> torch.Tensor:
    return torch.randint(1, NUM_ITEMS + 1, (rows, length), generator=torch.Generator().manual_seed(0))


def test_its_parameters_are_those_of_the_layers() -> None:
    sketch = make_sketch()
    layers = (9 + 1) * 64, (64 * 9 + 1) * 64, (64 * 4 * 2 + 1) * 512, (512 + 1) * 16
    assert sum(p.numel() for p in sketch.parameters()) == (NUM_ITEMS + 1) * 16 + sum(layers)


def test_every_layer_is_read() -> None:
    """The published sketch drops its first convolution's output, so that nothing would move that layer."""
    sketch = make_sketch()
    sketch(Inputs(random_items(4, 8))).square().sum().backward()
    for name, parameter in sketch.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("length", [3, 8])
def test_padding_and_what_is_before_the_window_change_nothing(length: int) -> None:
    sketch, items = make_sketch(), random_items(5, length)
    before = torch.zeros(5, 4, dtype=torch.int64) if length < 8 else random_items(5, 20)
    longer = torch.cat([before, items], dim=1)
    assert torch.equal(sketch(Inputs(items)), sketch(Inputs(longer)))


def test_sizes_that_do_not_pool_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        Sketch(NUM_ITEMS, width=16, length=10)


def test_every_event_with_one_before_it_is_a_target_once_an_epoch(dataset: Dataset) -> None:
    prefixes = Prefixes(dataset, 8, ("ratings",))
    expected = []
    for histories in dataset.train_events(["ratings"]):
        for row in range(len(histories.train_end)):
            events = histories.row(row)
            assert events.ratings is not None
            for place in range(1, len(events)):
                window = events.items[max(0, place - 8) : place]
                expected.append((*([0] * (8 - len(window))), *window, events.items[place], events.ratings[place]))
    found = []
    for inputs, targets, ratings in prefixes.epoch(seed=0, epoch=0, batch=50):
        assert ratings is not None
        found += [
            (*row, item, rating)
            for row, item, rating in zip(inputs.items.tolist(), targets.tolist(), ratings.tolist(), strict=True)
        ]
    assert sorted(found) == sorted(expected)
    assert found != [row for part in prefixes.epoch(0, 1, 50) for row in part.inputs.items.tolist()]


def train(dataset: Dataset, epochs: int) -> tuple[Sketch, dict[str, float]]:
    sketch = make_sketch(dataset.num_items)
    scorer, queries = SketchScorer(sketch, dataset.item_counts), part_queries(dataset, "valid")

    def validate() -> dict[str, float]:
        return evaluate(scorer, queries, dataset.item_counts, EvaluateConfig(remove_seen=False)).compute()

    config = TRAINING.model_copy(update={"epochs": epochs})
    fitted = train_sketch(sketch, dataset, config, validate, "hr@10", batch_targets=32, exclude_seen=False)
    assert (fitted.epochs, fitted.steps) == (pytest.approx(epochs), epochs * -(-len(Prefixes(dataset, 8, ())) // 32))
    best = validate()
    assert best == fitted.best_valid, "it ends with its best weights"
    return sketch, best


def test_it_learns_a_walk(dataset: Dataset) -> None:
    """30 items: the next is known four times in five; by chance a third is in a list of ten."""
    assert train(dataset, epochs=3)[1]["hr@10"] > 0.6


def test_the_same_seed_gives_the_same(dataset: Dataset) -> None:
    first, second = (train(dataset, epochs=1)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_an_empty_history_gets_the_popular_items() -> None:
    counts = np.arange(NUM_ITEMS + 1)
    scores = SketchScorer(make_sketch(), counts)([Columns(np.zeros(0, np.int32)), Columns(np.asarray([3], np.int32))])
    assert scores[0].argmax() == NUM_ITEMS
    assert torch.isinf(scores[:, 0]).all()
    assert not torch.equal(scores[0], scores[1])


def test_time_ends_a_training(dataset: Dataset) -> None:
    config = TRAINING.model_copy(update={"epochs": 10_000, "max_time_s": 0.2})
    fitted = train_sketch(
        make_sketch(dataset.num_items), dataset, config, lambda: {"hr@10": 0.0}, "hr@10", exclude_seen=True
    )
    assert 0 < fitted.epochs < 10_000
    assert fitted.seconds >= 0.2


def test_with_ratings_it_beats_the_global_mean(tmp_path: Path) -> None:
    """Users of one kind love what the others hate."""
    log = make_log(60, NUM_ITEMS)
    numbers = log["item_id"].str.slice(1).cast(int) + log["user_id"].str.slice(1).cast(int)
    dataset = write_dataset(tmp_path / "version", log.with_columns(rating=numbers % 2 * 3.0 + 1))
    spec = InputSpec(rating_mean=2.5, rating_std=1.5)
    sketch = make_sketch(dataset.num_items, spec=spec)
    batches, scale = list(rating_batches(dataset, "valid", (), EvaluateConfig())), dataset.rating_scale()
    rater = SketchRater(sketch)
    fitted = train_sketch(
        sketch,
        dataset,
        TRAINING.model_copy(update={"epochs": 3, "learning_rate": 1e-2}),
        lambda: evaluate_ratings(rater, batches, scale).compute(),
        "rmse",
        batch_targets=32,
        exclude_seen=True,
    )
    mean = evaluate_ratings(make_rating_baselines(dataset)["global_mean"], batches, scale).compute()
    assert fitted.best_valid["rmse"] < 0.9 * mean["rmse"]
