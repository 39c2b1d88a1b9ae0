"""What a user of jobs/ingest.py can get wrong in the log and its settings: exit code 2, one line that says what to do,
and nothing committed. tests/jobs/test_bad_input.py has the cases that other jobs share.
"""

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from mgray.config import IngestJobConfig
from tests.jobs.processes import Done, error_of, run_job_process

HEADER = "user_id,item_id,timestamp,rating\n"
GOOD = "".join(f"u{user},i{event},{event},4\n" for event in range(4) for user in range(5))


def prepare(folder: Path) -> None:
    """Files of every case, below the test's own folder."""
    (folder / "log.csv").write_text(HEADER + GOOD)
    (folder / "log.jsonl").write_text('{"user_id": "u1", "item_id": "i1", "timestamp": 1}\n')
    (folder / "ml-latest").mkdir()
    (folder / "ml-latest" / "ratings.csv").write_text("userId,filmId,rating,timestamp\n1,1,1,1\n")
    # noise, for a cut must fall into the middle of the compressed rows
    draw = random.Random(0)
    rows = "".join(f"u{draw.randrange(10**9)},i{draw.randrange(10**9)},{n},1\n" for n in range(30_000))
    packed = gzip.compress((HEADER + rows).encode())
    (folder / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    pl.read_csv(folder / "log.csv").write_parquet(folder / "log.parquet")
    data = (folder / "log.parquet").read_bytes()
    (folder / "log.parquet").write_bytes(data[:-40] + b"\xff" * 36 + data[-4:])
    (folder / "empty").mkdir()
    for name in ("a.csv", "b.jsonl", "c.parquet"):
        (folder / "empty" / name).touch()
    (folder / "bad.csv").write_text(HEADER + GOOD + "u1,i9,soon,1\nu2,i9,9,x\n")


class Case(NamedTuple):
    """In options and phrases, {tmp} is the test's own folder."""

    name: str
    options: str
    says: tuple[str, ...]


CASES = [
    Case(
        "feature_column_missing",
        "--data.source {tmp}/log.csv --data.columns.features [rating,price]",
        (
            "{tmp}/log.csv: no column 'price'; columns found: user_id, item_id, timestamp, rating",
            "name the log's own columns of numbers in data.columns.features",
        ),
    ),
    Case(
        "column_of_a_known_log_missing",
        "--data.source {tmp}/ml-latest/ratings.csv",
        (
            "ratings.csv: no column 'user_id'; columns found: userId, filmId, rating, timestamp",
            "--data.columns.user_id",
        ),
    ),
    Case(
        "header_of_json_lines",
        "--data.source {tmp}/log.jsonl --data.columns.header [user_id,item_id,timestamp]",
        ("{tmp}/log.jsonl: data.columns.header names the columns of logs without a header line", "leave it out"),
    ),
    Case(
        "header_without_a_needed_column",
        "--data.source {tmp}/log.csv --data.columns.header [user_id,item_id,when]",
        (
            "{tmp}/log.csv: no column 'timestamp'; columns found: user_id, item_id, when",
            "--data.columns.timestamp NAME",
        ),
    ),
    Case(
        "forget_file_missing",
        "--data.source {tmp}/log.csv --data.privacy.forget {tmp}/none.txt",
        ("data.privacy.forget {tmp}/none.txt", "No such file or directory", "give a text file of user ids"),
    ),
    Case("gzip_cut_short", "--data.source {tmp}/cut.csv.gz", ("{tmp}/cut.csv.gz: cannot be read", "mend or remove")),
    Case(
        "parquet_footer_broken",
        "--data.source {tmp}/log.parquet",
        ("{tmp}/log.parquet: not readable as parquet: its footer is not valid", "mend or remove the file"),
    ),
    Case("only_empty_files", "--data.source {tmp}/empty", ("{tmp}/empty: the log is empty (no bytes)", "with events")),
    Case(
        "more_bad_rows_than_allowed",
        "--data.source {tmp}/bad.csv --data.max_quarantined_share 0.09",
        (
            "2 of 22 rows cannot be read, more than data.max_quarantined_share allows (0.09)",
            "bad.csv, line 22: timestamp 'soon'",
            "mend the row, or set them aside with --data.max_quarantined_share",
        ),
    ),
    Case(
        "rules_that_leave_nothing",
        "--data.source {tmp}/log.csv --data.clean.min_item_events 99",
        ("{tmp}/log.csv: no user has 3 events or more (20 readable events)",),
    ),
]


def run_here(argv: str, capsys: pytest.CaptureFixture[str]) -> Done:
    from pipelines.ingest.job import run_ingest
    from pipelines.runtime.job import run_job

    capsys.readouterr()
    code = run_job("ingest", IngestJobConfig, run_ingest, argv.split())
    printed = capsys.readouterr()
    return Done(code, printed.out, printed.err)


def check(done: Done, *says: str) -> None:
    error = error_of(done)
    assert done.stderr.rstrip().splitlines()[-1] == f"error: {error}"
    for phrase in says:
        assert phrase in error


def committed(home: Path) -> list[Path]:
    return sorted(home.glob("datasets/*/manifest.json"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input(case: Case, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path)
    done = run_here(f"--home {tmp_path}/home --data.num_shards 1 {case.options}".format(tmp=tmp_path), capsys)
    check(done, *(phrase.format(tmp=tmp_path) for phrase in case.says))
    assert committed(tmp_path / "home") == []


def test_append_to_a_file_that_changed(
    tmp_path: Path, run_ingest: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.csv").write_text(HEADER + GOOD)
    run_ingest(tmp_path / "log", num_shards=1)
    before = committed(tmp_path / "home")
    (tmp_path / "log" / "a.csv").write_text(HEADER + GOOD + "u1,i1,9,1\n")
    done = run_here(f"--home {tmp_path}/home --data.source {tmp_path}/log --append true", capsys)
    check(done, f"{tmp_path}/log/a.csv: changed since it was ingested into", "put new events into a file of their own")
    assert committed(tmp_path / "home") == before


def test_a_bucket_that_does_not_answer(tmp_path: Path) -> None:
    """A process: it must end by itself, and soon."""
    done = run_job_process(
        "ingest",
        *f"--home {tmp_path}/home --data.source s3://bucket/log".split(),
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="id",
        AWS_SECRET_ACCESS_KEY="secret",
        RAY_ADDRESS="local",
    )
    check(done, "--data.source s3://bucket/log: cannot be listed", "check the name, the endpoint, the network")
    assert committed(tmp_path / "home") == []
