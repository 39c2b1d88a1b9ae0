"""jobs/ingest.py as a process, on a log in s3://: the dataset that the local disk gives."""

import gzip
from typing import Any, NamedTuple

import pytest

from mgray.config import DataConfig
from mgray.manifest import Manifest, read_manifest
from pipelines.ingest import RANGE_BYTES, IngestResult, ingest
from tests import s3_storage
from tests.jobs.processes import result_line, run_job_process

HEADER = "user_id,item_id,timestamp,rating,note\n"
USERS, ITEMS, EVENTS_LARGE, EVENTS_PACKED = 300, 101, 90_000, 3_000
# Quoted, with what looks like rows: a cut that took its newlines for a row's end would find more events.
NOTE = '"' + "\n".join(f'said ""{n}"",\nu{n},i{n},{n},1,' for n in range(15)) + '"'
SETTINGS = {"num_shards": 2, "max_quarantined_share": 0.01}


def row(number: int, note: str = "") -> str:
    return f"u{number % USERS},i{number * 7 % ITEMS},{number},{number % 5 + 1},{note}\n"


def make_log() -> dict[str, bytes]:
    """Of 93,010 rows 7 are duplicates, 2 of a short user, 1 unreadable; 93,000 are left, 310 of each user."""
    large = HEADER + "".join(row(number, NOTE) for number in range(EVENTS_LARGE))
    packed = [row(number) for number in range(EVENTS_LARGE, EVENTS_LARGE + EVENTS_PACKED)]
    packed += [row(number) for number in range(7)]
    packed += ["short,i1,1,1,\n", "short,i2,2,1,\n", "u1,,3,1,\n"]
    return {"a.csv.gz": gzip.compress((HEADER + "".join(packed)).encode()), "b.csv": large.encode()}


class Ingested(NamedTuple):
    line: dict[str, Any]  # the job's result line
    manifest: Manifest
    local: IngestResult  # the same files from the disk


@pytest.fixture(scope="module")
def ingested(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    home, log = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("log")
    files = make_log()
    assert len(files["b.csv"]) > RANGE_BYTES
    settings = [part for name, value in SETTINGS.items() for part in (f"--data.{name}", str(value))]
    with s3_storage.serve("ingested", {f"log/{name}": data for name, data in files.items()}) as url:
        done = run_job_process(
            "ingest",
            *f"--home {home} --data.source s3://ingested/log".split(),
            *settings,
            AWS_ENDPOINT_URL=url,
            RAY_ADDRESS="local",
            **s3_storage.KEYS,
        )
    assert done.code == 0, done
    line = result_line(done.stdout)
    for name, data in files.items():
        (log / name).write_bytes(data)
    local = ingest(
        DataConfig.model_validate({"source": str(log)} | SETTINGS),
        home / "local",
        range_bytes=RANGE_BYTES // 4,
    )
    return Ingested(line, read_manifest(line["dataset"]["path"]), local)


def test_s3_gives_the_dataset_that_the_disk_gives(ingested: Ingested) -> None:
    manifest = ingested.manifest
    assert ingested.line["dataset"]["fingerprint"] == manifest.fingerprint == ingested.local.manifest.fingerprint
    assert [source.path for source in manifest.sources] == ["a.csv.gz", "b.csv"]
    assert len(manifest.staged) == 3, "the packed file is read in one piece, the large one in two"
    assert len(ingested.local.manifest.staged) == 6, "and from the disk in five"
    assert ingested.line["rows"] == manifest.rows
    assert manifest.rows == {
        "read": 93_010,
        "written": 93_000,
        "dropped_duplicates": 7,
        "dropped_short_users": 2,
        "quarantined": 1,
    }
