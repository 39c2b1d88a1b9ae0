"""pipelines.ingest.job on a real local Ray: conservation, identity of versions, quarantine, and what a failure
leaves.
"""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from mgray.data.manifest import MANIFEST_FILE
from mgray.errors import InputError
from mgray.schema import QUARANTINE_SCHEMA

HEADER = "user_id,item_id,timestamp,rating\n"
GOOD = [
    f"u{user},i{(user * 7 + event) % 11},{event // 2},{event % 5 + 1}\n" for event in range(8) for user in range(20)
]


def write(path: Path, lines: list[str], header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "".join(lines))
    return path


def versions(out: Path) -> list[str]:
    """Files in a folder of dataset versions, without the staged events and locks that ingests keep there."""
    return sorted(path.name for path in out.iterdir() if path.name != ".staged")


def digests(result) -> list[str]:
    return [result.manifest.vocabulary.sha256, *(shard.sha256 for shard in result.manifest.shards)]


def test_every_row_is_accounted_for(tmp_path: Path, run_ingest: Callable) -> None:
    log = write(tmp_path / "log.csv", [*GOOD, GOOD[0], GOOD[5], "short,i1,1,1\n", "short,i2,2,1\n", "u1,,3,1\n", "\n"])
    result = run_ingest(log, max_quarantined_share=0.1)
    assert result.manifest.rows == {
        "read": 165,
        "written": 160,
        "dropped_duplicates": 2,
        "dropped_short_users": 2,
        "quarantined": 1,
    }
    assert (result.manifest.users, result.manifest.has_ratings, result.manifest.has_event_types) == (20, True, False)
    assert (result.manifest.first_timestamp, result.manifest.last_timestamp) == (0.0, 3.0)
    assert (result.manifest.train_events, result.manifest.valid_events, result.manifest.test_events) == (120, 20, 20)
    assert not result.reused


def test_the_same_log_is_the_same_version_anywhere(tmp_path: Path, run_ingest: Callable) -> None:
    first = run_ingest(write(tmp_path / "a" / "log.csv", GOOD), home=tmp_path / "home1")
    copy = write(tmp_path / "b" / "log.csv", GOOD)
    elsewhere = run_ingest(copy, home=tmp_path / "home2", range_bytes=500)
    assert elsewhere.manifest.fingerprint == first.manifest.fingerprint
    assert not elsewhere.reused

    again = run_ingest(copy, home=tmp_path / "home2")
    assert again.reused
    assert (again.path, again.manifest) == (elsewhere.path, elsewhere.manifest)
    # limits and places do not shape the data, so they make no version of their own
    assert run_ingest(copy, home=tmp_path / "home2", max_quarantined_share=0.5).reused
    assert run_ingest(copy, dataset=str(again.path)).manifest == again.manifest
    assert not run_ingest(copy, home=tmp_path / "home2", min_user_events=4).reused


def test_cuts_of_the_log_into_files_do_not_shape_the_data(tmp_path: Path, run_ingest: Callable) -> None:
    """The manifest names its sources, so fingerprints differ; the bytes of the data do not."""
    whole = run_ingest(write(tmp_path / "log.csv", GOOD))
    for index in range(3):
        write(tmp_path / "parts" / f"part-{index}.csv", GOOD[index * 50 : (index + 1) * 50 if index < 2 else None])
    parts = run_ingest(tmp_path / "parts", range_bytes=300)
    assert digests(parts) == digests(whole)
    assert [source.path for source in parts.manifest.sources] == ["part-0.csv", "part-1.csv", "part-2.csv"]


def test_formats_do_not_shape_the_data(tmp_path: Path, run_ingest: Callable) -> None:
    whole = run_ingest(write(tmp_path / "log.csv", GOOD))
    table = pl.read_csv(tmp_path / "log.csv")
    table.write_parquet(tmp_path / "log.parquet", row_group_size=30)
    table.write_ndjson(tmp_path / "log.jsonl")
    iso = pl.from_epoch("timestamp").dt.to_string("%Y-%m-%dT%H:%M:%SZ")
    table.with_columns(iso).write_csv(tmp_path / "log.tsv", separator="\t")
    for name in ("log.parquet", "log.jsonl", "log.tsv"):
        assert digests(run_ingest(tmp_path / name, range_bytes=1000)) == digests(whole), name


def test_titles_reach_the_vocabulary(tmp_path: Path, run_ingest: Callable) -> None:
    log = write(tmp_path / "log.csv", GOOD)
    untitled = run_ingest(log)
    (tmp_path / "items.csv").write_text('item_id,title\ni3,"Three, (1995)"\n')
    titled = run_ingest(log, items=str(tmp_path / "items.csv"))
    rows = pq.read_table(titled.path / titled.manifest.vocabulary.file).to_pylist()
    assert {row["item_id"]: row["title"] for row in rows if row["title"]} == {"i3": "Three, (1995)"}
    assert titled.manifest.ingest_key != untitled.manifest.ingest_key


BAD = ["u1,i1,soon,1\n", ",i1,1,1\n", "u1,i1\n", "u1,i1,1,x\n"]


def test_bad_rows_go_to_quarantine(tmp_path: Path, run_ingest: Callable) -> None:
    write(tmp_path / "log" / "a.csv", [*GOOD[:50], BAD[0], *GOOD[50:100], BAD[1]])
    write(tmp_path / "log" / "b.csv", [*GOOD[100:], BAD[2], BAD[3]])
    result = run_ingest(tmp_path / "log", range_bytes=200, max_quarantined_share=0.05)
    table = pq.read_table(result.path / result.manifest.quarantine_file)
    assert table.schema == QUARANTINE_SCHEMA
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a.csv", 52, "timestamp 'soon' is neither seconds since 1970 nor ISO 8601", "u1,i1,soon,1"),
        ("a.csv", 103, "user_id is empty", ",i1,1,1"),
        ("b.csv", 62, "2 fields where the header names 4", "u1,i1"),
        ("b.csv", 63, "rating 'x' is not a number", "u1,i1,1,x"),
    ]
    assert result.manifest.rows["quarantined"] == 4
    assert digests(result) == digests(run_ingest(write(tmp_path / "log.csv", GOOD)))

    # a version that a laxer limit let through does not pass a stricter one by being there
    with pytest.raises(InputError, match="4 of 164 rows cannot be read"):
        run_ingest(tmp_path / "log")


def test_a_failed_ingest_leaves_what_was_committed(tmp_path: Path, run_ingest: Callable) -> None:
    log = tmp_path / "log.csv"
    earlier = run_ingest(write(log, GOOD))
    before = {path: path.read_bytes() for path in earlier.path.rglob("*") if path.is_file()}
    write(log, [*GOOD, BAD[0]])
    with pytest.raises(InputError) as caught:
        run_ingest(log)
    assert str(caught.value) == (
        "1 of 161 rows cannot be read, more than data.max_quarantined_share allows (0.0); "
        "the first: log.csv, line 162: timestamp 'soon' is neither seconds since 1970 "
        "nor ISO 8601; mend the row, or set them aside with --data.max_quarantined_share SHARE"
    )
    assert {path: path.read_bytes() for path in earlier.path.rglob("*") if path.is_file()} == before
    assert versions(earlier.path.parent) == [earlier.path.name]


def test_a_damaged_version_is_made_again(tmp_path: Path, run_ingest: Callable) -> None:
    log = write(tmp_path / "log.csv", GOOD)
    first = run_ingest(log)
    (first.path / first.manifest.shards[0].file).unlink()
    second = run_ingest(log)
    assert not second.reused
    assert second.manifest.fingerprint == first.manifest.fingerprint
    (first.path / MANIFEST_FILE).unlink()
    assert not run_ingest(log).reused
    assert run_ingest(log).reused
    assert versions(first.path.parent) == [first.path.name]


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        ([], {}, "the log is empty (no rows)"),
        (GOOD[:40], {}, "no user has 3 events or more (40 readable events)"),
        (GOOD, {"split": "temporal", "test_from": 99.0}, "leave the test part empty; the log runs from 0.0 to 3.0"),
        (GOOD, {"split": "temporal", "valid_from": -5.0}, "leave the train part empty"),
        (["u,i,1,1\n"] * 20, {"split": "temporal"}, "valid_from (1.0) is not before test_from (1.0)"),
        (BAD, {"max_quarantined_share": 1.0}, "no user has 3 events or more (0 readable events)"),
    ],
)
def test_logs_that_make_no_dataset(
    tmp_path: Path, run_ingest: Callable, lines: list[str], settings: dict, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        run_ingest(write(tmp_path / "log.csv", lines), **settings)
    assert message in str(caught.value)
    assert versions(tmp_path / "home" / "datasets") == []


def test_an_output_place_that_cannot_be_written(tmp_path: Path, run_ingest: Callable) -> None:
    log = write(tmp_path / "log.csv", GOOD)
    with pytest.raises(InputError, match=r"cannot be written.*--data.out"):
        run_ingest(log, out=str(log / "datasets"))


def test_an_unreadable_file_is_told_without_a_traceback(tmp_path: Path, run_ingest: Callable) -> None:
    log = write(tmp_path / "log.csv", GOOD)
    pl.read_csv(log).write_parquet(tmp_path / "log.parquet", compression="uncompressed")
    data = bytearray((tmp_path / "log.parquet").read_bytes())
    data[4:200] = b"\xff" * 196  # the pages, not the footer: only reading the rows finds it
    (tmp_path / "log.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"log.parquet: cannot be read"):
        run_ingest(tmp_path / "log.parquet")
    shutil.rmtree(tmp_path / "home" / "datasets")


def test_temporal_users_may_have_no_training_part(tmp_path: Path, run_ingest: Callable) -> None:
    late = [f"late,i1,{moment},1\n" for moment in (90, 91, 92)]
    log = write(tmp_path / "log.csv", [*GOOD, *late])
    result = run_ingest(log, split="temporal", valid_from=2.0, test_from=3.0, num_shards=1)
    (row,) = [
        row
        for row in pq.read_table(result.path / result.manifest.shards[0].file).to_pylist()
        if row["user_id"] == "late"
    ]
    assert (row["train_end"], row["valid_end"]) == (0, 0)


FULL = OSError(errno.ENOSPC, "No space left on device", "x.arrow")
LOST = OSError(errno.ESTALE, "Stale file handle", "x.arrow")


@pytest.mark.parametrize("error", [FULL, InputError("yours to mend"), LOST, RuntimeError("a bug")])
def test_a_failure_midway(
    tmp_path: Path, run_ingest: Callable, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A user error leaves nothing; after any other end the same command goes on, as after a kill."""

    def fail(*args: object) -> None:
        raise error

    log, out = write(tmp_path / "log.csv", GOOD), tmp_path / "home" / "datasets"
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.ingest.build.build_vocabulary", fail)
        with pytest.raises((InputError, OSError, RuntimeError), match=r"x.arrow: No.*--data.out|yours|Stale|a bug"):
            run_ingest(log)
    assert list(out.glob("*/manifest.json")) == []
    if error is FULL or isinstance(error, InputError):
        assert versions(out) == []
        return
    (staging,) = versions(out)
    (done,) = out.glob(f"{staging}/work/*/clean-000000.json")
    # only a run that takes this task's result as it is there can be misled by it
    done.write_text(done.read_text().replace('"read":', '"other":'))
    with pytest.raises(KeyError, match="read"):
        run_ingest(log)
    done.write_text(done.read_text().replace('"other":', '"read":'))
    version = run_ingest(log)
    assert versions(out) == [version.path.name]
    assert version.manifest.fingerprint == run_ingest(log, home=tmp_path / "undisturbed").manifest.fingerprint
