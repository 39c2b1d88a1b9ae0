"""A checkpoint folder takes another's place, whatever moment a kill comes at; a model folder is read back."""

import json
from pathlib import Path

import pytest
import torch

from mgray.checkpoint import (
    VOCABULARY_FILE,
    ModelInfo,
    Vocabulary,
    load_model,
    recover_folder,
    replace_folder,
    save_model,
)
from mgray.model import MGDSC
from mgray.synthetic import make_log
from tests.datasets import write_dataset
from tests.models import MODEL


def write(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "state").write_text(text)
    return folder


@pytest.mark.parametrize("num_renames", range(4))
def test_a_kill_between_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    folder = write(tmp_path / "state", "earlier")
    draft = write(tmp_path / "draft", "new")
    rename, done = Path.rename, 0

    def killed(path: Path, target: Path) -> Path:
        nonlocal done
        if done == num_renames:
            raise KeyboardInterrupt
        done += 1
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        if num_renames < 3:
            with pytest.raises(KeyboardInterrupt):
                replace_folder(draft, folder)
        else:
            replace_folder(draft, folder)
    recover_folder(folder)
    assert (folder / "state").read_text() == ("earlier" if num_renames < 2 else "new")
    replace_folder(write(tmp_path / "next", "next"), folder)
    assert (folder / "state").read_text() == "next"
    assert {path.name for path in tmp_path.iterdir()} <= {"state", "draft"}


def test_the_first_one_replaces_nothing(tmp_path: Path) -> None:
    recover_folder(tmp_path / "state")
    assert not (tmp_path / "state").exists()
    replace_folder(write(tmp_path / "draft", "first"), tmp_path / "state")
    assert (tmp_path / "state" / "state").read_text() == "first"


def test_what_is_popular_goes_with_the_model(tmp_path: Path) -> None:
    """A model of a version that did not keep it answers an empty history by its training events."""
    dataset = write_dataset(tmp_path / "v", make_log(20, 10))
    vocabulary = Vocabulary.of(dataset)
    assert vocabulary.popularity.tolist() == dataset.popularity.tolist()
    info = ModelInfo(config=MODEL, num_items=dataset.num_items, max_length=9, dataset_fingerprint="test")
    save_model(tmp_path / "m", MGDSC(MODEL, dataset.num_items).state_dict(), info, vocabulary)
    path, device = tmp_path / "m" / VOCABULARY_FILE, torch.device("cpu")
    assert load_model(tmp_path / "m", device)[2].popularity.tolist() == dataset.popularity.tolist()
    written = json.loads(path.read_text())
    del written["popular"]
    path.write_text(json.dumps(written))
    assert load_model(tmp_path / "m", device)[2].popularity.tolist() == dataset.item_counts.tolist()
