"""A cut model on disk: loads as any model, answers as the cut one does, and says how small it is."""

from pathlib import Path

import pytest
import torch

from mgray.errors import InputError
from mgray.serve.cut import export_cut
from mgray.serve.model_folder import ModelInfo, Vocabulary, load_model, save_model
from tests.models import model_config
from tests.perturbed import NUM_ITEMS, make_inputs, make_model

CONFIG = model_config(width=8, heads=2, granularities=(1, 4, "1d"), kernel=(5, 3, 2), inputs=("time_gap",))
IDS = [f"i{number}" for number in range(1, NUM_ITEMS + 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    info = ModelInfo(config=CONFIG, num_items=NUM_ITEMS, max_length=50, dataset_fingerprint="test")
    save_model(tmp_path / "whole", make_model(CONFIG).state_dict(), info, Vocabulary(IDS, IDS, [1] * NUM_ITEMS))
    return tmp_path / "whole"


def test_the_folder_holds_the_cut_model(folder: Path) -> None:
    out = folder.parent / "cut"
    exported = export_cut(folder, 2, out)
    model, info, vocabulary = load_model(out, torch.device("cpu"))
    assert info.config.granularities == (1, 4)
    assert info.config.kernel == (5, 3)
    assert (info.max_length, vocabulary.item_ids) == (50, IDS)
    inputs = make_inputs(9)
    torch.testing.assert_close(model(inputs), make_model(CONFIG).cut(2)(inputs))
    assert exported.was.levels == 3
    assert exported.now.levels == 2
    assert exported.now.parameters == sum(p.numel() for p in model.parameters()) < exported.was.parameters
    assert exported.now.bytes == (out / "weights.safetensors").stat().st_size < exported.was.bytes
    assert {path.name for path in folder.parent.iterdir()} == {"whole", "cut"}


def test_what_cannot_be_exported_leaves_nothing(folder: Path) -> None:
    out = folder.parent / "cut"
    with pytest.raises(InputError, match="cannot keep 4 of 3 levels"):
        export_cut(folder, 4, out)
    with pytest.raises(InputError, match="no weights"):
        export_cut(folder.parent / "none", 1, out)
    assert not out.exists()
    with pytest.raises(InputError, match="is there already, and is not this model"):
        export_cut(folder, 1, folder)
    assert {path.name for path in folder.parent.iterdir()} == {"whole"}


def test_the_same_is_exported_once(folder: Path) -> None:
    """So that a registration which failed can be asked for again."""
    out = folder.parent / "cut"
    first = export_cut(folder, 2, out)
    written = out.stat().st_ino
    assert export_cut(folder, 2, out) == first
    assert out.stat().st_ino == written
    (out / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is not this model"):
        export_cut(folder, 2, out)
