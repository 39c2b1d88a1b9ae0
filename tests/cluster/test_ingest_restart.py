"""kill -9 of a running ingest: nothing that was committed is lost, and the same command goes on where it was.

Three kills at moments that the files tell, in one chain; benchmarks/ingest_kills.py does 20 at random ones.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks._kills import RANGE_BYTES, Job, staged_units, write_log
from mgray.config import IngestJobConfig
from mgray.data.dataset import Dataset
from tests.jobs.processes import result_line

NUM_ROWS = 300_000


@contextmanager
def job_of(*given: object) -> Iterator[Job]:
    job = Job(*given)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)
        job.end()
        assert job.family() == []


def test_kills(tmp_path: Path, run_ingest: Callable) -> None:
    home = tmp_path / "home"
    out = home / "datasets"
    earlier = run_ingest(write_log(tmp_path / "small", 600), home=home)
    bytes_before = {path: path.read_bytes() for path in earlier.path.iterdir()}
    log = write_log(tmp_path / "log", NUM_ROWS)
    undisturbed = run_ingest(log, home=tmp_path / "other", range_bytes=RANGE_BYTES, num_shards=8)

    def check_earlier() -> None:
        assert {path: path.read_bytes() for path in earlier.path.iterdir()} == bytes_before
        dataset = Dataset(earlier.path)
        assert sum(len(dataset.read(shard).columns) for shard in range(dataset.num_shards)) == 600
        assert [path.parent.name for path in out.glob("*/manifest.json") if path.parent.name[0] != "."] == [
            earlier.path.name
        ]

    def count(pattern: str) -> int:
        return len(list(out.glob(pattern)))

    with job_of(home, log) as job:
        assert job.wait_until(lambda: len(staged_units(out)) >= 8)
        assert job.kill("driver")
        assert job.end() == -signal.SIGKILL
    check_earlier()
    units = staged_units(out)
    assert 8 <= len(units) < len(undisturbed.manifest.staged) + len(earlier.manifest.staged), "the kill came midway"

    with job_of(home, log) as job:
        assert job.wait_until(lambda: count(".staging-*/work/*/clean-*.json") >= 2)
        assert job.kill("raylet")
        assert job.end() != 0
    check_earlier()
    more = staged_units(out)
    assert {key: more[key] for key in units} == units, "what was staged is not read again"

    with job_of(home, log) as job:
        assert job.kill("worker")
        assert job.end() == 0, job.stderr.read_text()
        line = result_line(job.stdout.read_text())
    assert line["dataset"]["fingerprint"] == undisturbed.manifest.fingerprint
    assert staged_units(out) == more
    dataset = Dataset(line["dataset"]["path"])
    assert {path.name for path in dataset.folder.iterdir()} == {"manifest.json", *dataset.manifest.files()}
    assert sum(len(dataset.read(shard).columns) for shard in range(dataset.num_shards)) == NUM_ROWS
    assert count(".staging-*") == 0


def test_of_two_at_once_one_works_and_one_waits(
    tmp_path: Path, run_ingest: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.ingest import job as ingest
    from pipelines.runtime.job import run_job

    home = tmp_path / "home"
    log = write_log(tmp_path / "log", 30_000)
    argv = ["--home", str(home), "--data.source", str(log), "--data.num_shards", "8"]
    codes: list[int] = []
    waiting = threading.Thread(
        target=lambda: codes.append(run_job("ingest", IngestJobConfig, ingest.run_ingest, argv)), daemon=True
    )
    printed = ""
    with job_of(home, log) as job:
        assert job.wait_until(lambda: any((home / "datasets" / ".staged").glob("*.lock")))
        job.process.send_signal(signal.SIGSTOP)  # so that the other surely finds it at work
        capsys.readouterr()
        waiting.start()
        deadline = time.monotonic() + 60
        while "another ingest of this log runs already" not in printed and time.monotonic() < deadline:
            time.sleep(0.02)
            printed += capsys.readouterr().err
        assert f"another ingest of this log runs already (process {job.process.pid} on " in printed
        assert "Traceback" not in printed
        job.process.send_signal(signal.SIGCONT)
        assert job.end() == 0, job.stderr.read_text()
        line = result_line(job.stdout.read_text())
    waiting.join(60)
    assert codes == [0]
    other = result_line(capsys.readouterr().out)
    assert not line["dataset"]["reused"]
    assert other["dataset"] == line["dataset"] | {"reused": True}
    assert [path.parent.name for path in (home / "datasets").glob("*/manifest.json")] == [
        Path(line["dataset"]["path"]).name
    ]


def test_a_killed_ingests_lock_is_taken_over(tmp_path: Path, run_ingest: Callable) -> None:
    """And the drafts of its tasks, which nobody renamed, do not reach the version."""
    log = write_log(tmp_path / "log", 600)
    version = run_ingest(log)
    name, out = version.path.name, version.path.parent
    (out / f".staging-{name}" / "work").mkdir(parents=True)
    version.path.rename(tmp_path / "gone")
    (out / f".staging-{name}" / ".part-00000.0123").write_bytes(b"half a shard")
    lock = {"pid": 1, "host": os.uname().nodename, "process_started": 0.0, "locked_at": time.time()}
    (out / ".staged" / f"{name}.lock").write_text(json.dumps(lock))
    again = run_ingest(log)
    assert again.manifest.fingerprint == version.manifest.fingerprint
    assert {path.name for path in again.path.iterdir()} == {"manifest.json", *again.manifest.files()}
