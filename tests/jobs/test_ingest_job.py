"""jobs/ingest.py as a process, on a log in s3://: the dataset that the local disk gives, and what is shown of it."""

import gzip
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mgray.config import DataConfig
from mgray.data.manifest import Manifest, read_manifest
from pipelines.ingest.job import RANGE_BYTES, IngestResult, ingest
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
    """93,010 rows: 7 are duplicates, 2 of a short user, 1 unreadable; 93,000 are left, 310 of each user."""
    large = HEADER + "".join(row(number, NOTE) for number in range(EVENTS_LARGE))
    packed = [row(number) for number in range(EVENTS_LARGE, EVENTS_LARGE + EVENTS_PACKED)]
    packed += [row(number) for number in range(7)]
    packed += ["short,i1,1,1,\n", "short,i2,2,1,\n", "u1,,3,1,\n"]
    return {"a.csv.gz": gzip.compress((HEADER + "".join(packed)).encode()), "b.csv": large.encode()}


class Ingested(NamedTuple):
    line: dict[str, Any]  # the job's result line
    shown: str  # its stderr
    manifest: Manifest
    local: IngestResult  # the same files from the disk
    updates: list[tuple[str, int, int, str]]  # of that: what the live view is given


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
    updates: list[tuple[str, int, int, str]] = []
    local = ingest(
        DataConfig.model_validate({"source": str(log)} | SETTINGS),
        home / "local",
        lambda stage, done, total, detail="": updates.append((stage, done, total, detail)),
        range_bytes=RANGE_BYTES // 4,
    )
    return Ingested(line, done.stderr, read_manifest(line["dataset"]["path"]), local, updates)


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


def test_the_live_view_has_rate_and_time_left_by_stage(ingested: Ingested) -> None:
    steps: dict[str, list[tuple[int, int, str]]] = {}
    for stage, done, total, detail in ingested.updates:
        steps.setdefault(stage, []).append((done, total, detail))
    totals = {stage: of_stage[0][1] for stage, of_stage in steps.items()}
    counts = {"scan": 2, "read": 6, "items": 2, "clean": 2, "write": 2, "newest": 2}
    assert list(totals.items()) == list(counts.items())
    for stage, of_stage in steps.items():
        assert [done for done, _, _ in of_stage] == list(range(totals[stage] + 1))
        rate = r"[1-9][\d,]* rows/s  " if stage in ("read", "clean", "write") else ""
        for done, _, detail in of_stage[1:]:
            assert re.fullmatch(rate + (r"\d+ s left" if done < totals[stage] else ""), detail), (stage, detail)
    assert re.search(r"^read 3/3 [\d,]+ rows/s$", ingested.shown, re.MULTILINE), "a line where there is no terminal"


def test_the_table_at_the_end_has_every_figure(ingested: Ingested) -> None:
    lines = [" ".join(line.split()) for line in ingested.shown.splitlines()]
    for expected in (
        "rows read 93,010 of read",
        "dropped: duplicates 7 0.01%",
        "dropped: users with too few events 2 <0.01%",
        "quarantined 1 <0.01%",
        "written 93,000 99.99%",
        "users 300 median history 310",
        "items 101",
        "events: train 92,400 99.35%",
        "events: valid 300 0.32%",
        "events: test 300 0.32%",
    ):
        assert expected in lines
    table = "\n".join(lines)
    assert re.search(r"^dataset [\d.]+ [kM]B [\d.]+% of the log$", table, re.MULTILINE)
    stages = re.findall(r"^seconds: (\w+) \d+\.\d\d$", table, re.MULTILINE)
    assert stages == ["resolve", "scan", "read", "items", "clean", "vocabulary", "write", "newest"]
    assert re.search(r"^seconds \d+\.\d\d [\d,]+ rows/s$", table, re.MULTILINE)


def test_the_version_has_the_report_with_its_pictures(ingested: Ingested) -> None:
    path = Path(ingested.line["report"])
    assert path == Path(ingested.line["dataset"]["path"]) / "report.html"
    page = path.read_text(encoding="utf-8")
    assert ingested.manifest.fingerprint in page
    assert re.findall(r'<svg [^>]*aria-label="([^"]*)"', page) == [
        "Rows that were left out, by why",
        "Events over time",
        "Users by history length, and share of events by item popularity",
    ]
