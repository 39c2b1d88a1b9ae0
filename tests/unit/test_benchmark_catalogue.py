"""The sides of benchmarks/catalogue.py are what they are called: logs that differ by catalogue, and SparseAdam."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
import torch
from torch import nn

from mgray.config import ResolvedModelConfig, ResolvedTrainConfig
from mgray.model.mgdsc import MGDSC
from mgray.train.item_table import item_weights

NUM_ITEMS = 30


@pytest.fixture
def positions(benchmarks: None) -> ModuleType:
    return import_module("_catalogue_positions")


@pytest.fixture
def peer(benchmarks: None) -> ModuleType:
    return import_module("_catalogue_peer")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules know each other by name, as Python finds them beside a script."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def test_logs_differ_by_their_items_alone(positions: ModuleType) -> None:
    small, large = (positions.make_log(1000, num_items) for num_items in (20, 2000))
    assert small.drop("item_id").equals(large.drop("item_id"))
    lengths = small.group_by("user_id").len()["len"]
    assert lengths.min() == 3
    assert lengths.mean() == pytest.approx(8.8, abs=0.6)  # three standard errors of a thousand users
    for log, num_items in ((small, 20), (large, 2000)):
        trained = log.filter(pl.col("timestamp").rank("ordinal", descending=True).over("user_id") > 2)
        assert set(trained["item_id"]) == set(log["item_id"]) == {f"i{item}" for item in range(num_items)}


def test_sparse_adam_is_torchs_over_a_sparse_embedding(peer: ModuleType) -> None:
    model = MGDSC(ResolvedModelConfig(width=16, dropout=0.0, norm="layer"), NUM_ITEMS)
    ((_, weight),) = item_weights(model)
    weight.requires_grad_(False)
    plain = nn.Embedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    optimizer = torch.optim.SparseAdam(plain.parameters(), betas=(0.9, 0.98), eps=1e-8)
    tables = peer.SparseAdamTables(model, model, ResolvedTrainConfig(global_batch_events=100))
    source = torch.Generator().manual_seed(0)
    for step in range(20):
        items = torch.randint(1, NUM_ITEMS + 1, (12,), generator=source)  # some of them twice
        scale = torch.randn(12, 16, generator=source)
        rate = 1e-2 / (step + 1)
        rows = tables.gather(items, None)
        (own,) = rows.tables.values()
        (own.weight[torch.searchsorted(rows.items, items)] * scale).sum().backward()
        tables.update(rows, rate)
        optimizer.zero_grad()
        (plain(items) * scale).sum().backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    torch.testing.assert_close(weight, plain.weight.detach(), rtol=1e-5, atol=1e-6)
