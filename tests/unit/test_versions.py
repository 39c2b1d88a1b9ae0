"""pipelines.runtime.versions: what a staging folder that can be gone on with leaves, by how its job ended."""

import errno
from pathlib import Path

import pytest

from mgray.errors import InputError
from pipelines.runtime.versions import resumable_folder

KEY = "0123456789abcdef0123"
FULL = OSError(errno.ENOSPC, "No space left on device", "x.arrow")


def fail_in(out: Path, error: BaseException) -> None:
    with resumable_folder(out, KEY) as staging:
        assert staging.name == ".staging-0123456789abcdef"
        (staging / "work" / "hours.json").touch()
        raise error


@pytest.mark.parametrize("error", [InputError("yours"), FULL])
def test_what_the_user_must_mend_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(InputError, match=r"^yours$|^x.arrow: No space left on device; mend it, or set --data.out$"):
        fail_in(tmp_path, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("lost"), KeyboardInterrupt()])
def test_any_other_end_can_be_gone_on_from(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail_in(tmp_path, error)
    with resumable_folder(tmp_path, KEY) as staging:
        assert (staging / "work" / "hours.json").exists()
