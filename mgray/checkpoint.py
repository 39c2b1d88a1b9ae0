"""Models and training states on disk: safetensors weights and JSON, nothing pickled.

A model folder holds `weights.safetensors`, `model.json` and `vocabulary.json`, and is all that serving needs.
A training checkpoint holds the same folder for the best model so far, and weights, optimizer state and progress of
the latest step beside it: resume needs nothing else, since order, negatives and dropout are drawn from (seed, step).
"""

import json
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mgray import __version__
from mgray.config import EvaluateConfig, ModelConfig, TrainJobConfig
from mgray.data_rules import resolve_model
from mgray.dataset import Dataset
from mgray.distributed import rank_and_world
from mgray.engine import Progress
from mgray.ensemble import Model, make_model
from mgray.errors import InputError
from mgray.inputs import InputSpec
from mgray.objective import resolve_exclude_seen
from mgray.optim import WeightAverage

WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.json"
VOCABULARY_FILE = "vocabulary.json"
OPTIMIZER_FILE = "optimizer.safetensors"
AVERAGE_FILE = "average.safetensors"  # only with train.ema_decay
STATE_FILE = "state.json"
BEST_FOLDER = "best"


# Of all events to train on, those that say what is popular now, for a user of whom nothing is known: on
# MovieLens-100K's split in time the newest have 3 to 4 times the ndcg@10 of all, be they those of 7 days or of 90.
POPULAR_SHARE = 0.1

SEEN_CAUTION = (
    "It never learned to rank low what the user has (train.exclude_seen): with remove_seen false, that comes first"
)


class ModelInfo(BaseModel):
    """What a model is and what it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: ModelConfig
    num_items: int
    max_length: int  # events of a history that are read
    dataset_fingerprint: str
    inputs: InputSpec = InputSpec()
    remove_seen: bool = True  # what it was measured with, and does unless told otherwise
    include_valid: bool = False  # whether it trained on the dataset's validation part too
    exclude_seen: bool = False  # whether it never learned to rank low what the user has
    mgray_version: str = __version__

    @classmethod
    def of(cls, dataset: Dataset, config: TrainJobConfig) -> "ModelInfo":
        """Of the model that a training of `config` makes of the dataset. Raises InputError as `resolve_model`."""
        model = resolve_model(config.model, dataset.manifest)
        return cls(
            config=model,
            num_items=dataset.num_items,
            max_length=config.train.max_length,
            dataset_fingerprint=dataset.manifest.fingerprint,
            inputs=dataset.input_spec(model),
            remove_seen=config.evaluate.remove_seen,
            include_valid=config.train.include_valid,
            exclude_seen=resolve_exclude_seen(config.train, config.evaluate.remove_seen),
        )

    def as_measured(self, config: EvaluateConfig) -> EvaluateConfig:
        """`remove_seen`, where the config does not say it, as the model was measured when it was trained."""
        if "remove_seen" in config.model_fields_set:
            return config
        return config.model_copy(update={"remove_seen": self.remove_seen})

    def caution(self, remove_seen: bool) -> str | None:
        """What to say where the model's lists are to be made with this `remove_seen`; None: nothing."""
        if remove_seen or not self.exclude_seen:
            return None
        return SEEN_CAUTION


@dataclass(frozen=True)
class Vocabulary:
    """What the model knows of each item; item `i` is at index `i - 1` of each list."""

    item_ids: list[str]
    titles: list[str]
    num_train_events: list[int]
    num_newest_events: list[int] | None = None  # among the newest POPULAR_SHARE; none: of a model of an earlier version

    @classmethod
    def of(cls, dataset: Dataset, include_valid: bool = False) -> "Vocabulary":
        """Reads the shards' times, twice: rank 0 for all of its process group. include_valid: as the model trains."""
        rank, num_ranks = rank_and_world()
        counted = [dataset.newest_counts(POPULAR_SHARE, include_valid) if rank == 0 else None]
        if num_ranks > 1:
            dist.broadcast_object_list(counted)
        newest = counted[0]
        assert newest is not None, "by rank 0"
        return cls(dataset.item_ids, dataset.titles, dataset.item_counts[1:].tolist(), newest[1:].tolist())

    @property
    def popularity(self) -> npt.NDArray[np.float64]:
        """What an empty history is ranked by, [V + 1]: an item's newest events, ties by all of them; 0 at padding."""
        counts = np.asarray([0, *self.num_train_events], dtype=np.float64)
        if self.num_newest_events is None:
            return counts
        return np.asarray([0, *self.num_newest_events]) + counts / (counts.max() + 1)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def save_model(folder: Path, weights: dict[str, Tensor], info: ModelInfo, vocabulary: Vocabulary) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    (folder / MODEL_FILE).write_text(info.model_dump_json(indent=1))
    (folder / VOCABULARY_FILE).write_text(json.dumps(vars(vocabulary)))


def load_info(folder: str | Path) -> ModelInfo:
    """What the model of a folder is. Raises InputError where a file of it is missing, or of another version."""
    for name in (WEIGHTS_FILE, MODEL_FILE, VOCABULARY_FILE):
        if not (Path(folder) / name).is_file():
            raise InputError(f"{folder}: no {name}, so not an mgray model; give the folder that training wrote")
    return parse_info((Path(folder) / MODEL_FILE).read_bytes(), folder)


def parse_info(content: bytes, source: str | Path) -> ModelInfo:
    """Of a MODEL_FILE. Raises InputError, which names the source, where another version wrote it."""
    try:
        info = ModelInfo.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{source}: {MODEL_FILE} is not of a model that mgray {__version__} reads ({error.error_count()} errors, "
            f"the first: {error.errors()[0]['msg']}); train it anew, or use the version that wrote it"
        ) from error
    if info.config.norm != "auto":
        return info
    # Of a version that had layer normalization alone and did not name it.
    return info.model_copy(update={"config": info.config.model_copy(update={"norm": "layer"})})


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


def replace_folder(draft: Path, folder: Path) -> None:
    """Puts a folder that is written whole in another's place; a kill leaves one that `recover_folder` finds.

    draft: beside `folder`, under any name.
    """
    new, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    draft.rename(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Ends what `replace_folder` had begun when it was killed. The new folder was whole before the old one moved."""
    new = folder.with_name(f"{folder.name}.new")
    if new.is_dir() and not folder.exists():
        new.rename(folder)


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    curve: list[dict[str, Any]],
    average: WeightAverage | None = None,
) -> None:
    """The latest step: weights, their average, optimizer state, progress, and the curve so far."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(model), folder / WEIGHTS_FILE)
    if average is not None:
        save_file({name: tensor.cpu().contiguous() for name, tensor in average.state.items()}, folder / AVERAGE_FILE)
    moments = {
        f"{index}.{name}": torch.as_tensor(value).cpu().contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    save_file(moments, folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_text(json.dumps({"progress": asdict(progress), "curve": curve}))


def restore_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
) -> tuple[Progress, list[Any]]:
    """Fill model, optimizer and average in place; gives the progress and the curve so far."""
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    if average is not None:
        average.load(load_file(folder / AVERAGE_FILE))
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / OPTIMIZER_FILE).items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    state = json.loads((folder / STATE_FILE).read_text())
    return Progress(**state["progress"]), state["curve"]
