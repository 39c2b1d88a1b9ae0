"""A checkpoint folder takes another's place, whatever moment a kill comes at; a model folder is read back."""

import json
from pathlib import Path

import pytest
import torch

from mgray.config import EvalJobConfig
from mgray.config.command_line import parse_args
from mgray.data.newest import POPULAR_SHARE
from mgray.errors import InputError
from mgray.model.mgdsc import MGDSC
from mgray.serve.model_folder import (
    MODEL_FILE,
    OLD_VOCABULARY_FILE,
    VOCABULARY_FILE,
    ModelInfo,
    Vocabulary,
    load_info,
    load_model,
    save_model,
)
from mgray.testing.synthetic import make_log
from mgray.train.checkpoint import recover_folder, replace_folder
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
    """The newest first, ties by all; a model of a version that did not keep it answers by its training events."""
    vocabulary = Vocabulary(["a", "b", "c"], ["a", "b", "c"], [9, 5, 7], [0, 2, 0])
    assert vocabulary.popularity.tolist() == pytest.approx([0, 0.9, 2.5, 0.7])
    info = ModelInfo(config=MODEL, num_items=3, max_length=9, dataset_fingerprint="test")
    save_model(tmp_path, MGDSC(MODEL, 3).state_dict(), info, vocabulary)
    assert Vocabulary.read(tmp_path).table().equals(vocabulary.table())
    (tmp_path / VOCABULARY_FILE).unlink()
    lists = {"item_ids": [*"abc"], "titles": ["A", "b", "c"], "num_train_events": [9, 5, 7]}
    lists["popular"] = [0.0, 2.0, 1.0]  # of a version that is passed over
    (tmp_path / OLD_VOCABULARY_FILE).write_text(json.dumps(lists))
    older = load_model(tmp_path, torch.device("cpu"))[2]
    assert older.popularity.tolist() == [0, 9, 5, 7]
    assert (list(older.item_ids), list(older.titles)) == ([*"abc"], ["A", "b", "c"])


def test_a_vocabulary_counts_the_newest_tenth(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "v", make_log(40, 10))
    newest = Vocabulary.of(dataset).num_newest_events
    assert sum(newest) == pytest.approx(dataset.manifest.train_events * POPULAR_SHARE, abs=2)


def test_a_model_of_another_version_is_one_clear_line(tmp_path: Path) -> None:
    info = ModelInfo(config=MODEL, num_items=3, max_length=9, dataset_fingerprint="test")
    save_model(tmp_path, MGDSC(MODEL, 3).state_dict(), info, Vocabulary(["a", "b", "c"], ["a", "b", "c"], [9, 5, 7]))
    path = tmp_path / MODEL_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"a_later_setting": 1}))
    with pytest.raises(InputError, match=r"is not of a model that mgray .* reads \(1 errors, .*; train it anew"):
        load_info(tmp_path)


def test_a_model_is_evaluated_as_it_was_measured() -> None:
    """By jobs/eval.py, where nothing else is said."""

    def removes_seen(measured: bool, *options: str) -> bool:
        info = ModelInfo(config=MODEL, num_items=3, max_length=9, dataset_fingerprint="test", remove_seen=measured)
        config = parse_args(EvalJobConfig, "eval", ["--model", "models:/m/1", "--evaluate.batch_events", "9", *options])
        return info.as_measured(config.evaluate).remove_seen

    assert removes_seen(True)
    assert not removes_seen(False)
    assert removes_seen(False, "--evaluate.remove_seen", "true")
    assert not removes_seen(True, "--evaluate.remove_seen", "false")
