"""A model folder: `weights.safetensors`, `model.json` and `vocabulary.json`. It is all that serving needs.

Nothing in it is pickled.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mgray import __version__
from mgray.config import EvaluateConfig, ResolvedModelConfig
from mgray.data.dataset import Dataset
from mgray.data.inputs import InputSpec
from mgray.distributed import rank_and_world
from mgray.errors import InputError
from mgray.model.ensemble import Model, make_model
from mgray.record import Record

WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.json"
VOCABULARY_FILE = "vocabulary.json"

# Share of the training events, the newest, whose counts rank items for a user without a known event. On
# MovieLens-100K's temporal split the newest events have 3 to 4 times the ndcg@10 of all events, over 7 days or 90.
POPULAR_SHARE = 0.1

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


@dataclass(frozen=True)
class Vocabulary:
    """The model's items; item `i` is at index `i - 1` of each list."""

    item_ids: list[str]
    titles: list[str]
    num_train_events: list[int]
    num_newest_events: list[int] | None = None  # among the newest POPULAR_SHARE; None in models of an earlier version

    @classmethod
    def of(cls, dataset: Dataset, include_valid: bool = False) -> "Vocabulary":
        """Count the newest events on rank 0, which reads the shards' times twice. Collective: call it on every rank.

        include_valid: whether the model trains on the validation part too.
        """
        rank, num_ranks = rank_and_world()
        counted = [dataset.newest_counts(POPULAR_SHARE, include_valid) if rank == 0 else None]
        if num_ranks > 1:
            dist.broadcast_object_list(counted)
        newest = counted[0]
        assert newest is not None, "rank 0 has counted"
        return cls(dataset.item_ids, dataset.titles, dataset.item_counts[1:].tolist(), newest[1:].tolist())

    @property
    def popularity(self) -> npt.NDArray[np.float64]:
        """Scores for an empty history, [V + 1]: an item's newest events, ties by all of them; 0 at padding."""
        counts = np.asarray([0, *self.num_train_events], dtype=np.float64)
        if self.num_newest_events is None:
            return counts
        found: npt.NDArray[np.float64] = np.asarray([0, *self.num_newest_events]) + counts / (counts.max() + 1)
        return found


def save_model(folder: Path, weights: dict[str, Tensor], info: ModelInfo, vocabulary: Vocabulary) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    (folder / MODEL_FILE).write_text(info.model_dump_json(indent=1))
    (folder / VOCABULARY_FILE).write_text(json.dumps(vars(vocabulary)))


def load_info(folder: str | Path) -> ModelInfo:
    """Read the description of a folder's model. Raises InputError where a file is missing, or of another version."""
    for name in (WEIGHTS_FILE, MODEL_FILE, VOCABULARY_FILE):
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
    lists = json.loads((folder / VOCABULARY_FILE).read_bytes())
    # Other versions have kept other lists beside these.
    vocabulary = Vocabulary(**{field.name: lists[field.name] for field in fields(Vocabulary) if field.name in lists})
    model = make_model(info.config, info.num_items, info.inputs)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.to(device).eval(), info, vocabulary
