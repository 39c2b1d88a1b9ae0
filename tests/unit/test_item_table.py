"""The item table, trained by rows, is the table that dense AdamW gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgray.config import ResolvedTrainConfig
from mgray.data.dataset import Dataset
from mgray.data.feed import Batch
from mgray.data.inputs import Inputs
from mgray.model.ensemble import Model, make_model
from mgray.model.mgdsc import MGDSC
from mgray.testing.synthetic import make_log
from mgray.train.checkpoint import restore_state, save_state
from mgray.train.item_table import ItemTables, is_by_rows, item_weights, take_out_tables_
from mgray.train.missed_steps import LOOK_BACK
from mgray.train.negatives import StepNegatives
from mgray.train.objective import Objective
from mgray.train.optim import ADAM_EPS, BETAS, learning_rate
from mgray.train.trainer import Logged, Trainer, Validated
from mgray.train.warm_start import warm_start_
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
NUM_ITEMS, WIDTH = 40, 8
CONFIG = model_config(width=WIDTH, heads=2, granularities=(1, 4), dropout=0.1)
TRAIN = ResolvedTrainConfig(epochs=3, learning_rate=1e-2, global_batch_events=100, num_negatives=20, max_time_s=None)

Rate = Callable[[int], float]


def take_out(model: Model) -> Model:
    """Train by rows, however small the table is."""
    for _, weight in item_weights(model):
        weight.requires_grad_(False)
    return model


class Pair:
    """A table trained by rows, and beside it the same one trained by torch.optim.AdamW whole."""

    def __init__(self, weight_decay: float, start_scale: float = 0.3) -> None:
        torch.manual_seed(1)
        model = take_out(MGDSC(CONFIG, NUM_ITEMS))
        self.weight = model.embedding.weight
        torch.nn.init.normal_(self.weight, std=start_scale)
        self.dense = nn.Parameter(self.weight.detach().clone())
        self.optimizer = torch.optim.AdamW(
            [self.dense], betas=BETAS, eps=ADAM_EPS, weight_decay=weight_decay, fused=True
        )
        self.tables = ItemTables(model, model, TRAIN.model_copy(update={"weight_decay": weight_decay}))

    def step(self, items: Tensor, gradient: Tensor, rate: float) -> None:
        """gradient: [V + 1, W], read where `items` are."""
        rows = self.tables.gather(items, None)
        (own,) = rows.tables.values()
        own.weight.grad = gradient[rows.items]
        self.tables.update(rows, rate)
        self.optimizer.param_groups[0]["lr"] = rate
        self.dense.grad = torch.zeros_like(self.dense).index_copy(0, rows.items, gradient[rows.items])
        self.optimizer.step()

    def difference(self) -> float:
        """Largest difference of the tables, caught up, over the root mean square of the dense one."""
        self.tables.catch_up()
        dense = self.dense.detach()
        return float((self.weight - dense).abs().max() / dense.square().mean().sqrt())


def constant(step: int) -> float:
    return 4e-3


def ramp(step: int) -> float:
    """The default's: warm-up, constant, decay to zero, over 2,000 steps."""
    return learning_rate(ResolvedTrainConfig(global_batch_events=1), step / 2000)


def jumps(step: int) -> float:
    return (1e-3, 8e-3, 0.0, 4e-3)[step // 7 % 4]


def random_touches(pair: Pair, steps: int, rate: Rate, scale: Tensor, seed: int = 0) -> None:
    """Each item is touched with a probability of its own, from every step to once in a thousand; some never.

    scale: [V + 1, 1] of the gradients' deviation.
    """
    source = torch.Generator().manual_seed(seed)
    probability = torch.logspace(0, -3, NUM_ITEMS + 1)
    probability[-4:] = 0
    for step in range(steps):
        items = (torch.rand(NUM_ITEMS + 1, generator=source) < probability).nonzero()[:, 0]
        gradient = torch.randn(NUM_ITEMS + 1, WIDTH, generator=source) * scale
        pair.step(items[items > 0], gradient, rate(step))


@pytest.mark.parametrize("rate", [ramp, constant, jumps])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 1.0])
def test_equals_dense_over_random_touches(rate: Rate, weight_decay: float) -> None:
    """2,000 steps, gradients from a hundredth of eps to 1: within 3e-5, most of which is float32's rounding."""
    pair = Pair(weight_decay)
    scale = torch.logspace(-10, 0, NUM_ITEMS + 1)[torch.randperm(NUM_ITEMS + 1)][:, None]
    random_touches(pair, 2000, rate, scale)
    assert pair.difference() < 3e-5


def test_a_row_never_touched_moves_by_weight_decay_alone() -> None:
    pair = Pair(weight_decay=0.5)
    start = pair.weight[7].clone()
    for step in range(30):
        pair.step(torch.tensor([1, 2]), torch.ones(NUM_ITEMS + 1, WIDTH), ramp(step + 500))
    pair.tables.catch_up()
    torch.testing.assert_close(pair.weight[7], start * (1 - 4e-3 * 0.5) ** 30)
    assert (pair.weight[0] == pair.dense[0]).all()


def test_a_row_touched_every_step_is_dense_adamws_to_the_last_bit() -> None:
    pair = Pair(weight_decay=0.01)
    source = torch.Generator().manual_seed(0)
    for step in range(50):
        pair.step(torch.tensor([3]), torch.randn(NUM_ITEMS + 1, WIDTH, generator=source), ramp(step))
    assert torch.equal(pair.weight[3], pair.dense[3])


@pytest.mark.parametrize("missed", [1, 2, 3, 10, LOOK_BACK - 1, LOOK_BACK, LOOK_BACK + 1, 10_000])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-8])
def test_a_row_that_missed_steps(missed: int, scale: float) -> None:
    """float32's rounding of the dense weights grows with the steps that they take one by one."""
    pair, source = Pair(weight_decay=0.01), torch.Generator().manual_seed(0)
    for _ in range(60):
        pair.step(torch.tensor([3]), torch.randn(NUM_ITEMS + 1, WIDTH, generator=source) * scale, 4e-3)
    rest = torch.zeros(NUM_ITEMS + 1, WIDTH)
    for _ in range(missed):
        pair.step(torch.tensor([5]), rest, 4e-3)
    assert pair.difference() < 2e-6 * (1 + missed**0.5 / 10)
    moments = pair.tables.state()
    expected = pair.optimizer.state[pair.dense]
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(moments[f"embedding.weight.{name}"], expected[name], rtol=1e-4, atol=1e-30)


def test_without_warm_up_the_first_steps_near_eps_are_the_worst() -> None:
    """One gradient in the very first step, at full rate and about as large as eps, then none: 5e-4 of the weights."""
    for scale in (1e-6, 1e-7, 1e-8):
        pair = Pair(weight_decay=0.0, start_scale=0.125)
        gradient = torch.randn(NUM_ITEMS + 1, WIDTH, generator=torch.Generator().manual_seed(0)) * scale
        pair.step(torch.arange(1, NUM_ITEMS + 1), gradient, 4e-3)
        for _ in range(100):
            pair.step(torch.tensor([], dtype=torch.int64), gradient * 0, 4e-3)
        assert pair.difference() < 5e-4


def test_to_catch_up_often_or_seldom_is_the_same() -> None:
    often, seldom = Pair(weight_decay=0.01), Pair(weight_decay=0.01)
    for chunk in range(20):
        for pair in (often, seldom):
            random_touches(pair, 70, lambda step, begin=70 * chunk: ramp(begin + step), torch.tensor(1.0), seed=chunk)
        often.tables.catch_up()
    assert often.difference() < 3e-5
    assert seldom.difference() < 3e-5
    torch.testing.assert_close(often.weight, seldom.weight, rtol=0, atol=1e-5)


def test_the_rule() -> None:
    """By rows where the items are more than eight times the rows that a step touches at most."""
    config = TRAIN.model_copy(update={"global_batch_events": 1000, "num_negatives": 500})

    def by_rows(num_items: int, ranks_items: bool = True, **changes: Any) -> bool:
        return is_by_rows(config.model_copy(update=changes), num_items, ranks_items=ranks_items)

    assert by_rows(12_001)
    assert not by_rows(12_000)
    assert by_rows(8001, ranks_items=False)
    assert not by_rows(8001)
    assert not by_rows(8 * (1000 + 4 * 500), hard_negatives=0.5)
    assert not by_rows(10**7, loss="softmax")
    assert by_rows(10**7, ranks_items=False, loss="softmax")
    assert not by_rows(10**7, ema_decay=0.99)
    assert not by_rows(10**7, learning_rate=10.0, weight_decay=0.1)
    model = make_model(CONFIG, 12_001)
    take_out_tables_(model, config)
    assert [name for name, own in model.named_parameters() if not own.requires_grad] == ["embedding.weight"]


LOSSES = {
    "sampled softmax": {},
    "gbce": {"loss": "gbce"},
    "hard negatives": {"hard_negatives": 0.5, "num_negatives": 6},
    "mixed negatives": {"popular_negatives": 5, "in_batch_negatives": True, "num_negatives": 5},
    "label smoothing": {"label_smoothing": 0.1, "num_negatives": 5},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_the_dense_ones_bit_for_bit(loss: str) -> None:
    config = TRAIN.model_copy(update={"num_negatives": 10, **LOSSES[loss]})
    torch.manual_seed(0)
    model = MGDSC(CONFIG, NUM_ITEMS).eval()
    objective = Objective(model, config, CPU, exclude_seen=config.label_smoothing == 0)
    items = torch.randint(1, NUM_ITEMS // 2, (3, 6)).tril(2)  # some padding, and items that no one has
    batch = Batch(Inputs(items.flip(1)), torch.randint(1, NUM_ITEMS, (3, 6)))
    counts = torch.arange(NUM_ITEMS + 1).numpy()
    negatives = StepNegatives(config, counts).draw(batch.targets, torch.Generator().manual_seed(0))
    expected = objective(batch.inputs, batch.targets, negatives)
    expected.backward()
    assert model.embedding.weight.grad is not None
    gradient = model.embedding.weight.grad.clone()
    others = {name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None}

    model.zero_grad()
    rows = ItemTables(objective, take_out(model), config).gather(
        torch.cat([items.flatten(), batch.targets.flatten()]), negatives
    )
    assert len(rows.items) < NUM_ITEMS
    renumbered, drawn = rows.renumber(batch, negatives)
    found = rows.run(objective, renumbered.inputs, renumbered.targets, drawn)
    found.backward()
    assert torch.equal(found, expected)
    (own,) = rows.tables.values()
    assert torch.equal(own.gradient, gradient[rows.items])
    assert not gradient.index_fill(0, rows.items, 0).any()  # no other row has one
    for name, parameter in model.named_parameters():
        if name != "embedding.weight":
            assert torch.equal(parameter.grad, others[name]), name


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(
        tmp_path_factory.mktemp("data") / "version", make_log(150, 600)
    )  # a batch has about a tenth of the items


def make_trainer(
    dataset: Dataset, config: ResolvedTrainConfig, switch: dict[str, Any], rows: bool, source: Model | None = None
) -> Trainer:
    settings = CONFIG.model_copy(update=switch)
    torch.manual_seed(0)
    model = make_model(settings, dataset.num_items, dataset.input_spec(settings))
    if source is not None:
        warm_start_(model, dataset.item_ids, source, dataset.item_ids, keep=0.5)
    if rows:
        take_out(model)
    return Trainer(Objective(model, config, CPU, exclude_seen=False), model, dataset, config, CPU)


def run(trainer: Trainer) -> list[Logged | Validated]:
    return list(trainer.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 1))


TRAININGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{name: (switch, {}) for name, switch in LOSSES.items()},
    "augmentation": ({"augment_drop": 0.2, "augment_reorder": 0.5, "augment_mask": 0.1}, {}),
    "validation part too": ({"include_valid": True}, {}),
    "no clipping, no decay": ({"max_grad_norm": None, "weight_decay": 0.0}, {}),
    "members": ({}, {"members": 2}),
    "both heads": ({}, {"outputs": "both", "inputs": ("rating",)}),
    "ratings alone": ({}, {"outputs": "rating", "inputs": ("rating",)}),
    "batch norm": ({}, {"norm": "batch"}),
    "granularity dropout": ({}, {"level_dropout": 0.5}),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_by_rows_is_the_dense_one(dataset: Dataset, name: str) -> None:
    """The first steps' losses agree to rounding, which AdamW then blows up where gradients are nearly zero."""
    switch, model_switch = TRAININGS[name]
    config = TRAIN.model_copy(update=switch)
    dense, rows = (make_trainer(dataset, config, model_switch, by_rows) for by_rows in (False, True))
    losses = [[event.loss for event in run(trainer) if isinstance(event, Logged)] for trainer in (dense, rows)]
    assert rows.progress.step == dense.progress.step > 20
    assert losses[1][0] == losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=1e-5)


def test_a_warm_start_goes_on_by_rows(dataset: Dataset) -> None:
    source = make_trainer(dataset, TRAIN, {}, rows=True)
    run(source)
    dense, rows = (make_trainer(dataset, TRAIN, {}, by_rows, source.model) for by_rows in (False, True))
    losses = [[event.loss for event in run(trainer) if isinstance(event, Logged)] for trainer in (dense, rows)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


@pytest.mark.parametrize("name", ["sampled softmax", "members", "both heads", "augmentation"])
def test_resume_at_a_validation_is_bit_for_bit(dataset: Dataset, tmp_path: Path, name: str) -> None:
    switch, model_switch = TRAININGS[name]
    config = TRAIN.model_copy(update={"validate_every_epochs": 2, **switch})
    whole, stopped, resumed = (make_trainer(dataset, config, model_switch, rows=True) for _ in range(3))
    run(whole)
    for event in stopped.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 5):
        if isinstance(event, Validated):
            break
    save_state(tmp_path, stopped.model, stopped.optimizer, stopped.progress, [], stopped.average, tables=stopped.tables)
    with torch.no_grad():
        resumed.model.members[-1].embedding.weight.zero_()  # nothing of a fresh start may survive
    resumed.progress, _ = restore_state(tmp_path, resumed.model, resumed.optimizer, resumed.average, resumed.tables)
    assert 0 < resumed.progress.step < whole.progress.step
    run(resumed)
    for key, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[key]), key
    for key, tensor in whole.tables.state().items():
        assert torch.equal(tensor, resumed.tables.state()[key]), key


def test_resume_between_validations_is_within_rounding(dataset: Dataset, tmp_path: Path) -> None:
    whole, stopped, resumed = (make_trainer(dataset, TRAIN, {}, rows=True) for _ in range(3))
    losses = [event.loss for event in run(whole) if isinstance(event, Logged)]
    for event in stopped.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 1):
        if isinstance(event, Logged) and event.step == 13:
            break
    save_state(tmp_path, stopped.model, stopped.optimizer, stopped.progress, [], tables=stopped.tables)
    resumed.progress, _ = restore_state(tmp_path, resumed.model, resumed.optimizer, tables=resumed.tables)
    rest = [event.loss for event in run(resumed) if isinstance(event, Logged)]
    assert rest == pytest.approx(losses[13:], rel=2e-3)


def test_the_weights_are_a_copy_with_every_row_caught_up(dataset: Dataset) -> None:
    trainer = make_trainer(dataset, TRAIN, {}, rows=True)
    for event in trainer.run(lambda: {"ndcg@10": 0.0}, "ndcg@10", 1):
        if isinstance(event, Logged) and event.step == 5:
            break
    before = trainer.model.embedding.weight.clone()
    weights = trainer.weights()
    assert not torch.equal(weights["embedding.weight"], before)  # some row was behind
    assert torch.equal(weights["embedding.weight"], trainer.model.embedding.weight)
    assert weights["embedding.weight"].shape == (dataset.num_items + 1, WIDTH)
