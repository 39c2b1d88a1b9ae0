"""The fit of memory: it finds what helps, leaves out what does not, and needs no more than the training part."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from mgray.config import EvaluateConfig, TrainConfig, TrainJobConfig
from mgray.data.dataset import Dataset
from mgray.data.manifest import Manifest
from mgray.data.pair_table import count_pairs
from mgray.errors import InputError
from mgray.eval.part_metrics import PartEvaluation
from mgray.model.memory import Memory
from mgray.model.mgdsc import MGDSC
from mgray.serve.scorer import ModelScorer
from mgray.train.memory_fit import fit_on_rank_0, held_out_share
from mgray.train.resolve import resolve_job
from tests.datasets import write_dataset
from tests.models import model_config

CPU = torch.device("cpu")
NUM_ITEMS, NUM_USERS, LENGTH = 40, 300, 8


def made_log(follows: bool) -> pl.DataFrame:
    """Histories of random items, where `follows` each third item is what its number says of the one before."""
    source = np.random.default_rng(0)
    items = source.integers(0, NUM_ITEMS, (NUM_USERS, LENGTH))
    if follows:
        for place in range(1, LENGTH):
            told = source.random(NUM_USERS) < 0.7
            items[told, place] = (items[told, place - 1] * 7 + 3) % NUM_ITEMS
    return pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(NUM_USERS), LENGTH).astype(str),
            "item_id": items.ravel().astype(str),
            "timestamp": np.tile(np.arange(LENGTH), NUM_USERS),
        }
    )


def fitted(dataset: Dataset, kinds: tuple[str, ...], config: EvaluateConfig) -> tuple[Memory | None, ModelScorer]:
    torch.manual_seed(0)
    settings = model_config(width=8, heads=2, granularities=(1,), memory=kinds)
    scorer = ModelScorer(MGDSC(settings, dataset.num_items), dataset.item_counts, 50, CPU)
    return fit_on_rank_0(scorer, dataset, settings, config), scorer


def ndcg(dataset: Dataset, scorer: ModelScorer, config: EvaluateConfig, memory: Memory | None) -> float:
    test = PartEvaluation(scorer.model, dataset, "test", 50, CPU, config, dataset.item_counts, memory=memory)
    return test.run().compute()["ndcg@10"]


def test_pairs_are_found_where_items_follow_each_other(tmp_path: Path) -> None:
    dataset, config = write_dataset(tmp_path / "d", made_log(follows=True)), EvaluateConfig(remove_seen=False)
    memory, scorer = fitted(dataset, ("pairs",), config)
    assert memory is not None
    assert set(memory.numbers.kinds) == {"pairs"}
    assert memory.table.csr().toarray().tolist() == count_pairs(dataset).csr().toarray().tolist(), "of training alone"
    before, after = ndcg(dataset, scorer, config, None), ndcg(dataset, scorer, config, memory)
    # 7 of 10 next items are the likeliest successor; the rest and an untrained model hit by chance.
    assert before < 0.3
    assert after > 0.6


def test_what_does_not_help_is_left_out(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", made_log(follows=False))
    memory, _ = fitted(dataset, ("pairs",), EvaluateConfig(remove_seen=False))
    assert memory is None


def test_few_queries_say_too_little(tmp_path: Path) -> None:
    few = made_log(follows=True).filter(pl.col("user_id").cast(pl.Int64) < 150)
    memory, _ = fitted(write_dataset(tmp_path / "d", few), ("pairs",), EvaluateConfig(remove_seen=False))
    assert memory is None


def test_repeats_are_found_where_what_is_had_is_had_again(tmp_path: Path) -> None:
    log = made_log(follows=False)
    first = pl.col("item_id").gather(pl.col("timestamp") % 3)  # each user goes round three items
    log = log.with_columns(item_id=first.over("user_id"))
    config = EvaluateConfig(remove_seen=False)
    dataset = write_dataset(tmp_path / "d", log)
    memory, scorer = fitted(dataset, ("repeats",), config)
    assert memory is not None
    assert memory.table is None, "pairs were not asked for"
    assert ndcg(dataset, scorer, config, memory) > 0.4 > ndcg(dataset, scorer, config, None)


def doubled() -> pl.DataFrame:
    """Twice as many users."""
    return pl.concat([made_log(follows=True), made_log(follows=True).with_columns(pl.col("user_id") + "b")])


def test_held_out_validation_events_do_not_train(tmp_path: Path) -> None:
    dataset, train = write_dataset(tmp_path / "d", doubled()), TrainConfig(include_valid=True)
    settings = model_config(width=8, heads=2, granularities=(1,), memory=("pairs",))
    share = held_out_share(train, settings, dataset)
    assert share == 0.5, "400 of 600 are wanted, and half is the most"
    assert held_out_share(TrainConfig(), settings, dataset) == 0
    assert held_out_share(train, settings.model_copy(update={"memory": ()}), dataset) == 0
    held = {query.user_id for query in dataset.queries("valid", held_out=share)}
    assert 250 < len(held) < 350, "about half of 600"
    for shard, lengths in enumerate(dataset.train_lengths(True, share)):
        users = dataset.read(shard).user_ids
        expected = [LENGTH - 2 if user in held else LENGTH - 1 for user in users]
        assert lengths.tolist() == expected == dataset.read_training(shard, (), True, share).train_end.tolist()


def test_few_validation_events_all_train(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", made_log(follows=True))
    settings = model_config(width=8, heads=2, granularities=(1,), memory=("pairs",))
    assert held_out_share(TrainConfig(include_valid=True), settings, dataset) == 0, "half of 300 are too few to fit to"


def test_the_newest_pairs_are_counted_once_the_numbers_are_fitted(tmp_path: Path) -> None:
    dataset, config = write_dataset(tmp_path / "d", doubled()), EvaluateConfig(remove_seen=False)
    settings = model_config(width=8, heads=2, granularities=(1,), memory=("pairs",))
    torch.manual_seed(0)
    scorer = ModelScorer(MGDSC(settings, dataset.num_items), dataset.item_counts, 50, CPU)
    share = held_out_share(TrainConfig(include_valid=True), settings, dataset)
    memory = fit_on_rank_0(scorer, dataset, settings, config, share)
    assert memory is not None
    expected = count_pairs(dataset, include_valid=True).csr() != memory.table.csr()
    assert expected.nnz == 0


def resolved(manifest: Manifest, **sections: dict) -> tuple[str, ...]:
    return resolve_job(TrainJobConfig.model_validate(sections), manifest).model.memory


def test_auto_follows_the_ranking_and_the_split(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "d", made_log(follows=True)).manifest
    assert resolved(manifest) == ("pairs",)
    assert resolved(manifest, evaluate={"remove_seen": False}) == ("pairs", "repeats")
    assert resolved(manifest, model={"memory": "none"}) == ()
    assert resolved(manifest, model={"memory": ("repeats",)}) == ("repeats",)
    mixed = write_dataset(tmp_path / "r", made_log(follows=True), split="random").manifest
    assert resolved(mixed) == ()
    with pytest.raises(InputError, match=r"model\.memory: its numbers are fitted to a validation part"):
        resolved(mixed, model={"memory": ("pairs",)})
