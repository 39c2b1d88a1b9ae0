"""A checkpoint folder takes another's place, whatever moment a kill comes at."""

from pathlib import Path

import pytest

from mgray.checkpoint import recover_folder, replace_folder


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
