"""Training checkpoints on disk: safetensors weights and JSON, nothing pickled.

A checkpoint holds a model folder for the best model so far, and beside it weights, optimizer state and progress of the
latest step: resume needs nothing else, since order, negatives and dropout are drawn from (seed, step).
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mgray.serve.model_folder import WEIGHTS_FILE
from mgray.train.item_table import ItemTables
from mgray.train.optim import WeightAverage
from mgray.train.run_result import CurvePoint
from mgray.train.trainer import Progress

OPTIMIZER_FILE = "optimizer.safetensors"
TABLES_FILE = "item_tables.safetensors"  # their moments; only where they are trained by rows
AVERAGE_FILE = "average.safetensors"  # only with train.ema_decay
STATE_FILE = "state.json"
BEST_FOLDER = "best"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def replace_folder(draft: Path, folder: Path) -> None:
    """Put a folder that is written whole in another's place; a kill leaves one that `recover_folder` finds.

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
    """End what `replace_folder` had begun when it was killed. The new folder was whole before the old one moved."""
    new = folder.with_name(f"{folder.name}.new")
    if new.is_dir() and not folder.exists():
        new.rename(folder)


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    curve: Sequence[CurvePoint],
    average: WeightAverage | None = None,
    tables: ItemTables | None = None,
) -> None:
    """Write the latest step: weights, their average, optimizer state, progress, and the curve so far.

    Tables that are behind catch up, by which the weights of this rank change in their last digits: after a validation
    none is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tables:
        save_file({name: tensor.cpu() for name, tensor in tables.state().items()}, folder / TABLES_FILE)
    save_file(_tensors(model), folder / WEIGHTS_FILE)
    if average is not None:
        save_file({name: tensor.cpu().contiguous() for name, tensor in average.state.items()}, folder / AVERAGE_FILE)
    moments = {
        f"{index}.{name}": torch.as_tensor(value).cpu().contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    save_file(moments, folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_text(
        json.dumps({"progress": asdict(progress), "curve": [point.model_dump() for point in curve]})
    )


def restore_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
    tables: ItemTables | None = None,
) -> tuple[Progress, list[CurvePoint]]:
    """Fill model, optimizer, average and tables in place; return the progress and the curve so far."""
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    if average is not None:
        average.load(load_file(folder / AVERAGE_FILE))
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / OPTIMIZER_FILE).items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    state = json.loads((folder / STATE_FILE).read_text())
    progress = Progress(**state["progress"])
    if tables:
        tables.load(load_file(folder / TABLES_FILE), progress.step)
    return progress, [CurvePoint(**point) for point in state["curve"]]
