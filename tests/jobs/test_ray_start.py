"""Places that Ray writes to when a job starts it. Root may write to any folder, so these lie below a file."""

from pathlib import Path

import pytest

from mgray.testing.synthetic import make_log
from tests.jobs.processes import error_of, run_job_process


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR", "HOME"])
def test_a_place_that_cannot_be_written_is_one_line(variable: str, tmp_path: Path) -> None:
    make_log(20, 12).write_csv(tmp_path / "log.csv")
    below = tmp_path / "log.csv" / "below"
    argv = [f"--home={tmp_path / 'home'}", f"--data.source={tmp_path / 'log.csv'}"]
    told = error_of(run_job_process("ingest", *argv, **{"RAY_ADDRESS": "local", variable: str(below)}))
    assert told.startswith("Ray cannot start on this machine: [Errno 20] Not a directory: ")
    assert str(below) in told
    assert "set RAY_TMPDIR or TMPDIR, and HOME, to folders with short paths that can be written" in told


def test_a_path_too_long_for_rays_sockets_is_one_line(tmp_path: Path) -> None:
    make_log(20, 12).write_csv(tmp_path / "log.csv")
    argv = [f"--home={tmp_path / 'home'}", f"--data.source={tmp_path / 'log.csv'}"]
    told = error_of(run_job_process("ingest", *argv, RAY_ADDRESS="local", RAY_TMPDIR=str(tmp_path / ("long" * 20))))
    assert "cannot exceed 107 bytes" in told
