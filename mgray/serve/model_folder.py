"""A model folder: `weights.safetensors`, `model.json` and `vocabulary.arrow`. It is all that serving needs.

A model that remembers pairs has `memory.safetensors` too. Nothing is pickled. Models of older mgrays have
`vocabulary.json` in place of the Arrow file.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors import numpy as numpy_safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from mgray import __version__
from mgray.config import EvaluateConfig, ResolvedModelConfig
from mgray.data.dataset import Dataset, IntArray
from mgray.data.inputs import InputSpec
from mgray.data.mapped import TextColumn, number_view, read_mapped, write_mapped
from mgray.data.pair_table import PairTable
from mgray.distributed import rank_and_world
from mgray.errors import InputError
from mgray.model.ensemble import Model, make_model
from mgray.model.memory import Memory, MemoryNumbers
from mgray.record import Record
from mgray.schema import ITEM_ID

WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.json"
VOCABULARY_FILE = "vocabulary.arrow"
MEMORY_FILE = "memory.safetensors"  # the pair table
OLD_VOCABULARY_FILE = "vocabulary.json"  # of models of older mgrays: the fields of Vocabulary, as lists
# By item number, from 1 on.
MODEL_VOCABULARY_SCHEMA = pa.schema(
    [
        pa.field(ITEM_ID, pa.large_string(), nullable=False),
        pa.field("title", pa.large_string()),  # null: the id
        pa.field("num_train_events", pa.int64(), nullable=False),
        pa.field("num_newest_events", pa.int64()),  # all null: not known
    ]
)

SEEN_CAUTION = (
    "It never learned to rank low what the user has (train.exclude_seen): with remove_seen false, that comes first"
)


class ModelInfo(Record):
    """Description of a model and of its training; the content of MODEL_FILE."""

    config: ResolvedModelConfig
    num_items: int
    max_length: int  # events of a history that are read
    dataset_fingerprint: str
    inputs: InputSpec = InputSpec()
    remove_seen: bool = True  # as it was measured; the default of a request
    include_valid: bool = False  # whether it trained on the dataset's validation part too
    memory: MemoryNumbers | None = None  # None: it looks nothing up, for it did not help or was not asked for
    exclude_seen: bool = False  # whether it never learned to rank low what the user has
    mgray_version: str = __version__

    def as_measured(self, config: EvaluateConfig) -> EvaluateConfig:
        """Fill in a `remove_seen` that the config does not set: as the model was measured after training."""
        if "remove_seen" in config.model_fields_set:
            return config
        return config.model_copy(update={"remove_seen": self.remove_seen})

    def caution(self, remove_seen: bool) -> str | None:
        """Warning for lists that are made with this `remove_seen`; None: no warning is needed."""
        if remove_seen or not self.exclude_seen:
            return None
        return SEEN_CAUTION


class Vocabulary:
    """The model's items; item `i` is at index `i - 1` of each sequence. Texts stay in Arrow, mapped from their file."""

    def __init__(
        self,
        item_ids: Sequence[str],
        titles: Sequence[str],
        num_train_events: npt.ArrayLike,
        num_newest_events: npt.ArrayLike | None = None,
    ) -> None:
        """num_newest_events: among the newest POPULAR_SHARE; None in models of an earlier version."""
        self.item_ids, self.titles = TextColumn.of(item_ids), TextColumn.of(titles)
        self.num_train_events: IntArray = np.asarray(num_train_events, dtype=np.int64)
        self.num_newest_events: IntArray | None = None
        if num_newest_events is not None:
            self.num_newest_events = np.asarray(num_newest_events, dtype=np.int64)

    @classmethod
    def of(cls, dataset: Dataset, include_valid: bool = False) -> "Vocabulary":
        """The items of a dataset. Collective: call it on every rank.

        Of a version that an older mgray made, rank 0 counts the newest events, by two reads of the shards' times.
        include_valid: whether the model trains on the validation part too.
        """
        rank, num_ranks = rank_and_world()
        counts_now = dataset.has_newest_counts or rank == 0
        counted = [dataset.newest_counts(include_valid=include_valid) if counts_now else None]
        if num_ranks > 1 and not dataset.has_newest_counts:
            dist.broadcast_object_list(counted)
        newest = counted[0]
        assert newest is not None, "rank 0 has counted"
        return cls(dataset.item_ids, dataset.titles, dataset.item_counts[1:], newest[1:])

    @classmethod
    def read(cls, folder: Path) -> "Vocabulary":
        """The vocabulary of a model folder, mapped from its file."""
        if not (folder / VOCABULARY_FILE).is_file():
            lists = json.loads((folder / OLD_VOCABULARY_FILE).read_bytes())
            # Other versions have kept other lists beside these.
            return cls(lists["item_ids"], lists["titles"], lists["num_train_events"], lists.get("num_newest_events"))
        table = read_mapped(folder / VOCABULARY_FILE)
        item_ids = TextColumn(table[ITEM_ID])
        is_counted = not table["num_newest_events"].null_count
        return cls(
            item_ids,
            TextColumn(table["title"], instead=item_ids),
            number_view(table, "num_train_events"),
            number_view(table, "num_newest_events") if is_counted else None,
        )

    def table(self) -> pa.Table:
        """The vocabulary as its file holds it, MODEL_VOCABULARY_SCHEMA."""
        ids, titles = self.item_ids.to_arrow(), self.titles.given()
        is_other = pc.and_(pc.not_equal(titles, ids), pc.not_equal(titles, ""))
        newest = self.num_newest_events
        columns = [
            ids,
            pc.if_else(is_other, titles, pa.scalar(None, titles.type)),
            pa.array(self.num_train_events),
            pa.nulls(len(ids), pa.int64()) if newest is None else pa.array(newest),
        ]
        return pa.table(columns, schema=MODEL_VOCABULARY_SCHEMA)

    @property
    def popularity(self) -> npt.NDArray[np.float64]:
        """Scores for an empty history, [V + 1]: an item's newest events, ties by all of them; 0 at padding."""
        counts = np.concatenate([[0.0], self.num_train_events])
        if self.num_newest_events is None:
            return counts
        found: npt.NDArray[np.float64] = np.concatenate([[0], self.num_newest_events]) + counts / (counts.max() + 1)
        return found


def save_weights(folder: Path, weights: dict[str, Tensor], info: ModelInfo) -> None:
    """Write a model folder without its vocabulary: what a checkpoint has of the best model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    (folder / MODEL_FILE).write_text(info.model_dump_json(indent=1))


def save_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write the vocabulary into a model folder. One that is there already is replaced: a model may have it mapped."""
    draft = folder / f".{VOCABULARY_FILE}.{os.getpid()}"
    write_mapped(vocabulary.table(), draft)
    draft.replace(folder / VOCABULARY_FILE)


def save_model(folder: Path, weights: dict[str, Tensor], info: ModelInfo, vocabulary: Vocabulary) -> None:
    save_weights(folder, weights, info)
    save_vocabulary(folder, vocabulary)


def save_table(folder: Path, table: PairTable) -> None:
    """Write what a memory of pairs looks up into a model folder."""
    numpy_safetensors.save_file(table.arrays(), folder / MEMORY_FILE)


def load_memory(folder: str | Path, info: ModelInfo) -> Memory | None:
    """The memory of a folder's model; None: it has none. Raises InputError where its table is missing."""
    if info.memory is None:
        return None
    table = None
    if "pairs" in info.memory.kinds:
        if not (Path(folder) / MEMORY_FILE).is_file():
            raise InputError(f"{folder}: no {MEMORY_FILE}, which its {MODEL_FILE} names; give the whole folder")
        table = PairTable.from_arrays(numpy_safetensors.load_file(Path(folder) / MEMORY_FILE))
    return Memory(info.memory, info.num_items, table)


def load_info(folder: str | Path) -> ModelInfo:
    """Read the description of a folder's model. Raises InputError where a file is missing, or of another version."""
    has_old = (Path(folder) / OLD_VOCABULARY_FILE).is_file()
    for name in (WEIGHTS_FILE, MODEL_FILE, OLD_VOCABULARY_FILE if has_old else VOCABULARY_FILE):
        if not (Path(folder) / name).is_file():
            raise InputError(f"{folder}: no {name}, so not an mgray model; give the folder that training wrote")
    return parse_info((Path(folder) / MODEL_FILE).read_bytes(), folder)


def parse_info(content: bytes, source: str | Path) -> ModelInfo:
    """Parse a MODEL_FILE. Raises InputError, which names the source, where another version wrote it."""
    try:
        return ModelInfo.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{source}: {MODEL_FILE} is not of a model that mgray {__version__} reads ({error.error_count()} errors, "
            f"the first: {error.errors()[0]['msg']}); train it anew, or use the version that wrote it"
        ) from error


def load_model(folder: str | Path, device: torch.device) -> tuple[Model, ModelInfo, Vocabulary]:
    """The model of a folder that `save_model` wrote. Raises InputError as `load_info` does."""
    folder = Path(folder)
    info = load_info(folder)
    model = make_model(info.config, info.num_items, info.inputs)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.to(device).eval(), info, Vocabulary.read(folder)
