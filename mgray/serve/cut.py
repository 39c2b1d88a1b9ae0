"""Cuts a trained model to its first levels, without training, and writes the result as a model folder."""

import filecmp
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from mgray.errors import InputError
from mgray.model.ensemble import Model, num_parameters
from mgray.serve.model_folder import MEMORY_FILE, WEIGHTS_FILE, load_model, save_model


class Size(NamedTuple):
    levels: int
    parameters: int
    bytes: int  # of the weights on disk


class Exported(NamedTuple):
    was: Size
    now: Size


def export_cut(source: Path, num_levels: int, out: Path) -> Exported:
    """Write the model of folder `source`, cut to its first `num_levels` levels, to folder `out`.

    Memory keeps the numbers that were fitted beside all levels. `out` is made in one step. An `out` that holds the same
    files stays as it is. Raises InputError where it holds anything else, where the model has fewer levels, or where
    `source` is no model.
    """
    model, info, vocabulary = load_model(source, torch.device("cpu"))
    try:
        smaller = model.cut(num_levels)
    except ValueError as error:
        raise InputError(f"--levels: {error}") from error
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        draft = Path(temporary) / "model"
        save_model(draft, smaller.state_dict(), info.model_copy(update={"config": smaller.config}), vocabulary)
        if (source / MEMORY_FILE).is_file():
            shutil.copy2(source / MEMORY_FILE, draft / MEMORY_FILE)
        if not out.exists():
            draft.rename(out)
        elif not _are_same(draft, out):
            raise InputError(f"--out {out}: is there already, and is not this model; give a folder that is not")
    return Exported(_size(source, model), _size(out, smaller))


def _are_same(draft: Path, out: Path) -> bool:
    names = sorted(path.name for path in draft.iterdir())
    if not out.is_dir() or names != sorted(path.name for path in out.iterdir()):
        return False
    return not any(filecmp.cmpfiles(draft, out, names, shallow=False)[1:])


def measure(folder: Path) -> Size:
    """Size of the model of a folder. Raises InputError where it is none."""
    return _size(folder, load_model(folder, torch.device("cpu"))[0])


def _size(folder: Path, model: Model) -> Size:
    parameters = num_parameters(model)
    return Size(len(model.config.granularities), parameters, (folder / WEIGHTS_FILE).stat().st_size)
